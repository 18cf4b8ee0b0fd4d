"""The leaderboard's section on where the rows look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.analyses.map_scores import CENTRE, COLUMNS, METRICS, OUTLINES, measure
from benchmarks.plan import resolve
from benchmarks.report import looks
from mlip.study import load_study
from tests.conftest import ROOT


def test_numbers_of_current_rows_stand_beside_the_controls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(ROOT / "config" / "smoke.yaml").model_copy(update={"results": tmp_path})
    plan = resolve(study, look=False)
    rng = np.random.default_rng(0)
    outlines = np.zeros((24, 8, 8), dtype=bool)
    outlines[np.arange(24), :2, np.arange(24) % 8] = True
    plan.paths.maps.mkdir(parents=True)
    for row, name in (("cvpr24", "word attention"), ("isbi24", "cosine"), ("mgca", "old map")):
        found = [{name: outlines + rng.random(outlines.shape)} for _ in range(2)]
        blind = {CENTRE: rng.random((8, 8)), OUTLINES: outlines.mean(axis=0)}
        parts = []
        for label, films in (("Pneumonia", 24), ("Effusion", 6)):
            few = [{name: values[:films] for name, values in maps.items()} for maps in found]
            table = measure(few, blind, outlines[:films], np.arange(films), (50, 0.95), rng)
            parts.append(table.assign(dataset="rsna", label=label, asked="There is."))
        table = pd.concat(parts)
        table[COLUMNS].round(4).to_csv(plan.paths.maps / f"{row}.csv", index=False)
    monkeypatch.setattr("benchmarks.analyses.maps.current_rows", lambda _: ["cvpr24", "isbi24"])
    table, small = looks.tables(plan)
    assert table.title == "Pneumonia on rsna (24 films of 24 patients)"
    assert not small.lines and small.title.startswith("Effusion on rsna (6 films of 6 patients): fewer than 20")
    titles = [plan.rows["cvpr24"].title, plan.rows["isbi24"].title, "control", "control"]
    assert [line[0] for line in table.lines] == titles and [line[1] for line in table.lines[2:]] == [CENTRE, OUTLINES]
    saved = pd.read_csv(plan.paths.maps / "cvpr24.csv").set_index(["label", "map", "metric"])
    saved = saved.loc[("Pneumonia", "word attention", "pixel AUROC")]
    assert table.lines[0][2].startswith(f"{100 * saved['value']:.1f} [")
    assert table.lines[0][3].startswith(f"{100 * saved['over_another']:+.1f} [")
    assert table.lines[2][3] == "+0.0 [+0.0, +0.0]"  # a map that sees no film is the same for another patient's
    page = "\n".join(looks.section(plan))
    assert "old map" not in page and "maps/isbi24.csv" in page and "maps/mgca.csv" not in page
    assert set(METRICS) == {"pointing game", "pixel AUROC"}


def test_without_current_maps_there_is_no_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.analyses.maps.current_rows", lambda _: [])
    assert looks.section(resolve(load_study(ROOT / "config" / "smoke.yaml"), look=False)) == []
