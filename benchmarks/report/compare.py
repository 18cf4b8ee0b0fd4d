"""Does one run reproduce another? Two folders ``results/<study>``, cell by cell (``mlip compare``).

Two runs of one study share test films and label draws, so that what may differ between them is the trainings. A cell *agrees*
where the difference of its two values is within what trainings alone would make: Student's t times the pooled spread between
trainings of its column, in both runs, over the methods. About one cell in twenty lies outside although nothing is wrong; how many
more would not be chance is said by a binomial test. Where the data were made with another seed, patients and draws differ as
well, and their variances join. What no training moves must be equal: a control that differs is a fault, or another CPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from tabulate import tabulate

from benchmarks.cells import COLUMNS, KEY
from benchmarks.report.made import MADE
from mlip.errors import UserError

AGREES, MOVED, NOT_COMPARABLE = "agrees", "moved", "not comparable"
SAME = 1e-5  # cells.csv has six decimals
RARE = 0.001  # chance below which so many moved cells are not taken for chance
CELL = [*KEY, "method"]


@dataclass(frozen=True)
class Run:
    """What a results folder says: its cells, and what made them (``made.json``)."""

    folder: Path
    cells: pd.DataFrame
    made: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Raises UserError where the folder holds no cells or no ``made.json``, or they are damaged."""
        cells, made = folder / "cells.csv", folder / MADE
        for path in (cells, made):
            if not path.is_file():
                raise UserError("is not there", where=path, fix="give a folder results/<study>, made by this version")
        try:
            table, facts = pd.read_csv(cells, keep_default_na=True), json.loads(made.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"cannot be read ({error})", where=folder, fix="run `mlip run tables` again") from None
        if lacking := sorted(set(COLUMNS) - set(table.columns)):
            raise UserError(f"lacks the columns {', '.join(lacking)}", where=cells, fix="run `mlip run tables` again")
        return cls(folder, table, facts)

    @property
    def controls(self) -> set[str]:
        return {name for name, row in self.made["rows"].items() if row["control"]}


@dataclass(frozen=True)
class Comparison:
    """``cells``: one row per cell with ``verdict``; the rest is what the page counts."""

    cells: pd.DataFrame
    controls: pd.DataFrame  # controls without a seed that differ
    separable: int  # pairs of methods that the first run tells apart in a column
    reversed: (
        pd.DataFrame
    )  # those that the second orders the other way round; ``separably`` where it tells them apart too
    differs: list[str]  # machine, versions, commit, configuration, protocols
    same_data: bool
    level: float

    @property
    def chance(self) -> float:
        """Chance of as many moved cells if nothing but the trainings differed; methods' cells only."""
        compared = self.cells[self.cells["verdict"].isin([AGREES, MOVED]) & self.cells["seeded"]]
        moved = int((compared["verdict"] == MOVED).sum())
        return float(stats.binom.sf(moved - 1, len(compared), 1 - self.level)) if moved else 1.0

    @property
    def machine_differs(self) -> bool:
        return any(line.startswith("machine") for line in self.differs)

    @property
    def reproduces(self) -> bool:
        """No pair separably reversed, no more moved cells than chance makes, no control that differs on one machine."""
        separably = bool(self.reversed["separably"].any())
        odd_control = bool(len(self.controls)) and self.same_data and not self.machine_differs
        return not separably and self.chance >= RARE and not odd_control


