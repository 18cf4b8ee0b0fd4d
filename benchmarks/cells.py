"""The cells of a study: which there should be, which there are, and their numbers with intervals and ranks.

A cell is one number of a table: task, protocol, data set, metric, label fraction, method. Every expected cell has a
row, whatever became of it: ``ok``, ``failed`` (it or what it is made from), ``stale`` (there is one, of other code or another
configuration), ``skipped`` (the method cannot do this) or ``pending``, with the reason. A cell needs all its seeds and draws:
a mean over the seeds that survived would flatter a method. A row in which nothing depends on the pre-training seed (a
task's own control, or ``seeded: false``) has one, and a variance between seeds of 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmarks.failures import reason_of_failure
from benchmarks.scores import statistics
from benchmarks.scores.metrics import METRICS
from benchmarks.scores.predictions import Predictions, read_predictions
from benchmarks.scores.support import carriers, chance, positives
from benchmarks.scores.weighted import Undefined
from benchmarks.tasks.shared.task import MetricSpec, Task
from mlip.errors import UserError
from mlip.seeding import generator
from mlip.study import Study

if TYPE_CHECKING:
    from benchmarks.plan import Block, Plan, Row

COLUMNS = [
    "task", "protocol", "dataset", "metric", "method", "seed_count", "draw_count", "fraction",
    "value", "ci_low", "ci_high", "se_patients", "se_draws", "se_seeds", "sd_trainings", "n_test", "positives",
    "status", "reason", "seconds", "rank", "rank_high", "above_controls",
]  # fmt: skip
KEY = ["task", "protocol", "dataset", "metric", "fraction"]  # of a column of cells
ORACLE = "oracle"  # a control of this name is a ceiling; every other control is to be beaten
# The control that a scaled value starts from where chance has no exact value, by the column that holds what is there to be
# found: it sees no film, but knows the training set.
FLOORS = {"n_truth": "prior-box", "truth": "mean-mask"}
FLOOR_WITH_EMPTY = "empty-mask"  # of a Dice that gives an empty prediction 1 on films without the finding


def fraction_name(task: Task, fraction: int) -> str:
    """ "10 %", "1 shot", "4 shots", or "" where nothing is trained."""
    if not task.fraction_unit:
        return ""
    unit = task.fraction_unit.removesuffix("s") if fraction == 1 else task.fraction_unit
    return f"{fraction} {unit}"


@dataclass(frozen=True)
class Column:
    """One column of a table, over all rows: how its methods rank, and what the controls bound it with."""

    task: str
    protocol: str
    dataset: str
    metric: str
    fraction: int
    main: bool  # the task's first metric
    ranking: statistics.Ranking
    unranked: str  # why nothing is ranked, "" where it is
    above_controls: dict[str, bool]  # method -> separably better than EVERY control but the oracle
    floor: float  # what a scaled value of 0 is, NaN if its control is not there
    floor_of: str  # "chance", or the control's name
    ceiling: float  # the oracle control, or 1
    positives: dict[str, int]  # test images per label
    shares: tuple[float, float, float]  # of the methods' variance: patients, draws, seeds (NaN: unknown)
    estimates: dict[str, statistics.Estimate]  # of all rows
    heads: tuple[int, int] = (0, 0)  # trained heads that ended by themselves, and all that say how they ended

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return self.task, self.protocol, self.dataset, self.metric, self.fraction

    def bold(self, method: str) -> bool:
        """Whether no method is separably better and the method is separably better than every control."""
        return method in self.ranking.leaders and self.above_controls.get(method, False)


@dataclass(frozen=True)
class OlderCode:
    """By which code a kept training was made."""

    code: str
    commit: str
    today: str


@dataclass
class Results:
    """All cells (columns ``COLUMNS``), the table columns they form, and the blocks these belong to."""

    cells: pd.DataFrame
    columns: list[Column]
    blocks: list[Block]
    older: dict[str, OlderCode]  # rows whose training is of other code than today's (``pretrain.on_code_change: mark``)

    @cached_property
    def by_column(self) -> dict[tuple[Any, ...], pd.DataFrame]:
        """Key of a column -> its cells, by method."""
        return {key: group.set_index("method") for key, group in self.cells.groupby(KEY)}

    @cached_property
    def column(self) -> dict[tuple[str, str, str, str, int], Column]:
        """Key -> column."""
        return {c.key: c for c in self.columns}

    def statuses(self, row: str, columns: Sequence[Column]) -> set[str]:
        """What became of a row's cells in these columns."""
        keys = {c.key for c in columns}
        own = self.cells[self.cells["method"] == row]
        return {
            s for key, s in zip(zip(*(own[k] for k in KEY), strict=True), own["status"], strict=True) if key in keys
        }


