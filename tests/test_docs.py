"""Every command, option, file, module, key and link that the documents name exists (``documents.py`` decides)."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from mlip.manifest import Manifest
from mlip.study import Study
from tests.conftest import ROOT
from tests.documents import LINK, all_keys, expand, inline, problems, shell_blocks, split, study_paths
from tests.ours import ours

DOCS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "config/README.md")]
DOCS += ours((ROOT / "docs").glob("*.md"))
DOCS += ours(p for parent in ("mlip", "baselines") for p in (ROOT / parent).glob("*/README.md"))


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_what_a_document_names_exists(path: Path) -> None:
    assert problems(path.read_text(encoding="utf-8"), path.parent) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("```\nmake tabels\n```", "tabels"),
        ("`make tables STUDY=twn`", "twn"),
        ("`make tables STUDIES=twin`", "STUDIES"),
        ("```sh\n$ mlip tables -s config/twin.yaml\n```", "no command tables"),
        ("```\nmlip doctor -s config/twin.yaml --jsn   # what is there\n```", "--jsn"),
        ("`python -m mlip run evaluate strict rsna`", "Missing"),
        ("`MLIP_STUDY=config/smoke.yaml python -m mlip run trains`", "trains"),
        ("`mlip run teach <row>`", "teach"),
        ("```\nsnakemake --cores 2 \\\n  --configs config/twin.yaml\n```", "--configs"),
        ("with `--use-condor`", "--use-condor"),
        ("`python -m benchmarks.spead`", "spead"),
        ('`python -c "from benchmarks.speed import stores"`', "stores"),
        ("`pytest tests/knowlege -s`", "knowlege"),
        ("```\nmlip check -s config/twins.yaml\n```", "config/twins.yaml"),
        ("see `mlip/data/siim.py`", "mlip/data/siim.py"),
        ("see `benchmarks/protocols/<task>/{strict,stricter}.yaml`", "stricter"),
        ("`work/<study>/checkpoints/<row>`", "no path"),
        ("`benchmarks.cells.tables`", "no such module"),
        ("`MLIP_SEED`", "MLIP_SEED"),
        ("`pretrain.sead`", "no such key"),
        ("`datasets.<name>.spilt`", "no such key"),
        ("[there](nowhere.md)", "nowhere.md"),
        ("[there](docs/study.md#keys-that-are-not)", "keys-that-are-not"),
    ],
)
def test_what_is_made_up_is_found(text: str, word: str) -> None:
    found = problems(text)
    assert found and word in " ".join(found)


def test_what_is_there_is_not_refused() -> None:
    text = """
    [keys](docs/study.md#what-an-edit-repeats) `pretrain.seeds` `datasets.<name>.split` `knowledge.json` `mlip.contract.Method` `--use-conda`
    `work/<study>/logs` `tests/workflow/edits.py` `mlip run` `mlip/run/stages/` `MLIP_GPU_JOBS=2` `python -m mlip run ...` `make`

```
mlip run evaluate linear_probe strict rsna convirt --seed 0 -s config/smoke.yaml
snakemake -n --cores all --config work=/scratch/w
```
"""
    assert problems(text) == []


def test_the_readme_is_read() -> None:
    lines = [
        words[0] for line in shell_blocks((ROOT / "README.md").read_text(encoding="utf-8")) if (words := split(line))
    ]
    assert {"make", "mlip", "snakemake"} <= set(lines)


def test_every_key_of_a_study_is_documented() -> None:
    spans = set(inline((ROOT / "docs" / "study.md").read_text(encoding="utf-8")))
    documented = {re.sub(r"<\w+>", "<>", span) for span in spans}
    assert sorted(set(all_keys(Study)) - documented) == []


def test_every_path_of_a_study_is_documented() -> None:
    text = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    grammar = text[text.index("## Path grammar") :].split("```")[1]
    written = {f"{path.rstrip('/')}/" for line in grammar.splitlines() for path in expand(re.split(r"\s{2,}", line)[0])}
    assert [path for path in study_paths().values() if not any(w.startswith(f"{path}/") for w in written)] == []


def test_every_key_of_a_method_is_documented() -> None:
    spans = inline((ROOT / "docs" / "adding-a-baseline.md").read_text(encoding="utf-8"))
    assert not set(Manifest.model_fields) - set(spans)


def test_the_floors_are_those_that_the_linter_holds() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    floors = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("| floor")[1].split("\n\n")[0]
    at = [[floors.find(f"`{room.strip().replace('.', '/')}") for room in layer.split("|")] for layer in layers]
    assert min(map(min, at)) > 0, "a room is missing in docs/architecture.md"
    assert all(max(above) < min(below) for above, below in pairwise(at))


def test_every_document_is_in_the_index() -> None:
    links = set(LINK.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8")))
    assert {p.name for p in ours((ROOT / "docs").glob("*.md"))} - links == {"index.md"}
