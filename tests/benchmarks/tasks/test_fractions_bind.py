"""Label fractions bind: a training too short to see its labels is told before the run where it can be, and in its cells."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.plan import source_of
from benchmarks.tasks.catalogue import read_protocol, tasks
from benchmarks.tasks.segmentation import TASK as SEGMENTATION
from benchmarks.tasks.shared.binding import unbound
from tests.benchmarks.tasks import dense_world as world

RSNA = 16010  # training films of the lineage's split


def told(tmp_path: Path, task: str, protocol: str, fractions=(1, 10, 100), **changes) -> str:
    splits = tmp_path / "rsna.parquet"
    splits.with_suffix(".json").write_text(json.dumps({"counts": {"train": RSNA}}), encoding="utf-8")
    source = source_of(world.study(tmp_path), "squares")
    made = read_protocol(task, protocol).model_copy(update=changes)
    return unbound(tasks()[task], made, source, fractions, splits)


def test_a_fixed_small_number_of_iterations_is_told(tmp_path: Path) -> None:
    said = told(tmp_path, "detection", "strict")
    assert "100 % 2400 of 16010" in said and "10 %" not in said.replace("100 %", "")
    assert "iterations" in said and "tasks.detection.budget" in said
    assert "1280 of 1601; 100 % 1280 of 16010" in told(tmp_path, "detection", "strict", iterations=160), (
        "as it once was"
    )
    assert told(tmp_path, "detection", "strict", fractions=(100,)) == "", "one fraction is called nothing else"
    assert "100 % 1920 of 16010" in told(tmp_path, "fine_tuning", "maco-2024", max_steps=20)
    (tmp_path / "rsna.json").unlink()
    source = source_of(world.study(tmp_path), "squares")
    strict = read_protocol("detection", "strict")
    assert unbound(tasks()["detection"], strict, source, (1, 100), tmp_path / "rsna.parquet") == "", "not divided yet"


@pytest.mark.parametrize(
    ("task", "protocol"),
    [
        ("detection", "mgca-2022"), ("detection", "strict-epochs"), ("detection", "fine-tuned"),
        ("segmentation", "mgca-2022"), ("segmentation", "strict-epochs"), ("segmentation", "fine-tuned"),
        ("segmentation", "maco-2024"), ("fine_tuning", "maco-2024"), ("fine_tuning", "strict"), ("linear_probe", "mgca-2022"),
    ],
)  # fmt: skip
def test_the_protocols_of_the_paper_study_see_all_their_labels(task, protocol, tmp_path: Path) -> None:
    assert told(tmp_path, task, protocol) == ""


def test_predictions_say_how_many_films_were_seen(tmp_path: Path, monkeypatch, caplog) -> None:
    config = world.study(tmp_path)
    world.plant(config)
    world.give_encoder(monkeypatch, world.encoder(config, "vit"))
    short = {"balanced": [], "iterations": 2, "batch_size": 8, "selection": "last"}
    with caplog.at_level("WARNING", logger="mlip"):
        table = SEGMENTATION.run(world.job(SEGMENTATION, config, **short))
    assert set(zip(table.seen, table.labelled, strict=True)) == {(16, 24)}
    assert "16 of 24 labelled films were seen" in caplog.text
    table = SEGMENTATION.run(world.job(SEGMENTATION, config, **short | {"iterations": 3}))
    assert set(zip(table.seen, table.labelled, strict=True)) == {(24, 24)}


def test_the_page_says_which_fractions_are_not_what_they_are_called(tmp_path: Path, monkeypatch) -> None:
    from benchmarks.report.build import build_tables
    from tests.benchmarks.simulated import make_world

    made = make_world(tmp_path, monkeypatch)
    made.fill()
    for method, seen in (("alpha", 80), ("beta", 120), ("gamma", 90)):

        def change(frame: pd.DataFrame, seen: int = seen) -> pd.DataFrame:
            return frame.assign(seen=seen, labelled=(frame["fraction"] == 100) * 200 + 40)

        made.predict("probe", "rsna", method, change=change)
    build_tables(made.plan)
    text = (made.paths.results / "probe.md").read_text(encoding="utf-8")
    line = next(x for x in text.splitlines() if x.startswith("Labelled films that a training saw at most"))
    assert "rsna 100 % 120 of 240" in line and "1 %" not in line and "siim" not in line