def compute(plan: Plan) -> Results:
    """Compute every cell from the predictions that are there. Never fails for want of predictions."""
    records: list[dict[str, Any]] = []
    columns: list[Column] = []
    older: dict[str, OlderCode] = {}
    for block in plan.blocks:
        new_records, new_columns = _compute_block(plan, block, older)
        records += new_records
        columns += new_columns
    cells = pd.DataFrame(records, columns=COLUMNS)
    whole = dict.fromkeys(("rank", "rank_high", "n_test", "positives"), "Int64")
    return Results(cells.astype({**whole, "above_controls": "boolean"}), columns, list(plan.blocks), older)


@dataclass
class _Evaluations:
    """The predictions of one row, one file per seed; or why there are none."""

    files: list[Predictions] = field(default_factory=list)
    seconds: float = float("nan")
    status: str = "ok"
    reason: str = ""

    def stop(self, status: str, reason: str) -> _Evaluations:
        self.status, self.reason = status, reason
        return self

    @property
    def images(self) -> frozenset[str]:
        return self.files[0].images


def _load(plan: Plan, block: Block, row: Row, older: dict[str, OlderCode]) -> _Evaluations:
    found = _Evaluations()
    if row.fault:
        return found.stop("failed", row.fault)
    if row.entry is not None and (reason := block.task.skip_reason(row.entry, block.dataset)):
        return found.stop("skipped", reason)
    needed = {"fraction", "draw"}.union(*(METRICS[spec.key].columns for spec in block.specs))
    seconds: list[float] = []
    missing: dict[str, list[int]] = {"stale": [], "pending": []}
    for seed in row.seeds:
        path = plan.paths.predictions(block.task_name, block.protocol_name, block.dataset, row.name, seed)
        which = f"seed {seed}: " if len(row.seeds) > 1 else ""
        if why := reason_of_failure(plan, block, row, seed):
            return found.stop("failed", which + why)
        if not path.is_file():
            missing["pending"].append(seed)
            continue
        try:
            frame, meta = read_predictions(path)
        except UserError as error:
            return found.stop("failed", which + error.problem)
        wanted = plan.evaluation(block.task_name, block.protocol_name, block.dataset, row.name, seed)
        if meta.get("fingerprint") != wanted.key:
            missing["stale"].append(seed)
            continue
        _note_older_code(plan, row, seed, meta, older)
        if lacking := sorted(needed - set(frame.columns)):
            return found.stop("failed", f"{which}predictions lack the columns {', '.join(lacking)}")
        file = Predictions.of(frame)
        for fraction, draws in block.plan.items():
            at = fraction_name(block.task, fraction) or "this setting"
            for draw in draws:
                if (fraction, draw) not in file.groups:
                    return found.stop("failed", f"{which}predictions lack draw {draw} at {at}: run again")
                if not file.covers_all(file.groups[fraction, draw]):
                    return found.stop(
                        "failed", f"{which}predictions of draw {draw} at {at} lack test images: run again"
                    )
        found.files.append(file)
        seconds.append(float(meta.get("seconds", "nan")))
    if len({file.images for file in found.files}) > 1:
        return found.stop("failed", "the seeds were evaluated on different test images: run again")
    for status, why in (
        ("stale", "made by other code or another configuration: run again"),
        ("pending", "not computed yet"),
    ):
        if seeds := missing[status]:
            some = f" (seeds {', '.join(map(str, seeds))} of {len(row.seeds)})" if len(seeds) < len(row.seeds) else ""
            return found.stop(status, why + some)
    found.seconds = float(np.mean(seconds))
    return found


