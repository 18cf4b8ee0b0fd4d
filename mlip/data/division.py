"""Which row trains, validates and tests, and the nested draws of training labels. Always by patient, except where a
published lineage did otherwise (``mlip/data/lineages.py``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from mlip.data import lineages
from mlip.data.duplicates import near_duplicates
from mlip.data.splits import content_hash
from mlip.data.store import Store, open_store
from mlip.errors import UserError
from mlip.paths import StudyPaths
from mlip.seeding import generator
from mlip.study import Study

RULES = ("strict", "official", "test_only", "train_only")
STRICT_SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
CARVED = 0.1  # share of the official training patients that validates where there is no official validation part
ENOUGH = 5  # a label with at least so many positive (and negative) training patients must be in every draw


@dataclass
class Parts:
    """A division before it is written. ``rows``/``part`` may name a row twice where a lineage leaks on purpose."""

    rows: np.ndarray
    part: np.ndarray
    notes: list[str] = field(default_factory=list)


def build_splits(name: str, study: Study, draws: int = 1, fingerprint: str = "") -> None:
    """Divide a built store into parts and label draws and write ``StudyPaths(study).splits(name)``.

    Rules (``datasets.<name>.split``):

    - ``strict``: 70/10/20 by patient, stratified; patients who share a film count as one. Where the data set has an
      official test part, that is kept, its official validation part too (else a tenth of the training patients is
      carved out), and training films of test patients are used nowhere.
    - ``official``: the official parts as they are; validation is carved from training where there is none.
    - ``test_only``, ``train_only``: all rows in one part.
    - ``lists:<folder>``: published lists ``train.txt``, ``val.txt``, ``test.txt`` of image ids.
    - a published lineage of ``mlip/data/lineages.py``, with its quirks.

    The file has one line per row with ``part`` and ``draw0..``: the smallest whole percentage of labels at which this
    training row is used, so a draw at 1 % lies inside the same draw at 10 %. Beside it, ``.json`` holds rule, counts,
    notes and a hash of the content, which the parquet's metadata repeats.

    Raises
    ------
    UserError : the rule is unknown or does not fit the data set.
    """
    paths, config = StudyPaths(study), study.datasets[name]
    store = open_store(paths.data(name))
    rule, notes = config.split, list[str]()
    if rule in RULES:
        parts = _by_rule(rule, store, study.seed, name)
    elif rule.startswith("lists:"):
        parts = Parts(*lineages.from_lists(Path(rule.removeprefix("lists:")), store, study))
    elif rule in lineages.LINEAGES:
        parts = Parts(*lineages.divide(rule, name, store, study))
    else:
        known = [*RULES, "lists:<folder>", *lineages.LINEAGES]
        raise UserError(f"datasets.{name}.split: there is no rule {rule!r}", where=study.study, fix=f"one of {known}")
    notes += parts.notes
    records = store.records
    table = pd.DataFrame({"row": parts.rows, "part": parts.part})
    table.insert(1, "image_id", records.image_id.to_numpy()[parts.rows])
    table.insert(2, "patient_id", records.patient_id.to_numpy()[parts.rows])
    train = np.flatnonzero(table.part.to_numpy() == "train")
    for draw in range(draws):
        levels = np.zeros(len(table), np.int64)
        if len(train):
            rows = table.row.to_numpy()[train]
            if rule in lineages.LINEAGES:
                levels[train], more = with_both_classes(
                    lineages.sample_levels(len(train), draw), _positives(store, rows)
                )
                notes += [f"draw {draw}: {note}" for note in more]
            else:
                levels[train], more = nested_levels(
                    _positives(store, rows),
                    table.patient_id.to_numpy()[train],
                    generator(study.seed, "draw", name, draw),
                )
                notes += [f"draw {draw}: {note}" for note in more]
        table[f"draw{draw}"] = levels
    write_splits(table, paths.splits(name), rule, notes, fingerprint)


def stratified_order(positive: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An order of n units of which every prefix is stratified.

    Each unit belongs to the stratum of its rarest positive label (or of none). Within its stratum it is shuffled and
    gets the quantile (rank + u) / size, u uniform per stratum; sorting by quantile is systematic sampling, so a prefix
    of share f holds f of every stratum to within one unit.

    Parameters
    ----------
    positive : bool [n, labels].
    """
    count = len(positive)
    stratum = np.full(count, -1)
    for label in np.argsort(-positive.sum(axis=0), kind="stable"):  # the rarest comes last and wins
        stratum[positive[:, label]] = label
    quantile = np.empty(count)
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        quantile[members] = (rng.permutation(len(members)) + rng.random()) / len(members)
    return np.argsort(quantile, kind="stable")


