"""Published numbers: each with its source, none from memory; compared only where the data are the same."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from typer.testing import CliRunner

from benchmarks.cells import compute
from benchmarks.report import published
from benchmarks.report.build import build_tables
from benchmarks.report.published import COLUMNS, compare, equivalence, matching_title, read_published, section
from benchmarks.tasks.shared.task import MetricSpec
from mlip.errors import UserError
from mlip.run.cli import app
from tests.benchmarks.simulated import make_world


def test_every_published_number_has_a_source_and_none_is_from_memory():
    table = read_published()
    assert (
        len(table) > 300
        and not table.duplicated(["task", "title", "protocol", "dataset", "metric", "fraction", "source"]).any()
    )
    assert (table["source"].str.len() > 5).all() and "M" not in set(table["tag"])
    assert set(table["fraction"]) == {0, 1, 10, 100}


def test_published_numbers_are_those_of_the_facts(shared):
    facts = (shared / "facts" / "published.md").read_text(encoding="utf-8")
    numbers = {float(n) for n in re.findall(r"\d+(?:\.\d+)?", facts)}
    table = read_published()
    assert set(table["value"]) <= numbers
    checked = 0
    for _, cells in table.groupby(["task", "title", "dataset", "metric", "source"]):
        if len(cells) == 3:  # 1, 10 and 100 % stand side by side in the facts
            triple = [f"{v:.1f}" for v in cells.sort_values("fraction")["value"]]
            assert any(mark.join(triple) in facts for mark in ("/", " ", " / ")), cells
            checked += 1
    assert checked > 80
    mlip = table[table["method"] == "cvpr24"].groupby("tag")
    assert mlip.size().to_dict() == {"S": 6, "N": 9}, "six cells of a secondary page, nine of a reading note"
    assert set(mlip.get_group("S")["fraction"]) == {100} and set(mlip.get_group("N")["fraction"]) == {1, 10, 100}


def test_known_cells():
    table = read_published().set_index(["task", "title", "dataset", "metric", "fraction", "source"])["value"]
    assert table["linear_probe", "ConVIRT", "rsna", "auroc", 10, "G2D (NeurIPS 2024) Table 4"] == 80.1
    assert table["segmentation", "MGCA (ResNet-50)", "siim", "dice", 1, "G2D (NeurIPS 2024) Table 1"] == 49.7
    assert table["detection", "GLoRIA (MIMIC)", "object_cxr", "map", 100, "G2D (NeurIPS 2024) Table 1"] == 16.6
    assert (
        "detection",
        "ConVIRT",
        "object_cxr",
        "map",
        1,
        "G2D (NeurIPS 2024) Table 1",
    ) not in table.index  # "below 1"
    assert table["zero_shot", "MedKLIP", "siim", "f1", 0, "G2D (NeurIPS 2024) Table 2b"] == 68.3


def write(folder, **changes) -> None:
    row = {
        "method": "alpha", "title": "Alpha", "encoder": "cnn", "protocol": "plain", "task": "probe", "dataset": "rsna",
        "metric": "auroc", "fraction": 100, "value": 90.0, "source": "Alpha paper, Table 1", "tag": "P", **changes,
    }  # fmt: skip
    path = folder / "probe.csv"
    earlier = pd.read_csv(path, keep_default_na=False) if path.is_file() else pd.DataFrame(columns=COLUMNS)
    pd.concat([earlier.astype(object), pd.DataFrame([row])[COLUMNS].astype(object)]).to_csv(path, index=False)


@pytest.mark.parametrize("changes", [{"tag": "M"}, {"source": ""}, {"value": 187.0}])
def test_numbers_from_memory_or_without_source_are_refused(tmp_path, changes):
    write(tmp_path)
    write(tmp_path, **changes)
    with pytest.raises(UserError, match=r"probe\.csv: line 3 \(Alpha"):
        read_published(tmp_path)


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Published rows for a synthetic study, in place of the real ones."""
    folder = tmp_path / "published"
    folder.mkdir()
    monkeypatch.setattr(published, "read_published", lambda: read_published.__wrapped__(folder))
    return folder