def _note_older_code(plan: Plan, row: Row, seed: int, meta: dict[str, Any], older: dict[str, OlderCode]) -> None:
    """Where trainings outlive changes of code (``pretrain.on_code_change: mark``): by which code this one was made."""
    made_by = meta.get("training", {})
    if row.entry is not None and made_by.get("code") != (today := plan.training(row.name, seed).code):
        older[row.name] = OlderCode(str(made_by.get("code", "")), str(made_by.get("commit", "")), today)


def _compute_block(plan: Plan, block: Block, older: dict[str, OlderCode]) -> tuple[list[dict[str, Any]], list[Column]]:
    study = plan.study
    loaded = {row.name: _load(plan, block, row, older) for row in block.rows}
    there = [e for e in loaded.values() if e.status == "ok"]
    reference: frozenset[str] = frozenset()
    if there:  # methods are compared on the same images only; the set that most rows have is the reference
        reference = Counter(e.images for e in there).most_common(1)[0][0]
        for e in there:
            if e.images != reference:
                e.stop(
                    "failed",
                    f"predictions are of {len(e.images)} test images that differ from the other rows' {len(reference)}: run again",
                )
    patients = pd.Index([])
    weights = np.zeros((0, 0), dtype=np.float32)
    names = (study.seed, "bootstrap", block.dataset)  # tasks on one test set draw the same patients
    replicates = study.statistics.bootstrap
    for e in there:
        if e.status == "ok":  # in the order of the test set, not of the ids, whose hashes differ between machines
            patients = e.files[0].patients
            weights = statistics.multiplicities(len(patients), replicates, generator(*names))
            break

    records, columns = [], []
    for index, spec in enumerate(block.specs):
        for fraction, draws in block.plan.items():
            estimates: dict[str, statistics.Estimate] = {}
            reasons: dict[str, str] = {}
            support = _Support()
            for row in block.rows:
                if loaded[row.name].status == "ok":
                    try:
                        estimates[row.name] = _evaluate(
                            loaded[row.name], block, row, spec, fraction, draws, patients, weights, support
                        )
                    except Undefined as error:
                        reasons[row.name] = f"{spec.title}: {error}"
            lost = [r.name for r in block.rows if r.name not in estimates and loaded[r.name].status != "skipped"]
            column = _column(study, block, spec, fraction, index == 0, estimates, lost, support)
            columns.append(column)
            for row in block.rows:
                e = loaded[row.name]
                undefined = e.status == "ok" and row.name not in estimates
                records.append({
                    "task": block.task_name, "protocol": block.protocol_name, "dataset": block.dataset, "metric": spec.title,
                    "method": row.name, "seed_count": len(row.seeds), "draw_count": len(draws), "fraction": fraction,
                    "n_test": len(reference) if e.status == "ok" else None,
                    "status": "failed" if undefined else e.status, "reason": reasons[row.name] if undefined else e.reason,
                    "seconds": e.seconds, **_numbers(column, row.name, study.statistics.level),
                })  # fmt: skip
    return records, columns


def _numbers(column: Column, row: str, level: float) -> dict[str, Any]:
    """What a cell with a value has beside the others."""
    if row not in column.estimates:
        return {}
    found = column.estimates[row]
    variance = found.variance
    low, high = statistics.confidence(found, level)
    best, worst = column.ranking.ranks.get(row, (None, None))
    return {
        "value": found.value, "ci_low": low, "ci_high": high,
        **{f"se_{source}": np.sqrt(getattr(variance, source)) for source in ("patients", "draws", "seeds")},
        "sd_trainings": float(found.seeds.std(ddof=1)) if found.seeded and len(found.seeds) > 1 else float("nan"),
        "positives": min(column.positives.values(), default=None), "rank": best, "rank_high": worst,
        "above_controls": column.above_controls.get(row),
    }  # fmt: skip


@dataclass
class _Support:
    """What a column rests on; the same for every row, whose test images are the same."""

    positives: dict[str, int] = field(default_factory=dict)
    units: int = 0
    chance: float | None = None
    ended: list[bool] = field(default_factory=list)  # of each trained head: by itself, before the maximum


