"""A checkpoint is a row by configuration: what a study says of it, what depends on it, and what the pages say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from benchmarks.plan import Plan, resolve
from benchmarks.report.build import build_tables
from mlip.data.audit import audit
from mlip.data.sources import comes_from, is_known
from mlip.errors import UserError
from mlip.methods import entries, method_class, method_folders
from mlip.paths import StudyPaths
from mlip.study import parse_study
from mlip.yaml_files import read_yaml
from tests.benchmarks.simulated import QUALITY, THREE_SEEDS, make_world
from tests.conftest import ROOT
from tests.stores import divide, write_store


def with_variants(variants: dict[str, Any], **methods: Any) -> Plan:
    raw = read_yaml(ROOT / "config" / "smoke.yaml")
    raw["methods"] = {**raw["methods"], "variants": variants, **methods}
    return resolve(parse_study(raw, where="x.yaml"), look=False)


def a_file(folder: Path, value: float = 0.0) -> Path:
    path = folder / "weights.pt"
    torch.save({"x": torch.full((3,), value)}, path)
    return path


def keys(plan: Plan) -> dict[str, str]:
    """The fingerprints of all jobs of a study."""
    found = {"audit": plan.fingerprints.audit().key, "tables": plan.tables().key}
    found |= {f"pretrain {row}": plan.training(row, 0).key for row in plan.rows}
    for e in plan.evaluations:
        found[f"{e.task} {e.dataset} {e.row}"] = plan.evaluation(e.task, e.protocol, e.dataset, e.row, e.seed).key
    return found


def resnet(path: Path, **more: Any) -> dict[str, Any]:
    return {
        "method": "weights",
        "weights": {"file": str(path), "architecture": "resnet18", "normalise": "half", **more},
    }


def test_a_row_is_added_and_a_replaced_file_repeats_that_row_only(tmp_path: Path) -> None:
    without = keys(with_variants({}))
    path = a_file(tmp_path)
    before = keys(with_variants({"mine": resnet(path)}))
    assert {k: v for k, v in before.items() if k not in ("audit", "tables") and not k.endswith("mine")} == {
        k: v for k, v in without.items() if k not in ("audit", "tables")
    }
    a_file(tmp_path, 1.0)
    after = keys(with_variants({"mine": resnet(path)}))
    assert {k for k in after if after[k] != before[k]} == {"tables", *(k for k in after if k.endswith(" mine"))}
    sized = keys(with_variants({"mine": resnet(path, input_size=96)}))
    assert {k for k in after if after[k] != sized[k]} == {"tables", *(k for k in after if k.endswith(" mine"))}
    told = keys(with_variants({"mine": resnet(path, trained_on=["MIMIC-CXR"])}))
    assert {k for k in after if after[k] != told[k]} == {"audit", "tables"}
    moved = tmp_path / "elsewhere" / "weights.pt"
    moved.parent.mkdir()
    path.rename(moved)
    assert {k for k, v in keys(with_variants({"mine": resnet(moved)})).items() if v != after[k]} == set()


def test_a_row_of_a_checkpoint_is_a_method_with_one_training(tmp_path: Path) -> None:
    raw = read_yaml(ROOT / "config" / "twin.yaml")
    raw["methods"]["variants"] = {
        "mine": resnet(a_file(tmp_path)),
        "mgca-released": {
            "method": "mgca",
            "weights": {"file": str(tmp_path / "weights.pt")},
            "title": "MGCA (released)",
        },
    }
    study = parse_study(raw, where="x.yaml")
    rows = entries(study)[0]
    assert not {"weights", "clip", "embeddings"} & set(rows)  # no row without a checkpoint
    for name in ("mine", "mgca-released"):
        entry = rows[name]
        assert (entry.status, entry.trained, entry.seeded, entry.seeds(study)) == ("external", False, False, [0])
    assert rows["mgca"].trained and rows["mgca"].status == "official-agreement" and len(rows["mgca"].seeds(study)) == 3
    assert not any(r.control for b in resolve(study, look=False).blocks for r in b.rows if r.name == "mine")
    assert not rows["mgca-released"].image_config(study).has_weights


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ({"method": "weights"}, "mine names no checkpoint"),
        (resnet(Path("/nowhere/w.pt")), r"/nowhere/w\.pt: is not there.*methods\.variants\.mine\.weights"),
        ({"method": "clip", "weights": {"folder": "/nowhere"}}, "/nowhere: is not there"),
        ({"method": "clip", "weights": {}}, "give one of `file` and `folder`"),
        ({"method": "clip", "weights": {"file": "a", "fold": "b"}}, r"fold: .*\(unknown key\)"),
        ({"method": "imagenet", "weights": {"file": __file__}}, "is a control, which has no checkpoint"),
        ({**resnet(Path(__file__)), "seed": 3}, "not trained again with another seed"),
        (resnet(Path(__file__), texts=__file__), "encodes texts itself"),
        (resnet(Path(__file__), normalise={"mean": [0, 0, 0], "std": [1, 1, 0]}), "must be above 0"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_its_key(variant: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        with_variants({"mine": variant})


def test_an_included_checkpoint_method_needs_a_variant() -> None:
    with pytest.raises(UserError, match="clip names no checkpoint, and clip is nothing without one"):
        with_variants({}, include=["clip"])


# --- pages and audit --------------------------------------------------------------------------------------------------


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    QUALITY["released"] = 3.0
    weights = {"file": str(a_file(tmp_path)), "trained_on": ["NIH ChestX-ray14", "PadChest"]}
    variants = {"released": {"method": "alpha", "title": "Alpha (released)", "weights": weights}}
    world = make_world(tmp_path, monkeypatch, **THREE_SEEDS, methods={"variants": variants})
    world.fill()
    build_tables(world.plan)
    yield world
    del QUALITY["released"]


def test_the_tables_rank_it_and_say_what_it_was_trained_on(simulated: Any) -> None:
    page = simulated.paths.leaderboard.read_text(encoding="utf-8")
    (line,) = [x for x in page.splitlines() if x.startswith("| Alpha (released)") and "external" in x]
    assert "Alpha (released) § (trained on NIH ChestX-ray14, PadChest)" in line and re.search(r"\(\d(–\d)?\)", line)
    about = page[page.index("## Checkpoints of others") :].split("\n\n")
    assert "ONE training" in about[1] and "is unknown" in about[1]
    assert "`weights.pt`" in about[2]
    assert "test films of **rsna** (from NIH ChestX-ray14), **siim** (from NIH ChestX-ray14)" in about[2]
    assert "Of PadChest it is not known" in about[2]
    cells = pd.read_csv(simulated.paths.cells)
    own = cells[cells["method"] == "released"]
    assert (own["seed_count"] == 1).all() and own["rank"].notna().any() and (own["status"] == "ok").all()
    html = simulated.paths.leaderboard.with_suffix(".html").read_text(encoding="utf-8")
    assert "Checkpoints of others" in html and "trained on NIH ChestX-ray14, PadChest" in html
    made = json.loads((simulated.paths.results / "made.json").read_text(encoding="utf-8"))
    assert made["rows"]["released"] == {
        "title": "Alpha (released)",
        "status": "external",
        "control": False,
        "seeded": False,
    }


def test_pages_without_such_a_row_do_not_mention_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path, monkeypatch)
    world.fill()
    build_tables(world.plan)
    assert "Checkpoints of others" not in world.paths.leaderboard.read_text(encoding="utf-8")


def test_names_of_collections() -> None:
    assert comes_from("mimic_cxr", ["MIMIC-CXR-JPG v2.0", "CheXpert"]) == ["MIMIC-CXR-JPG v2.0"]
    assert comes_from("rsna", ["NIH ChestX-ray14"]) and comes_from("siim", ["NIH ChestX-ray14"])
    assert not comes_from("object_cxr", ["NIH ChestX-ray14", "", "O"])
    assert is_known("mimic-cxr") and not is_known("PMC-15M")


def test_the_audit_warns_where_it_may_have_seen_test_films(tmp_path: Path) -> None:
    variants = {
        "told": {"method": "weights", "weights": {"file": __file__, "trained_on": ["MIMIC-CXR", "PMC-15M"]}},
        "silent": {"method": "weights", "weights": {"file": __file__}},
    }
    raw = {
        "study": "audited", "title": "t", "data_note": "n", "work": str(tmp_path), "image_size": 16,
        "datasets": {"mimic": {"reader": "mimic_cxr", "root": "a"}, "films": {"reader": "object_cxr", "root": "b"}},
        "encoders": {"cnn": {"name": "resnet"}, "vit": {"name": "vit"}, "text": {}},
        "pretrain": {"datasets": ["mimic"]}, "tasks": {"few_shot": {"datasets": ["films"], "fractions": [4]}},
        "methods": {"variants": variants},
    }  # fmt: skip
    study = parse_study(raw, where="test")
    paths, draw = StudyPaths(study), torch.Generator().manual_seed(0)
    for name, reader in (("mimic", "mimic_cxr"), ("films", "object_cxr")):
        images = torch.randint(0, 255, (6, 16, 16), generator=draw, dtype=torch.uint8).numpy()
        table = write_store(paths.data(name), images, reader=reader)
        stored = pd.read_parquet(paths.data(name) / "records.parquet")
        shift = 0x1111 if name == "mimic" else 0x77777777  # far apart
        stored["dhash"] = (stored["dhash"].astype("uint64") + 1) * shift
        stored.to_parquet(paths.data(name) / "records.parquet")
        divide(paths.splits(name), table, ["train"] * 3 + ["val"] + ["test"] * 2, [[1, 10, 100, 0, 0, 0]])  # type: ignore[list-item]
    found = {(f.level, f.dataset, f.text) for f in audit(study).findings if f.check == "checkpoint"}
    assert found == {
        ("warning", "mimic", "told was trained on MIMIC-CXR: that may hold any of the 2 test films"),
        ("checked", "films", "told names no collection that these films are from"),
        ("warning", "all", "told was trained on PMC-15M, of which nothing is known here"),
        (
            "warning",
            "all",
            "silent does not say what it was trained on (weights.trained_on): it may have seen any test film",
        ),
    }


# --- folders outside the checkout -------------------------------------------------------------------------------------

MANIFEST = """
id: {name}
title: Outside
paper: none
citation: none
year: 2026
status: external
trained: false
seeded: false
requires: [{requires}]
encoders: {{supports: [cnn], prefers: cnn}}
"""
MODEL = """
from torch.nn import functional
from mlip.contract import ImageFeatures, Untrained
from .parts import TWICE