def compare(a: Run, b: Run) -> Comparison:
    """Raises UserError where the two share no cell."""
    level = float(a.made["study"]["statistics"]["level"])
    same_data = _data(a) == _data(b)
    both = a.cells.merge(b.cells, on=CELL, how="outer", suffixes=("_a", "_b"), indicator=True)
    if not (both["_merge"] == "both").any():
        raise UserError(f"shares no cell with {b.folder}", where=a.folder, fix="compare runs of one study")
    controls = a.controls | b.controls
    seeded = {name for run in (a, b) for name, row in run.made["rows"].items() if row["seeded"]}
    both["seeded"] = both["method"].isin(seeded)
    both["difference"] = both["value_b"] - both["value_a"]
    both["margin"] = _margins(both, level, same_data)
    both["reason"] = [_reason(row, same_data) for row in both.to_dict("records")]
    both["verdict"] = np.where(
        both["reason"] != "",
        NOT_COMPARABLE,
        np.where(both["difference"].abs() <= both["margin"].clip(lower=SAME), AGREES, MOVED),
    )
    odd = both[both["method"].isin(controls) & ~both["seeded"] & (both["verdict"] == MOVED)]
    pairs = [pair for _, column in both.groupby(KEY) for pair in _pairs(column, controls)]
    turned = pd.DataFrame([p for p in pairs if p.pop("turned")], columns=[*KEY, "better", "worse", "separably"])
    return Comparison(both, odd, len(pairs), turned, differences(a, b), same_data, level)


def _data(run: Run) -> Any:
    """What decides films, patients and draws; the seed only of films that it makes, and of label draws."""
    study = run.made["study"]
    return [study.get(key) for key in ("seed", "image_size", "twin", "datasets")]


def _reason(row: Mapping[Any, Any], same_data: bool) -> str:
    """Why a cell cannot be compared; "" where it can."""
    if row["_merge"] != "both":
        return "only in one run"
    for side in ("a", "b"):
        if row[f"status_{side}"] != "ok":
            return f"{row[f'status_{side}']} in one run"
    if same_data and row["n_test_a"] != row["n_test_b"]:
        return f"{row['n_test_a']:.0f} test images against {row['n_test_b']:.0f}"
    if same_data and row["draw_count_a"] != row["draw_count_b"]:
        return f"{row['draw_count_a']:.0f} draws of the labels against {row['draw_count_b']:.0f}"
    return "one training in both runs" if np.isnan(row["margin"]) else ""


def _margins(both: pd.DataFrame, level: float, same_data: bool) -> np.ndarray:
    """How far apart two values of a cell may lie: [cells], NaN where the spread between trainings is unknown."""
    margins = np.zeros(len(both))
    for _, column in both.groupby(KEY):
        own = column[column["seeded"]]
        squares, freedom = 0.0, 0.0
        for side in ("a", "b"):
            spread, count = (own[f"{what}_{side}"].to_numpy(dtype=float) for what in ("sd_trainings", "seed_count"))
            known = np.isfinite(spread)
            squares += float((spread[known] ** 2 * (count[known] - 1)).sum())
            freedom += float((count[known] - 1).sum())
        between = squares / freedom if freedom else float("nan")
        variance = between * (1 / own["seed_count_a"] + 1 / own["seed_count_b"])
        place = both.index.get_indexer(column.index)
        found = pd.Series(0.0, index=column.index)
        found[own.index] = variance
        if not same_data:
            found += sum(column[f"se_{what}_{side}"].fillna(0) ** 2 for what in ("patients", "draws") for side in "ab")
        far = stats.t.ppf((1 + level) / 2, freedom) if freedom else stats.norm.ppf((1 + level) / 2)
        margins[place] = far * np.sqrt(found.to_numpy(dtype=float))
    return margins


def _pairs(column: pd.DataFrame, controls: set[str]) -> list[dict[str, Any]]:
    """Pairs of methods that run a tells apart (``ahead_of`` of its cells)."""
    there = column[(column["verdict"] != NOT_COMPARABLE) & ~column["method"].isin(controls)].fillna(
        {"ahead_of_a": "", "ahead_of_b": ""}
    )
    rows = {row["method"]: row for row in there.to_dict("records")}
    found = []
    for x in rows.values():
        for y in (rows[name] for name in x["ahead_of_a"].split() if name in rows):
            found.append({
                **{k: x[k] for k in KEY}, "better": x["method"], "worse": y["method"],
                "turned": y["value_b"] > x["value_b"], "separably": x["method"] in y["ahead_of_b"].split(),
            })  # fmt: skip
    return found