def _evaluate(
    found: _Evaluations,
    block: Block,
    row: Row,
    spec: MetricSpec,
    fraction: int,
    draws: list[int],
    patients: pd.Index,
    weights: np.ndarray,
    support: _Support,
) -> statistics.Estimate:
    """The cell of a row, from the metric [S, D] and its resamples [S, D, R]."""
    metric = METRICS[spec.key]
    shape = (len(found.files), len(draws))
    values, resampled = np.empty(shape), np.empty((*shape, weights.shape[1]))
    for s, file in enumerate(found.files):
        units = patients.get_indexer(file.patients)[file.patient]
        for d, draw in enumerate(draws):
            rows = file.groups[fraction, draw]
            frame = file.frame.take(rows)
            if "stopped" in frame and frame["iterations"].iloc[0] > 0:
                support.ended.append(bool(frame["stopped"].iloc[0]))
            values[s, d], resampled[s, d] = metric.resample(frame, units[rows], weights, spec.args)
            if not support.units:
                support.positives = positives(frame)
                support.units = carriers(spec.key, frame, units[rows], spec.args)
                support.chance = chance(spec.key, frame, spec.args)
    seeded = row.entry is not None and row.entry.seeded
    drawn = bool(block.task.fraction_unit) and not (block.task.fraction_unit == "%" and fraction == 100)
    return statistics.estimate(values, resampled, support.units, seeded=seeded, drawn=drawn)


def _column(
    study: Study,
    block: Block,
    spec: MetricSpec,
    fraction: int,
    main: bool,
    estimates: dict[str, statistics.Estimate],
    lost: list[str],
    support: _Support,
) -> Column:
    level = study.statistics.level
    methods = {r.name: estimates[r.name] for r in block.rows if not r.control and r.name in estimates}
    against = [r.name for r in block.rows if r.control and r.name != ORACLE]
    there = {name: estimates[name] for name in against if name in estimates}
    ranking = statistics.rank(methods, level)
    complete = not set(lost) & set(against)  # a control that failed may have been the best
    above = statistics.above_all(methods, there, level) if complete else {}
    floor, floor_of = support.chance, "chance"
    if floor is None:
        empty = spec.args.get("empty") == "one_if_empty"
        reads = METRICS[spec.key].columns
        floor_of = FLOOR_WITH_EMPTY if empty else next((FLOORS[c] for c in reads if c in FLOORS), "")
        floor = estimates[floor_of].value if floor_of in estimates else float("nan")
    ceiling = estimates[ORACLE].value if ORACLE in estimates else 1.0
    parts = np.array([(v.patients, v.draws, v.seeds) for v in (e.variance for e in methods.values())]).reshape(-1, 3)
    total = np.nansum(parts)
    patients, by_draw, by_seed = (parts.sum(axis=0) / total if total > 0 else np.full(3, np.nan)).tolist()
    return Column(
        block.task_name, block.protocol_name, block.dataset, spec.title, fraction, main, ranking,
        _unranked(methods, fraction_name(block.task, fraction)) if not ranking.ranks else "",
        above, floor, floor_of, ceiling, support.positives, (patients, by_draw, by_seed), estimates,
        (sum(support.ended), len(support.ended)),
    )  # fmt: skip


def _unranked(methods: dict[str, statistics.Estimate], labels: str) -> str:
    """Why nothing can be ranked."""
    variances = [e.variance for e in methods.values()]
    if not variances:
        return ""
    why = []
    if any(np.isnan(v.seeds) for v in variances):
        why.append("there is one pre-training seed, so that how far another training would differ is unknown")
    if any(np.isnan(v.draws) for v in variances):
        why.append(f"there is one draw of the labels at {labels}, so that how far another would differ is unknown")
    return "; ".join(why) or "fewer than two patients carry the metric, or it is not defined in enough resamples"


def write_cells(cells: pd.DataFrame, path: Path) -> None:
    """``cells.csv``: numbers with six decimals, seconds with one."""
    six = ("value", "ci_low", "ci_high", "se_patients", "se_draws", "se_seeds", "sd_trainings")
    rounded = cells.round({**dict.fromkeys(six, 6), "seconds": 1})
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded.to_csv(path, index=False)
