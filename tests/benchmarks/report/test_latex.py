"""Tables for papers: the cells' values, and nothing that LaTeX would stumble over."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from benchmarks.report.build import build_tables
from benchmarks.report.latex import escape
from tests.benchmarks.simulated import THREE_SEEDS, make_world


@pytest.mark.parametrize(
    ("text", "said"), [("a_b & 5 %", r"a\_b \& 5 \%"), ("MLIP †", r"MLIP $\dagger$"), ("x\\y", r"x\textbackslash{}y")]
)
def test_special_letters(text, said):
    assert escape(text) == said


def test_a_table_holds_the_cells(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch, **THREE_SEEDS)
    world.fill(datasets=("rsna",))
    build_tables(world.plan)
    text = (world.paths.results / "probe.tex").read_text(encoding="utf-8")
    assert text.isascii(), "every letter that LaTeX may not know is written out"
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\bottomrule") == 2
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.replace(r"\&", "").count("&") for line in body if "multicolumn" not in line}) == 1
    cells = pd.read_csv(world.paths.cells)
    own = cells[(cells["method"] == "alpha") & (cells["metric"] == "AUROC") & (cells["dataset"] == "rsna")]
    line = next(line for line in body if line.startswith("Alpha"))
    values = [float(v) for v in re.findall(r"(?:\\textbf\{)?([\d.]+)\}? \{\[", line)]
    expected = own[own["task"] == "probe"].sort_values("fraction")["value"]
    assert values == pytest.approx((100 * expected).round(1).tolist())
    assert "pending" in line, "siim is not computed"