class Outside(Untrained):
    def encode_image(self, images):
        out = self.image_encoder(images)
        return ImageFeatures(TWICE * out.pooled, out.grid, functional.normalize(out.pooled, dim=-1))
"""


def outside(folder: Path, name: str = "outside", requires: str = "") -> Path:
    folder = folder / name
    folder.mkdir(parents=True)
    (folder / "method.yaml").write_text(MANIFEST.format(name=name, requires=requires), encoding="utf-8")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    (folder / "parts.py").write_text("TWICE = 2\n", encoding="utf-8")
    return folder


def test_a_method_lives_outside_the_checkout(tmp_path: Path) -> None:
    folder = outside(tmp_path)
    plans = [with_variants({}, include=["outside"], folders=[str(p)]) for p in (tmp_path, folder)]
    assert [p.rows["outside"].folder for p in plans] == [folder, folder] and not plans[0].broken
    assert method_class(folder).__name__ == "Outside"
    before = plans[0].training("outside", 0).key
    other = outside(tmp_path / "copy")
    assert method_class(other) is not method_class(folder)
    same = with_variants({}, include=["outside"], folders=[str(other)])
    assert same.training("outside", 0).key == before  # where it lies counts for nothing
    third = outside(tmp_path / "third")
    (third / "parts.py").write_text("TWICE = 3\n", encoding="utf-8")
    assert with_variants({}, include=["outside"], folders=[str(third)]).training("outside", 0).key != before


def test_folders_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no method\.yaml.*methods\.folders"):
        with_variants({}, folders=[str(tmp_path)])
    outside(tmp_path, "random")
    with pytest.raises(UserError, match="two folders are called 'random'"):
        with_variants({}, folders=[str(tmp_path)])


@pytest.mark.parametrize(
    ("requires", "words"),
    [
        ("no-such-package-of-anyone", "it is not installed. Fix: pip install"),
        ("'torch>=99'", r"requires torch>=99; torch .* is installed"),
        ("'torch>>1'", "pip cannot read"),
    ],
)
def test_a_method_says_what_it_requires(tmp_path: Path, requires: str, words: str) -> None:
    outside(tmp_path, requires=requires)
    plan = with_variants({}, include=["outside"], folders=[str(tmp_path)])
    assert re.search(words, plan.broken["outside"])
    assert "outside" not in with_variants({}, include=["random"]).broken and "clip" in method_folders()
