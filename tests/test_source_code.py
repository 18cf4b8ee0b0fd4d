"""Which code a result depends on: everything that is there is seen, and only what it says counts."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from mlip import source_code
from mlip.errors import UserError
from mlip.methods import method_folders
from mlip.source_code import LIBRARIES, WITHOUT_INFLUENCE, code_of, content_of, reached
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither this process's memory nor the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for function in (source_code._code_of, source_code._known, source_code._module):
        function.cache_clear()
    yield
    for function in (source_code._code_of, source_code._known, source_code._module):
        function.cache_clear()


def test_every_file_is_seen() -> None:
    """A folder without ``__init__.py`` would be left out of every fingerprint; only method folders are, which are read whole."""
    modules = source_code._graph().modules
    folders = set(method_folders().values())
    for package in ("mlip", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            if not folders & set(path.parents):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                assert name in modules, f"{path} is in no package"


def test_what_is_left_out_exists() -> None:
    assert reached(*WITHOUT_INFLUENCE) >= WITHOUT_INFLUENCE
    assert all(version(distribution) for distribution in LIBRARIES.values())


def test_a_stage_does_not_reach_the_plan_or_another_task() -> None:
    found = reached("mlip.run.stages.evaluate", "benchmarks.tasks.linear_probe")
    assert "benchmarks.tasks.shared.probes" in found and "scipy" in found
    assert not {
        m for m in found if m.startswith(("benchmarks.tasks.detection", "benchmarks.plan", "benchmarks.report"))
    }


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("x = 1\n", "# why\nx = 1  # so\n", True),
        ("x = 1\n", '"""What."""\nx = 1\n', True),
        ("def f():\n    return 1\n", 'def f():\n    """What."""\n\n    return 1\n', True),
        ("x = 1\n", "x = 2\n", False),
        ("def f(a=1): return a\n", "def f(a=2): return a\n", False),
        ('x = "a"\n', 'x = "b"\n', False),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(tmp_path: Path, old: str, new: str, same: bool) -> None:
    path = tmp_path / "a.py"
    path.write_text(old, encoding="utf-8")
    before = content_of(path)
    path.write_text(new, encoding="utf-8")
    assert (content_of(path) == before) == same


def test_yaml_counts_by_what_it_holds_and_other_files_by_their_bytes(tmp_path: Path) -> None:
    path, other = tmp_path / "a.yaml", tmp_path / "a.bin"
    path.write_text("a: 1\n", encoding="utf-8")
    other.write_bytes(b"1")
    before = content_of(path), content_of(other)
    path.write_text("# why\na:   1\n", encoding="utf-8")
    other.write_bytes(b"12")
    assert content_of(path) == before[0] and content_of(other) != before[1]


def test_a_file_that_does_not_parse_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("x = 1\ndef broken(:\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.py: is no valid Python \(.*, line 2\)"):
        content_of(path)


def test_another_version_of_a_library_is_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, store = (lambda: code_of(["mlip.pretraining.loop"])), (lambda: code_of(["mlip.data.store"]))
    before = loop(), store()
    monkeypatch.setattr(source_code, "version", lambda name: "99" if name == "torch" else version(name))
    source_code._code_of.cache_clear()
    assert loop() != before[0] and store() == before[1]


def test_a_method_depends_on_all_its_files_and_on_parts_it_takes_from_another(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "parts").mkdir(parents=True)
    (folder / "model.py").write_text("from mlip.losses.contrastive import info_nce\n", encoding="utf-8")
    (folder / "README.md").write_text("a", encoding="utf-8")

    def now() -> str:
        source_code._code_of.cache_clear()
        return code_of(["mlip.run.stages.pretrain"], [folder])

    first = now()
    (folder / "README.md").write_text("b", encoding="utf-8")
    assert now() == first
    (folder / "parts" / "table.csv").write_text("1", encoding="utf-8")
    second = now()
    assert second != first
    (folder / "model.py").write_text(
        "from mlip.losses.contrastive import info_nce\nfrom mlip.cvpr24.fusion import TuckerFusion\n", encoding="utf-8"
    )
    known, others = source_code._imported(folder / "model.py")
    assert "mlip.losses.contrastive" in known and others == [ROOT / "mlip" / "cvpr24"]
    assert now() != second


def test_what_was_found_out_is_kept_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("x = 1\n", encoding="utf-8")
    content_of(path)
    source_code.save_hashes()
    assert len(source_code._read_cache()) == 1
    source_code.remember_passed("a check")
    source_code.save_hashes()
    source_code._known.cache_clear()
    assert source_code.passed("a check") and not source_code.passed("another")
