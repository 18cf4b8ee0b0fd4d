"""The cells of a study: which there should be, which there are, and their numbers with intervals and ranks.

A cell is one number of a table: task, protocol, data set, metric, label fraction, method. Every expected cell has a
row, whatever became of it: ``ok``, ``failed`` (it or what it is made from), ``stale`` (there is one, of other code or another
configuration), ``skipped`` (the method cannot do this) or ``pending``, with the reason. A cell needs all its seeds and draws:
a mean over the seeds that survived would flatter a method. A row in which nothing depends on the pre-training seed (a
task's own control, or ``seeded: false``) has one, and a variance between seeds of 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmarks import breakdown
from benchmarks.failures import reason_of_failure
from benchmarks.scores import statistics
from benchmarks.scores.metrics import METRICS
from benchmarks.scores.predictions import Predictions, read_predictions
from benchmarks.scores.resampled import owners_of, resampled
from benchmarks.scores.support import carriers, chance, positives
from benchmarks.scores.weighted import Undefined
from benchmarks.tasks.shared.task import MetricSpec, Task
from mlip.errors import UserError
from mlip.seeding import generator
from mlip.study import Study
from mlip.workers import forked

if TYPE_CHECKING:
    from benchmarks.plan import Block, Plan, Row

COLUMNS = [
    "task", "protocol", "dataset", "metric", "method", "seed_count", "draw_count", "fraction",
    "value", "ci_low", "ci_high", "se_patients", "se_draws", "se_seeds", "sd_trainings", "n_test", "positives",
    "status", "reason", "seconds", "rank", "rank_high", "above_controls", "ahead_of",
]  # fmt: skip
MANY = 1000  # test patients from which on a row is worth a process
KEY = ["task", "protocol", "dataset", "metric", "fraction"]  # of a column of cells
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
    above_controls: dict[str, bool]  # method -> separably better than EVERY control
    floor: float  # what a scaled value of 0 is, NaN if its control is not there
    floor_of: str  # "chance", or the control's name
    positives: dict[str, int]  # test images per label
    shares: tuple[float, float, float]  # of the methods' variance: patients, draws, seeds (NaN: unknown)
    estimates: dict[str, statistics.Estimate]  # of all rows
    heads: tuple[int, int] = (0, 0)  # trained heads that ended by themselves, and all that say how they ended
    seen: tuple[int, int] = (
        0,
        0,
    )  # where no training saw all films that it had labels of: most that one saw, and their number

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
    behind: pd.DataFrame  # labels, subgroups and calibration (:mod:`benchmarks.breakdown`)

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


def compute(plan: Plan, workers: int = 1) -> Results:
    """Compute every cell from the predictions that are there, rows in ``workers`` processes. Never fails for want of predictions."""
    records: list[dict[str, Any]] = []
    columns: list[Column] = []
    older: dict[str, OlderCode] = {}
    behind: list[dict[str, Any]] = []
    for block in plan.blocks:
        new_records, new_columns, more = _compute_block(plan, block, older, workers)
        records += new_records
        columns += new_columns
        behind += more
    cells = pd.DataFrame(records, columns=COLUMNS)
    whole = dict.fromkeys(("rank", "rank_high", "n_test", "positives"), "Int64")
    cells = cells.astype({**whole, "above_controls": "boolean"})
    return Results(cells, columns, list(plan.blocks), older, pd.DataFrame(behind, columns=breakdown.COLUMNS))


@dataclass
class _Evaluations:
    """The predictions of one row, one file per seed; or why there are none. The files are read again when they are needed, since
    all rows of a large test set at once would fill the memory."""

    paths: list[Path] = field(default_factory=list)
    images: frozenset[str] = frozenset()
    patients: pd.Index = field(default_factory=lambda: pd.Index([]))  # in the order of the test set
    seconds: float = float("nan")
    status: str = "ok"
    reason: str = ""

    def stop(self, status: str, reason: str) -> _Evaluations:
        self.status, self.reason = status, reason
        return self

    def files(self) -> list[Predictions]:
        return [Predictions.of(read_predictions(path)[0]) for path in self.paths]


def _load(plan: Plan, block: Block, row: Row, older: dict[str, OlderCode]) -> _Evaluations:
    found = _Evaluations()
    if row.fault:
        return found.stop("failed", row.fault)
    if row.entry is not None and (reason := block.task.skip_reason(row.entry, block.dataset)):
        return found.stop("skipped", reason)
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
        if why := _unusable(block, frame):
            return found.stop("failed", which + why)
        images = frozenset(frame["image_id"].unique())
        if found.paths and images != found.images:
            return found.stop("failed", "the seeds were evaluated on different test images: run again")
        if not found.paths:
            found.images, found.patients = images, pd.Index(frame["patient_id"].unique())
        found.paths.append(path)
        seconds.append(float(meta.get("seconds", "nan")))
    for status, why in (
        ("stale", "made by other code or another configuration: run again"),
        ("pending", "not computed yet"),
    ):
        if seeds := missing[status]:
            some = f" (seeds {', '.join(map(str, seeds))} of {len(row.seeds)})" if len(seeds) < len(row.seeds) else ""
            return found.stop(status, why + some)
    found.seconds = float(np.mean(seconds))
    return found


def _unusable(block: Block, frame: pd.DataFrame) -> str:
    """Why no cell can be made of these predictions; "" where one can."""
    needed = {"fraction", "draw"}.union(*(METRICS[spec.key].columns for spec in block.specs))
    if lacking := sorted(needed - set(frame.columns)):
        return f"predictions lack the columns {', '.join(lacking)}"
    images = frame["image_id"].nunique()
    covered = frame.groupby(["fraction", "draw"])["image_id"].nunique().to_dict()
    for fraction, draws in block.plan.items():
        at = fraction_name(block.task, fraction) or "this setting"
        for draw in draws:
            if (fraction, draw) not in covered:
                return f"predictions lack draw {draw} at {at}: run again"
            if covered[fraction, draw] < images:
                return f"predictions of draw {draw} at {at} lack test images: run again"
    return ""


def _note_older_code(plan: Plan, row: Row, seed: int, meta: dict[str, Any], older: dict[str, OlderCode]) -> None:
    """Where trainings outlive changes of code (``pretrain.on_code_change: mark``): by which code this one was made."""
    made_by = meta.get("training", {})
    if row.entry is not None and made_by.get("code") != (today := plan.training(row.name, seed).code):
        older[row.name] = OlderCode(str(made_by.get("code", "")), str(made_by.get("commit", "")), today)


def _compute_block(
    plan: Plan, block: Block, older: dict[str, OlderCode], workers: int
) -> tuple[list[dict[str, Any]], list[Column], list[dict[str, Any]]]:
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
    ok = [row for row in block.rows if loaded[row.name].status == "ok"]
    patients = (
        loaded[ok[0].name].patients if ok else pd.Index([])
    )  # not in the order of the ids, whose hashes differ by machine
    names = (study.seed, "bootstrap", block.dataset)  # tasks on one test set draw the same patients
    weights = statistics.multiplicities(len(patients), study.statistics.bootstrap, generator(*names))

    made = [_Made(index, spec, fraction) for index, spec in enumerate(block.specs) for fraction in block.plan]
    for one in made if ok else []:
        one.look(block, loaded[ok[0].name].files()[0], patients)
    shared = _Shared(plan, block, made, loaded, breakdown.subgroups(plan, block.dataset, reference), patients, weights)
    behind: list[dict[str, Any]] = []
    for row, numbers in zip(ok, _by_row(shared, ok, workers), strict=True):
        for one, found in zip(made, numbers.found, strict=True):
            one.add(row.name, found)
        behind += numbers.behind

    records, columns = [], []
    for one in made:
        lost = [r.name for r in block.rows if r.name not in one.estimates and loaded[r.name].status != "skipped"]
        column = _column(study, block, one, lost)
        columns.append(column)
        for row in block.rows:
            e = loaded[row.name]
            undefined = row.name in one.reasons
            records.append({
                "task": block.task_name, "protocol": block.protocol_name, "dataset": block.dataset, "metric": one.spec.title,
                "method": row.name, "seed_count": len(row.seeds), "draw_count": len(block.plan[one.fraction]), "fraction": one.fraction,
                "n_test": len(reference) if e.status == "ok" else None,
                "status": "failed" if undefined else e.status, "reason": one.reasons[row.name] if undefined else e.reason,
                "seconds": e.seconds, **_numbers(column, row.name, study.statistics.level),
            })  # fmt: skip
    return records, columns, behind


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
        "ahead_of": " ".join(sorted(worse for better, worse in column.ranking.better if better == row)),
    }  # fmt: skip


@dataclass
class _Made:
    """What a column is made of, row by row; the test images of all rows are the same."""

    index: int
    spec: MetricSpec
    fraction: int
    estimates: dict[str, statistics.Estimate] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # of rows whose metric is not defined
    positives: dict[str, int] = field(default_factory=dict)
    units: int = 0
    chance: float | None = None
    ended: list[bool] = field(default_factory=list)  # of each trained head: by itself, before the maximum
    # Of each training: different films, and how many had labels.
    seen: list[tuple[int, int]] = field(default_factory=list)

    @property
    def most_seen(self) -> tuple[int, int]:
        """(0, 0) where some training saw all."""
        most = max(self.seen, default=(0, 0), key=lambda pair: pair[0] / pair[1])
        return most if most[0] < most[1] else (0, 0)

    def look(self, block: Block, file: Predictions, patients: pd.Index) -> None:
        """What is there to be found, from the predictions of any row."""
        key, args = self.spec.key, self.spec.args
        rows = file.groups[self.fraction, block.plan[self.fraction][0]]
        frame = file.frame.take(rows)
        self.positives = positives(frame)
        self.units = carriers(key, frame, owners_of(file, patients)[rows], args)
        self.chance = chance(key, frame, args)

    def add(self, row: str, found: _Found) -> None:
        if found.estimate is not None:
            self.estimates[row] = found.estimate
            self.ended += found.ended
            self.seen += found.seen
        else:
            self.reasons[row] = found.reason

    def of_row(
        self, block: Block, row: Row, files: list[Predictions], patients: pd.Index, weights: np.ndarray
    ) -> _Found:
        """The cell of a row, from the metric [S, D] and its resamples [S, D, R]."""
        draws = block.plan[self.fraction]
        try:
            values, again = resampled(
                files, METRICS[self.spec.key], self.spec.args, self.fraction, draws, patients, weights
            )
            seeded, drawn = row.entry is not None and row.entry.seeded, block.drawn(self.fraction)
            estimate = statistics.estimate(values, again, self.units, seeded=seeded, drawn=drawn)
        except Undefined as error:
            return _Found(None, f"{self.spec.title}: {error}")
        ended: list[bool] = []
        for file in (file for file in files if "stopped" in file.frame):
            heads = file.frame.iloc[[file.groups[self.fraction, draw][0] for draw in draws]]
            ended += heads.loc[heads["iterations"] > 0, "stopped"].astype(bool).tolist()
        seen: list[tuple[int, int]] = []
        for file in (file for file in files if "seen" in file.frame):
            heads = file.frame.iloc[[file.groups[self.fraction, draw][0] for draw in draws]]
            trained = heads.loc[heads["labelled"] > 0, ["seen", "labelled"]].astype(int)
            seen += list(trained.itertuples(index=False, name=None))
        return _Found(estimate, "", ended, seen)


@dataclass
class _Found:
    """A row's estimate in one column, or why there is none."""

    estimate: statistics.Estimate | None
    reason: str = ""
    ended: list[bool] = field(default_factory=list)
    seen: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class _Numbers:
    """All that is computed of one row in one block."""

    found: list[_Found]  # by column
    behind: list[dict[str, Any]]


