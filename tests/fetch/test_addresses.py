"""The address files say what they must, and no other part of the project speaks HTTP."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlip.data.catalogue import readers
from mlip.errors import UserError
from mlip.fetch import addresses
from mlip.fetch.addresses import FOLDER, names, read_source
from mlip.study import load_study
from tests.conftest import ROOT

HTTP = {
    "requests",
    "urllib3",
    "urllib.request",
    "http.client",
    "httpx",
    "httpx2",
    "aiohttp",
    "ftplib",
    "pooch",
    "huggingface_hub",
}


def test_each_is_of_a_reader_and_says_what_it_does_not_know() -> None:
    assert names() == ["covid_chestxray", "iu_xray", "nih"]
    for name in names():
        source, reader = read_source(name), readers()[name]
        assert source.page == reader.access and source.known_from and source.licence.asks
        assert source.tried is None  # once somebody has: the date
        assert all(file.url.startswith("https://") for file in source.files)
        assert (
            len({file.name for file in source.files}) == len({file.url for file in source.files}) == len(source.files)
        )
        assert "could be tried" in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]


def test_the_folders_are_those_of_the_study_files() -> None:
    folders = {name: read_source(name).folder for name in names()}
    for study in ("open", "iu", "iu_transfer"):
        loaded = load_study(ROOT / "config" / f"{study}.yaml")
        assert {d.reader: d.root.name for d in loaded.datasets.values()}.items() <= folders.items()


def test_nih_has_its_twelve_archives_and_a_first_one() -> None:
    source = read_source("nih")
    archives = [file.name for file in source.files if file.unpack]
    assert archives == [f"images_{k:03d}.tar.gz" for k in range(1, 13)]
    assert [file.name for file in source.wanted(first=True) if file.unpack] == archives[:1]
    assert sum(file.size for file in source.files) == pytest.approx(45.1e9, rel=0.01)


@pytest.mark.parametrize("name", ["mimic_cxr", "chexpert", "rsna", "siim"])
def test_what_needs_an_agreement_is_not_fetched(name: str) -> None:
    with pytest.raises(UserError, match="is not fetched") as raised:
        read_source(name)
    assert raised.value.where == readers()[name].access


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"url": "ftp://a.example/f.tgz"}, r"files\.0\.url"),
        ({"url": "https://me:secret@a.example/f.tgz"}, r"files\.0\.url"),
        ({"sha256": "12"}, r"files\.0\.sha256"),
        ({"name": "../f.tgz"}, "is no plain name"),
        ({"unpack": {"size": 1, "take": {"*.png": "../*.png"}}}, "is no plain name"),
        ({"to": "f.tgz"}, "give either `unpack` or `to`"),
        ({"sze": 3}, "unknown key"),
        ({"size": 0}, r"files\.0\.size"),
    ],
)
def test_a_mistake_in_an_address_file_is_named(
    change: dict[str, Any], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = yaml.safe_load((FOLDER / "iu_xray.yaml").read_text(encoding="utf-8"))
    raw["files"][0] |= change
    (tmp_path / "iu_xray.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    monkeypatch.setattr(addresses, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=rf"iu_xray\.yaml: .*{problem}"):
        read_source("iu_xray")


def speaks_http(path: Path) -> set[str]:
    named: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {word for name in named for word in (name, name.split(".")[0]) if word in HTTP}


def test_nothing_else_speaks_http() -> None:
    files = [p for room in ("mlip", "benchmarks", "baselines") for p in (ROOT / room).rglob("*.py")]
    assert {p.relative_to(ROOT).as_posix() for p in files if speaks_http(p)} == {
        "mlip/fetch/download.py",
        "mlip/fetch/fetching.py",
        "mlip/run/card.py",  # for the text of a model card alone, see below
    }
    card = (ROOT / "mlip" / "run" / "card.py").read_text(encoding="utf-8")
    assert re.findall(r"huggingface_hub\b.*", card) == ["huggingface_hub import EvalResult, ModelCardData"]
    assert not re.search(r"push_to_hub|\.validate\(|\.load\(", card), "these ask the hub"