def nested_levels(positive: np.ndarray, patients: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """The smallest percentage at which each training row is used, whole patients at a time, and notes.

    Every label with at least ``ENOUGH`` positive and negative patients has both classes at 1 %: where the stratified
    order alone would not give that, the first patients that do are moved to its front.

    Parameters
    ----------
    positive : bool [n, labels] of the training rows. patients : [n] identifiers.
    """
    index, sizes = by_patient(patients)
    has, lacks = _any_by(positive, index, len(sizes)), _any_by(~positive, index, len(sizes))
    order = stratified_order(has, rng)
    total, notes = len(patients), list[str]()
    wanted = [(label, kind) for label in range(positive.shape[1]) for kind in (has, lacks)]
    wanted = [(label, kind) for label, kind in wanted if min(has[:, label].sum(), lacks[:, label].sum()) >= ENOUGH]
    front: list[int] = []
    while True:
        ordered = np.concatenate([np.array(front, int), order[~np.isin(order, front)]])
        levels = _percentages(sizes[ordered], total)
        levels[: max(1, len(front))] = 1
        smallest = ordered[levels == 1]
        missing = next(((label, kind) for label, kind in wanted if not kind[smallest, label].any()), None)
        if missing is None:
            break
        label, kind = missing
        front.append(int(next(p for p in ordered if kind[p, label])))
    used, asked = int(sizes[smallest].sum()), round(0.01 * total)
    if front and used > asked:
        notes.append(f"1 % of {total} rows is {asked}; {used} are used so that each label has both classes")
    of_patient = np.empty(len(sizes), np.int64)
    of_patient[ordered] = levels
    return of_patient[index], notes


def with_both_classes(levels: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """A lineage's random levels [n] with both classes of every label at 1 %, and notes of what was moved there.

    On the lineages' own data every draw has both by chance and nothing moves; on a small data set the first rows of the order
    that lack are moved to 1 %, for labels with at least ``ENOUGH`` positive and negative rows.

    Parameters
    ----------
    positive : bool [n, labels] of the training rows.
    """
    levels, moved = levels.copy(), 0
    for column in positive.T:
        if min(column.sum(), (~column).sum()) < ENOUGH:
            continue
        for kind in (column, ~column):
            if not (levels[kind] == 1).any():
                candidates = np.flatnonzero(kind)
                levels[candidates[np.argmin(levels[candidates])]] = 1
                moved += 1
    return levels, [f"{moved} rows were moved to 1 % so that each label has both classes there"] if moved else []


def _percentages(sizes: np.ndarray, total: int) -> np.ndarray:
    """Smallest whole percentage p at which each patient of the order is in: the rounded share p of all rows, to the
    nearest patient."""
    targets = np.round(total * np.arange(1, 101) / 100)
    middles = np.cumsum(sizes) - sizes / 2
    return np.minimum(np.searchsorted(targets, middles) + 1, 100)


def _by_rule(rule: str, store: Store, seed: int, name: str) -> Parts:
    records = store.records
    rows = np.arange(len(records))
    if rule in ("test_only", "train_only"):
        return Parts(rows, np.full(len(rows), rule.removesuffix("_only"), dtype=object))
    official = (
        records.official_split.replace({"validate": "val", "valid": "val", "": "none"}).to_numpy(dtype=object).copy()
    )
    patients = records.patient_id.to_numpy()
    positive = _positives(store, rows)
    rng = generator(seed, "parts", name)
    notes: list[str] = []
    if rule == "strict":
        patients, joined = same_film_same_patient(store)
        if joined:
            notes.append(f"{joined} patients share a film with another: they were divided as one patient")
    if not (official == "test").any():
        if rule == "official":
            raise UserError(
                f"{name} has no official test part",
                where=store.folder,
                fix=f"use another rule for datasets.{name}.split",
            )
        return Parts(rows, _divide(positive, patients, STRICT_SHARES, rng), notes)
    part = official
    if rule == "strict":
        for later, earlier in (("test", ("val", "train")), ("val", ("train",))):
            shared = np.isin(part, earlier) & np.isin(patients, patients[part == later])
            if shared.any():
                notes.append(f"{int(shared.sum())} rows of patients who are also in {later} are used nowhere")
                part[shared] = "none"
    if not (part == "val").any():
        train = np.flatnonzero(part == "train")
        part[train] = _divide(positive[train], patients[train], {"train": 1 - CARVED, "val": CARVED}, rng)
    return Parts(rows, part, notes)


def _divide(
    positive: np.ndarray, patients: np.ndarray, shares: dict[str, float], rng: np.random.Generator
) -> np.ndarray:
    """Part of each row: patients are dealt out along a stratified order so that parts get their shares of the rows."""
    index, sizes = by_patient(patients)
    order = stratified_order(_any_by(positive, index, len(sizes)), rng)
    middles = (np.cumsum(sizes[order]) - sizes[order] / 2) / len(patients)
    bounds = np.cumsum(list(shares.values()))[:-1]
    of_patient = np.empty(len(sizes), dtype=object)
    of_patient[order] = np.array(list(shares), dtype=object)[np.searchsorted(bounds, middles)]
    return of_patient[index]


def same_film_same_patient(store: Store) -> tuple[np.ndarray, int]:
    """A group number per row, int64 [N]: a patient's rows, and those of every patient with one of the same films.

    Collections gathered from publications hold the same film under several patients. Also returned: how many patients
    were joined to another.
    """
    index, sizes = by_patient(store.records.patient_id.to_numpy())
    rows = np.arange(len(index))
    pairs = near_duplicates(store, rows, store, rows)
    edges = index[pairs]
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(sizes), len(sizes)))
    _, group = connected_components(graph, directed=False)
    return group[index].astype(np.int64), int(np.isin(group, np.flatnonzero(np.bincount(group) > 1)).sum())