def test_comparison_gives_difference_and_verdict(tmp_path, monkeypatch, tables):
    world = make_world(tmp_path, monkeypatch, published=True)
    world.fill(("probe",), ("rsna",))
    results = compute(world.plan)
    cells = results.cells[results.cells["metric"] == "AUROC"].set_index(["dataset", "fraction", "method"])
    alpha, gamma = (cells.loc[("rsna", 100, name)] for name in ("alpha", "gamma"))
    assert 100 * (alpha["ci_high"] - alpha["ci_low"]) > 2, "too wide to lie within a point on either side"
    write(tables, value=round(100 * alpha["value"], 1))
    write(tables, method="gamma", title="Gamma", value=round(100 * gamma["ci_high"] + 2, 1))
    write(tables, method="gamma", title="Gamma", value=round(100 * gamma["ci_low"] - 2, 1), source="another re-run")
    write(tables, method="beta", title="Beta", encoder="", protocol="other-2020", value=10)
    write(tables, method="beta", title="Beta", dataset="siim")
    write(tables, method="noise", title="Random", encoder="vit", value=99)
    write(tables, method="beta", title="Beta (ViT)", encoder="vit")  # no such row in the study
    write(tables, method="unknown", title="Unknown")
    monkeypatch.setattr(world.plan.study.datasets["rsna"], "split", "official")
    table = compare(world.plan, results.cells)
    assert list(table["method"]) == ["alpha", "gamma", "gamma", "beta", "beta", "noise-vit"]
    assert list(table["verdict"]) == [
        "cannot be told", "ours lower", "ours higher", "other protocol: ours higher", "pending", "ours lower",
    ]  # fmt: skip
    monkeypatch.setattr(world.plan.study.datasets["rsna"], "split", "plain")
    same = compare(world.plan, results.cells)["verdict"].tolist()
    assert same == ["cannot be told", "ours lower", "ours higher", "other test films", "pending", "ours lower"]
    monkeypatch.setattr(world.plan.study.datasets["rsna"], "split", "strict")
    assert set(compare(world.plan, results.cells)["verdict"]) == {"other test films", "pending"}
    monkeypatch.setattr(world.plan.study.datasets["rsna"], "split", "official")
    ours = 100 * gamma["value"]
    assert table.loc[1, "difference"] == pytest.approx(ours - table.loc[1, "reported"]) and table.loc[1, "ours"] == ours
    text = section(world.plan, results, "probe")
    assert "other protocol: ours higher" in text and "| pending " in text
    assert "Alpha paper, Table 1 [P]" in text and "another re-run [P]" in text
    assert "No published value" in section(world.plan, results, "direct")


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.9, 0.9, "agrees"),
        (-1.1, 0.9, "cannot be told"),
        (0.2, 0.8, "agrees"),
        (-3, 3, "cannot be told"),
        (1.1, 4, "ours higher"),
        (-4, -1.1, "ours lower"),
        (0.9, 1.1, "cannot be told"),
    ],
)
def test_equivalence_is_shown_not_assumed(low, high, said):
    assert equivalence(low, high, 1.0) == said


def test_a_changed_variant_is_not_the_published_method(tmp_path, monkeypatch, tables):
    plain = {"method": "alpha", "encoder": "vit"}
    variants = {"alpha-vit": plain, "alpha-ablated": {**plain, "components": {"extra": False}}}
    world = make_world(tmp_path, monkeypatch, published=True, methods={"variants": variants})
    write(tables, encoder="vit")
    assert list(compare(world.plan, compute(world.plan).cells)["method"]) == ["alpha-vit"]


def test_twin_studies_show_no_published_value(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch)
    assert "does not set `published: true`" in section(world.plan, compute(world.plan), "probe")


def test_published_dice_and_map_are_compared_with_the_same_definition():
    positives, all_images = (
        MetricSpec("dice", "Dice+", {"empty": "skip"}),
        MetricSpec("dice", "Dice", {"empty": "one_if_empty"}),
    )
    assert matching_title([positives, all_images], "dice") == "Dice"
    assert matching_title([positives], "dice") == ""
    ap50, whole = MetricSpec("map", "AP50", {"ious": [0.5], "at": 0.5}), MetricSpec("map", "mAP", {"ious": [0.5]})
    assert matching_title([ap50, whole], "map") == "mAP"


def test_a_results_folder_is_compared_with_papers(tmp_path, monkeypatch, tables):
    real = {"reader": "rsna", "root": str(tmp_path / "raw"), "split": "official"}
    world = make_world(
        tmp_path, monkeypatch, published=True, datasets={"rsna": real, "siim": {**real, "reader": "siim"}}
    )
    world.fill(("probe",), ("rsna",))
    write(tables)
    monkeypatch.setattr("benchmarks.report.figures.draw", lambda *_: None)  # slow, and not looked at here
    build_tables(world.plan)
    cells = pd.read_csv(world.paths.cells)
    place = (cells["method"] == "alpha") & (cells["dataset"] == "rsna") & (cells["fraction"] == 100)
    alpha = cells[place & (cells["metric"] == "AUROC")].iloc[0]
    monkeypatch.setattr(published, "read_published", read_published.__wrapped__)
    (tables / "probe.csv").unlink()
    write(tables, value=round(100 * alpha["ci_low"] - 3, 1))
    write(tables, method="beta", title="Beta", dataset="siim")
    args = ["compare", str(world.paths.results), str(tables)]
    said = CliRunner().invoke(app, args)
    assert (
        said.exit_code == 1 and "1 ours higher, 1 pending" in said.output and "Alpha paper, Table 1 [P]" in said.output
    )
    (tables / "probe.csv").unlink()
    write(tables, value=round(100 * alpha["value"], 1))
    assert CliRunner().invoke(app, args).exit_code == 0
    facts = json.loads((world.paths.results / "made.json").read_text(encoding="utf-8"))
    facts["study"]["published"] = False
    (world.paths.results / "made.json").write_text(json.dumps(facts), encoding="utf-8")
    refused = CliRunner().invoke(app, args)
    assert isinstance(refused.exception, UserError) and "not those that papers report on" in str(refused.exception)
