"""Where the rows look: how well their maps point at outlined findings, against three controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from tabulate import tabulate

from benchmarks.analyses import maps
from benchmarks.analyses.map_scores import AGAINST, CENTRE, OUTLINES, PIXEL_AUROC
from benchmarks.scores.support import FEW

if TYPE_CHECKING:
    from benchmarks.plan import Plan

HEAD = ["method", "map", "pixel AUROC", "over another patient's map", "over the centre prior", "over the mean outline"]
ABOUT = (
    "Pixel AUROC × 100 of inside against outside of a finding's outline, mean over test films and pre-training seeds, with the interval for patients and seeds; "
    "then what the map gains over the same method's map of another patient's film (a map that gains nothing there does not find this film's finding), over the "
    "distance from the centre, and over the mean outline of the training films. *Presence minus absence*: mean over the presence prompts minus mean over "
    "the absence prompts, as zero-shot classification asks; the other maps are of the first presence prompt."
)


@dataclass(frozen=True)
class Table:
    """The maps of all rows for one finding of a data set."""

    title: str
    lines: list[list[str]]  # under HEAD; none where too few patients are outlined

    @property
    def text(self) -> str:
        """As Markdown."""
        if not self.lines:
            return self.title
        return f"{self.title}\n\n" + tabulate(self.lines, headers=HEAD, tablefmt="github", disable_numparse=True)


def tables(plan: Plan) -> list[Table]:
    """One table per question, from the rows' numbers that are of today's making."""
    found = [
        pd.read_csv(plan.paths.maps / f"{name}.csv").assign(method=plan.rows[name].title)
        for name in maps.current_rows(plan)
    ]
    if not found:
        return []
    numbers = pd.concat(found)
    numbers = numbers[numbers["metric"] == PIXEL_AUROC]
    return [
        _table(str(name), group)
        for name, group in numbers.groupby(numbers["label"] + " on " + numbers["dataset"], sort=False)
    ]


def section(plan: Plan) -> list[str]:
    """What the leaderboard says of it; [] without maps."""
    listed, folder = tables(plan), f"{plan.study.study}/{plan.paths.maps.name}"
    if not listed:
        return []
    links = [
        f"{plan.rows[name].title} ([figure]({folder}/{name}.png), [numbers]({folder}/{name}.csv))"
        for name in maps.current_rows(plan)
    ]
    return ["# Where the rows look", ABOUT, *(table.text for table in listed), "; ".join(links) + "."]


def _table(name: str, group: pd.DataFrame) -> Table:
    patients = group["patients"].iloc[0]
    title = f"{name} ({group['films'].iloc[0]} films of {patients} patients)"
    if patients < FEW:
        return Table(f"{title}: fewer than {FEW} patients, so only the files have numbers.", [])
    blind = group["map"].isin([CENTRE, OUTLINES])
    lines = [_line(row) for _, row in group[~blind].iterrows()]
    lines += [["control", *_line(row)[1:]] for _, row in group[blind].drop_duplicates("map").iterrows()]
    return Table(title, lines)


def _line(row: pd.Series) -> list[str]:
    own = f"{100 * row['value']:.1f} [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]"
    return [row["method"], row["map"], own, *(_gain(row, key) for key in AGAINST)]


def _gain(row: pd.Series, key: str) -> str:
    value, low, high = (100 * row[f"{key}{end}"] + 0.0 for end in ("", "_low", "_high"))  # + 0: no minus before a zero
    return "" if pd.isna(value) else f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