def by_patient(patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of each row's patient, counted by first appearance, and the rows of each patient.

    Not sorted by the identifier: that is a salted hash, and a division must not depend on the salt.
    """
    index, names = pd.factorize(np.asarray(patients))
    return index, np.bincount(index, minlength=len(names))


def _any_by(flags: np.ndarray, index: np.ndarray, groups: int) -> np.ndarray:
    """bool [groups, labels]: whether any row of a group is set."""
    out = np.zeros((groups, flags.shape[1]), bool)
    np.logical_or.at(out, index, flags)
    return out


def _positives(store: Store, rows: np.ndarray) -> np.ndarray:
    """bool [rows, labels]; uncertain and unknown count as negative here."""
    if not store.labels:
        return np.zeros((len(rows), 0), bool)
    return np.stack([store.label(name)[rows] == 1 for name in store.labels], axis=1)


def write_splits(table: pd.DataFrame, path: Path, rule: str, notes: list[str], fingerprint: str) -> None:
    """Write a table with the columns ``row``, ``image_id``, ``patient_id``, ``part``, ``draw<k>``, and what it says of itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content_hash(table)
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    side = {
        "fingerprint": fingerprint,
        "rule": rule,
        "quirks": lineages.QUIRKS.get(rule, {}),
        "counts": {str(k): int(v) for k, v in table.part.value_counts().items()},
        "notes": notes,
        "content": content,
    }
    path.with_suffix(".json").write_text(json.dumps(side, indent=1) + "\n", encoding="utf-8")
    pq.write_table(arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), b"content": content.encode()}), path)