@dataclass
class _Shared:
    """What the numbers of every row of a block are made with."""

    plan: Plan
    block: Block
    made: list[_Made]
    loaded: dict[str, _Evaluations]
    groups: breakdown.Groups
    patients: pd.Index
    weights: np.ndarray

    def numbers(self, row: Row) -> _Numbers:
        files = self.loaded[row.name].files()
        found = [one.of_row(self.block, row, files, self.patients, self.weights) for one in self.made]
        behind = breakdown.breakdown(self.plan, self.block, row, files, self.groups, self.patients, self.weights)
        return _Numbers(found, behind)


_shared: list[_Shared] = []  # of a worker process


def _by_row(shared: _Shared, rows: list[Row], workers: int) -> Iterator[_Numbers]:
    """The numbers of each row, in their order. Small test sets are not worth a process."""
    workers = min(workers, len(rows))
    if workers < 2 or len(shared.patients) < MANY:
        yield from map(shared.numbers, rows)
        return
    with forked(workers, _shared.append, (shared,)) as pool:
        yield from pool.map(_in_worker, rows)


def _in_worker(row: Row) -> _Numbers:
    return _shared[-1].numbers(row)


def _column(study: Study, block: Block, made: _Made, lost: list[str]) -> Column:
    level = study.statistics.level
    spec, fraction, estimates = made.spec, made.fraction, made.estimates
    methods = {r.name: estimates[r.name] for r in block.rows if not r.control and r.name in estimates}
    against = [r.name for r in block.rows if r.control]
    there = {name: estimates[name] for name in against if name in estimates}
    ranking = statistics.rank(methods, level)
    complete = not set(lost) & set(against)  # a control that failed may have been the best
    above = statistics.above_all(methods, there, level) if complete else {}
    floor, floor_of = made.chance, "chance"
    if floor is None:
        empty = spec.args.get("empty") == "one_if_empty"
        reads = METRICS[spec.key].columns
        floor_of = FLOOR_WITH_EMPTY if empty else next((FLOORS[c] for c in reads if c in FLOORS), "")
        floor = estimates[floor_of].value if floor_of in estimates else float("nan")
    parts = np.array([(v.patients, v.draws, v.seeds) for v in (e.variance for e in methods.values())]).reshape(-1, 3)
    total = np.nansum(parts)
    patients, by_draw, by_seed = (parts.sum(axis=0) / total if total > 0 else np.full(3, np.nan)).tolist()
    return Column(
        block.task_name, block.protocol_name, block.dataset, spec.title, fraction, made.index == 0, ranking,
        _unranked(methods, fraction_name(block.task, fraction)) if not ranking.ranks else "",
        above, floor, floor_of, made.positives, (patients, by_draw, by_seed), estimates,
        (sum(made.ended), len(made.ended)), made.most_seen,
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
