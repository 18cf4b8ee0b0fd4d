"""Mistakes are named in one line, with the file and the fix, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.plan import resolve
from mlip.errors import UserError
from mlip.study import load_study, parse_study
from tests.conftest import ROOT
from tests.workflow.conftest import snakemake, write_config


def smoke_config() -> dict:
    return yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pretrian": {}}, ["pretrian", "unknown key"]),
        ({"image_size": "large"}, ["image_size"]),
        ({"tasks": {"linear_probe": {"datasets": ["rnsa"]}}}, ["rnsa", "does not define"]),
        ({"datasets": {"mimic": {"reader": "mimic_cxr"}}}, ["neither `root` nor `twin`"]),
    ],
)
def test_config_mistakes(change: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_study({**smoke_config(), **change}, where="my.yaml")
    text = str(caught.value)
    assert text.startswith("my.yaml") and "Fix:" in text and "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": {"include": ["convert"]}}, ["convert", "no such method folder"]),
        (
            {"methods": {"variants": {"x": {"method": "mgca", "params": {"temprature": 1}}}}},
            ["temprature", "unknown parameters"],
        ),
        ({"methods": {"variants": {"x": {"method": "isbi24", "encoder": "cnn"}}}}, ["cnn", "supports"]),
        ({"tasks": {"linear_prob": {"datasets": ["rsna"]}}}, ["linear_prob"]),
        ({"tasks": {"linear_probe": {"datasets": ["rsna"], "protocols": ["strct"]}}}, ["strct", "no protocol"]),
        ({"tasks": {"linear_probe": {"datasets": ["rsna"], "budget": {"epochz": 1}}}}, ["epochz"]),
        ({"tasks": {"linear_probe": {"datasets": ["rsna"], "budget": {"strict": {"epochz": 1}}}}}, ["epochz"]),
        ({"tasks": {"linear_probe": {"datasets": ["rsna"], "budget": {"strict": 1}}}}, ["a protocol's own budget"]),
        ({"tasks": {"linear_probe": {"datasets": ["rsna"], "budget": {"mgca-2022": {}}}}}, ["mgca-2022", "unknown"]),
        ({"tasks": {"linear_probe": {"datasets": ["mimic"]}}}, ["mimic"]),
    ],
)
def test_mistakes_in_references(change: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        resolve(parse_study({**smoke_config(), **change}, where="my.yaml"))
    text = str(caught.value)
    assert "Fix:" in text and "\n" not in text
    for word in words:
        assert word in text


def test_missing_data_root(tmp_path: Path) -> None:
    path = write_config(tmp_path / "open.yaml", base="open", data_root=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere") as caught:
        resolve(load_study(path))
    assert "Fix:" in str(caught.value)


def test_not_yaml_and_not_there(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1, 2\nb: }", encoding="utf-8")
    with pytest.raises(UserError, match=r"bad\.yaml"):
        load_study(bad)
    with pytest.raises(UserError, match=r"none\.yaml"):
        load_study(tmp_path / "none.yaml")


@pytest.mark.study
def test_snakemake_stops_with_one_line(tmp_path: Path) -> None:
    """The same mistake seen through Snakemake: no traceback, no job."""
    path = write_config(tmp_path / "typo.yaml", pretrian={"datasets": ["mimic"]})
    done = snakemake("--cores", "1", "--configfile", str(path), "-n", check=False)
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert "pretrian" in text and "Fix:" in text and "Traceback" not in text