def differences(a: Run, b: Run) -> list[str]:
    """What made the two runs and is not the same, a line each."""
    lines = []
    for key, name in (("machines", "machine"), ("versions", "versions"), ("commits", "commit")):
        if a.made.get(key) != b.made.get(key):
            lines.append(
                f"{name}: {', '.join(a.made.get(key, [])) or '?'} against {', '.join(b.made.get(key, [])) or '?'}"
            )
    lines += _unlike(a.made["study"], b.made["study"])
    if silent := [str(run.folder) for run in (a, b) if "protocols" not in run.made]:
        return [*lines, f"protocols: not known, {' and '.join(silent)} is of a version that did not record them"]
    one, two = a.made["protocols"], b.made["protocols"]
    for name in sorted(one.keys() & two.keys()):  # where one run lacks the table, its cells say so
        lines += [f"protocol {name}, {line}" for line in _unlike(one[name], two[name])]
    return lines


def _unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Keys with other values, a line each."""
    one, two = _flat(a), _flat(b)
    return [
        f"`{key}`: {one.get(key)} against {two.get(key)}"
        for key in sorted(one.keys() | two.keys())
        if one.get(key) != two.get(key) and (one.get(key) or two.get(key))  # a key that came later, and is empty
    ]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{name}.{key}".lstrip(".")).items()}


def page(a: Run, b: Run, found: Comparison) -> str:
    """The comparison as Markdown."""
    counts = found.cells["verdict"].value_counts()
    number = {verdict: int(counts.get(verdict, 0)) for verdict in (AGREES, MOVED, NOT_COMPARABLE)}
    against = len(found.reversed)
    share = f" ({100 * against / found.separable:.1f} %)" if found.separable else ""
    separably = int(found.reversed["separably"].sum()) if against else 0
    parts = [
        f"# {b.folder} against {a.folder}",
        "**The second run reproduces the first.**" if found.reproduces else "**The second run does not reproduce the first.**",
        "\n".join([
            f"- Cells: {number[AGREES]} agree, {number[MOVED]} moved, {number[NOT_COMPARABLE]} are not comparable. With nothing but the trainings "
            f"apart {100 * (1 - found.level):.0f} % would move; the chance of so many is {found.chance:.2g}.",
            f"- Pairs of methods that the first run tells apart in a column: {found.separable}; the second has {against}{share} of them the other way round, "
            f"{separably} of these separably.",
            f"- Cells of controls that no seed moves and that differ: {len(found.controls)}"
            + (" (the machine alone does that where a head is trained on them)." if len(found.controls) and found.machine_differs else "."),
            "- Margin of a cell: Student's t times the spread between trainings, pooled over both runs and the column's methods"
            + ("." if found.same_data else "; the runs are of other films or label draws, so their variances are in it too."),
        ]),
        "## What made them",
        "\n".join(f"- {line}" for line in found.differs) or "Machine, versions, commit, configuration and protocols are the same.",
    ]  # fmt: skip
    for title, table in (
        ("Pairs the other way round", found.reversed),
        ("Controls that differ", _printed(found.controls)),
        ("Cells that moved", _printed(found.cells[found.cells["verdict"] == MOVED])),
        ("Cells that are not comparable", found.cells.loc[found.cells["verdict"] == NOT_COMPARABLE, [*CELL, "reason"]]),
    ):
        if len(table):
            parts += [
                f"## {title}",
                tabulate(
                    table.to_dict("split")["data"],
                    headers=list(table.columns),
                    tablefmt="github",
                    disable_numparse=True,
                ),
            ]
    return "\n\n".join(parts) + "\n"


def _printed(cells: pd.DataFrame) -> pd.DataFrame:
    shown = cells[CELL].copy()
    for title, column in (
        ("first", "value_a"),
        ("second", "value_b"),
        ("difference", "difference"),
        ("margin", "margin"),
    ):
        shown[title] = [f"{100 * value:{'+' if title == 'difference' else ''}.1f}" for value in cells[column]]
    return shown
