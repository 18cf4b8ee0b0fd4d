"""Divisions of published lineages, reproduced with their quirks, and divisions given as lists of image ids.

Rows of a store are in the order in which the published scripts see them (readers take care of that), so the same
library call with the same seed makes the same division of the same data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from mlip.data.catalogue import namespace_of, resolve
from mlip.data.formats.files import need_folder, read_lines
from mlip.data.privacy import hash_id, read_salt
from mlip.data.store import Store
from mlip.errors import UserError
from mlip.paths import StudyPaths
from mlip.seeding import generator
from mlip.study import Study

LINEAGES = {
    "mgca-2022": "MGCA's official code (Wang et al., NeurIPS 2022), the detection and segmentation sizes of its text",
    "g2d-2024": "G2D (Liu et al., NeurIPS 2024), table of sizes in its appendix; differs from MGCA's code on Object-CXR",
    "maco-2024": "MaCo and MRM (Huang et al., 2024; Zhou et al., 2023): sizes of their published lists",
}

# Of MGCA's code, whose divisions g2d-2024 takes over but for Object-CXR's.
_OF_MGCA = {
    "all": "labels are drawn at random, not by class (where a draw at 1 % of a small data set holds one class, a row is moved there)",
    "chexpert": "shared with validation: its rows are dropped from training by label after rows were removed, so some stay in both",
    "covidx": "shared with validation: images of the training list are divided, so a patient with several can be in training and validation",
    "siim": "shared: rows of the csv are divided, so an image with several masks can be in several parts",
}

# Known departures from good practice: data set's reader -> what the division does. `shared` faults are expected then, where it is
# `shared with validation` those between training and validation part.
QUIRKS: dict[str, dict[str, str]] = {
    "mgca-2022": {**_OF_MGCA, "object_cxr": "training is divided 90/10, the sizes printed by others are 80/20"},
    "g2d-2024": _OF_MGCA,
    "maco-2024": {
        "all": "the members of the published lists are not part of this project: the sizes are theirs, the draw is ours; "
        "use lists:<folder> for the members themselves",
    },
}

_Division = tuple[np.ndarray, np.ndarray, list[str]]


def divide(lineage: str, name: str, store: Store, study: Study) -> _Division:
    """Rows, their parts and notes. A row comes twice where the lineage has it in two parts.

    Raises
    ------
    UserError : the lineage has no division for this data set's reader.
    """
    reader = study.datasets[name].reader
    rules = _MGCA if lineage in ("mgca-2022", "g2d-2024") else _MACO
    if reader not in rules:
        raise UserError(
            f"{lineage} has no division of {reader}",
            where=study.study,
            fix=f"use it for {sorted(rules)} or set datasets.{name}.split to strict",
        )
    return rules[reader](lineage, name, store, study)


def sample_levels(count: int, draw: int) -> np.ndarray:
    """Smallest percentage at which each of ``count`` training rows is used: ``sample(frac, random_state=42)`` of the code.

    That call takes a prefix of one permutation, so its fractions are nested. Further draws take the seeds 43, 44, ...
    """
    order = np.random.RandomState(42 + draw).permutation(count)
    levels = np.empty(count, np.int64)
    targets = np.round(count * np.arange(1, 101) / 100)
    levels[order] = np.minimum(np.searchsorted(targets, np.arange(count) + 0.5) + 1, 100)
    return levels


def from_lists(folder: Path, store: Store, study: Study) -> _Division:
    """Division by ``train.txt``, ``val.txt`` (or ``valid.txt``), ``test.txt``: a line, or else its first field, names the image.

    Where no image is called exactly so, folder and suffix of the name are ignored, as published lists differ in them. Images in
    no list are used nowhere.

    Raises
    ------
    UserError : there are no such lists, an image is in two of them, or a name fits several images.
    """
    need_folder(folder, fix="correct the folder after lists:")
    salt, name = read_salt(StudyPaths(study).salt), store.manifest["dataset"]
    reader, options = resolve(study, name)
    kind = f"{namespace_of(study, name)}/image"
    rows = {image: row for row, image in enumerate(store.records.image_id)}
    known: dict[str, int] = {}
    stems: dict[str, set[int]] = {}
    for record in reader.records(study.datasets[name].root, options):
        row = rows.get(hash_id(kind, record.image_id, salt))
        if row is not None:
            known[record.image_id] = row
            stems.setdefault(_stem(record.image_id), set()).add(row)
    part = np.full(len(store.records), "none", dtype=object)
    notes = []
    for file, value in (("train.txt", "train"), ("val.txt", "val"), ("valid.txt", "val"), ("test.txt", "test")):
        lines = [line for line in read_lines(folder / file) if line.replace(",", " ").split()]
        found: list[int] = []
        for number, line in enumerate(lines, 1):
            first = line.replace(",", " ").split()[0]
            exact = known.get(line, known.get(first))
            fitting = stems.get(_stem(first), set()) if exact is None else {exact}
            if len(fitting) > 1:
                raise UserError(
                    f"entry {number} fits {len(fitting)} images of {name}",
                    where=folder / file,
                    fix="write the image's whole name",
                )
            found += fitting
        if len(found) < len(lines):
            notes.append(f"{len(lines) - len(found)} of {len(lines)} images of {file} are not in the store")
        if taken := int((part[found] != "none").sum()):
            raise UserError(
                f"lists {taken} images that another list holds too", where=folder / file, fix="correct the lists"
            )
        part[found] = value
    if not (part == "train").any() or not (part == "test").any():
        raise UserError("names no image of this data set in train.txt or test.txt", where=folder, fix="check the lists")
    return np.arange(len(part)), part, notes


def _stem(name: str) -> str:
    """Without folders and suffix; digits after a dot are a part of an identifier (a DICOM UID)."""
    return re.sub(r"\.[A-Za-z][A-Za-z0-9]*$", "", name.rsplit("/", 1)[-1])


def _simple(lineage: str, store: Store, parts: Mapping[str, Any]) -> _Division:
    part = np.full(len(store.records), "none", dtype=object)
    for value, rows in parts.items():
        part[np.asarray(rows, int)] = value
    return np.arange(len(part)), part, [LINEAGES[lineage]]


def _official(store: Store, value: str) -> np.ndarray:
    return np.flatnonzero(store.records.official_split.to_numpy() == value)


def _mgca_rsna(lineage: str, name: str, store: Store, study: Study) -> _Division:
    """16,010 / 5,337 / 5,337 of 26,684, in other sizes the same shares; the second half is the validation part."""
    count = len(store.records)
    rest = round(count * 2 * 5337 / 26684)
    train, others = train_test_split(np.arange(count), test_size=rest, random_state=0)
    test, val = train_test_split(others, test_size=rest // 2, random_state=0)
    return _simple(lineage, store, {"train": train, "val": val, "test": test})


def _mgca_siim(lineage: str, name: str, store: Store, study: Study) -> _Division:
    """70/15/15 over the rows of the csv: an image may be in several parts."""
    salt = read_salt(StudyPaths(study).salt)
    images = {image: row for row, image in enumerate(store.records.image_id)}
    reader: Any
    reader, options = resolve(study, name)
    raws = reader.annotation_rows(study.datasets[name].root, options)
    hashed = {raw: hash_id("siim/image", raw, salt) for raw in raws}
    lines = np.array([images[hashed[raw]] for raw in raws if hashed[raw] in images])
    train, others = train_test_split(lines, test_size=0.3, random_state=0)
    test, val = train_test_split(others, test_size=0.5, random_state=0)
    parts = {"train": np.unique(train), "val": np.unique(val), "test": np.unique(test)}
    rows = np.concatenate(list(parts.values()))
    part = np.concatenate([np.full(len(v), k, dtype=object) for k, v in parts.items()])
    return rows, part, [LINEAGES[lineage], f"{len(rows) - len(np.unique(rows))} images are in more than one part"]


def _mgca_chexpert(lineage: str, name: str, store: Store, study: Study) -> _Division:
    """5,000 of 191,027 training films validate (in other sizes the same share); the official validation part tests.

    The published script filters films out first, so the labels of its table have gaps; it takes the validation films
    by position but removes those with these *labels* from training.
    """
    reader, options = resolve(study, name)
    root = study.datasets[name].root
    every = reader.records(root, options.model_copy(update={"exclude_five_by_200": False}))
    salt = read_salt(StudyPaths(study).salt)
    label = {
        hash_id("chexpert/image", r.image_id, salt): i
        for i, r in enumerate(r for r in every if r.official_split == "train")
    }
    pool, test = _official(store, "train"), _official(store, "test")
    labels = np.array([label[i] for i in store.records.image_id.to_numpy()[pool]])
    size = min(5000, max(1, round(len(pool) * 5000 / 191027)))
    chosen = np.random.RandomState(0).choice(len(pool), size, replace=False)
    train = pool[~np.isin(labels, chosen)]
    val = pool[chosen]
    rows = np.concatenate([train, val, test])
    part = np.repeat(np.array(["train", "val", "test"], dtype=object), [len(train), len(val), len(test)])
    both = len(np.intersect1d(train, val))
    return rows, part, [LINEAGES[lineage], f"{both} validation films are also training films"]


def _mgca_carved(lineage: str, name: str, store: Store, study: Study) -> _Division:
    """Official test part; training is divided at random by image, random_state 0."""
    share = 0.1 if (lineage, study.datasets[name].reader) == ("mgca-2022", "object_cxr") else 0.2
    train, val = train_test_split(_official(store, "train"), test_size=share, random_state=0)
    return _simple(lineage, store, {"train": train, "val": val, "test": _official(store, "test")})


def _maco_rsna(lineage: str, name: str, store: Store, study: Study) -> _Division:
    """1,500 of the 26,684 training films validate; the 3,000 films of stage_2_test are the test part."""
    test = _official(store, "test")
    if not len(test):
        raise UserError(
            "maco-2024 tests on stage_2_test_images",
            where=study.datasets[name].root,
            fix=f"set datasets.{name}.options.test_labels, or another split",
        )
    pool = generator("maco-2024", name).permutation(_official(store, "train"))
    size = round(len(pool) * 1500 / 26684)
    return _simple(lineage, store, {"val": pool[:size], "train": pool[size:], "test": test})


def _maco_chexpert(lineage: str, name: str, store: Store, study: Study) -> _Division:
    """5,000 training films validate, the official validation part tests."""
    pool = generator("maco-2024", name).permutation(_official(store, "train"))
    size = min(5000, max(1, round(len(pool) * 5000 / 223414)))
    return _simple(lineage, store, {"val": pool[:size], "train": pool[size:], "test": _official(store, "test")})


def _maco_sizes(lineage: str, name: str, store: Store, study: Study) -> _Division:
    """The shares of the published list sizes, dealt out by patient."""
    sizes = {"siim": (7969, 1898, 1904), "nih": (78467, 11218, 22432)}[study.datasets[name].reader]
    index, patients = pd.factorize(store.records.patient_id)
    counts = np.bincount(index)
    order = generator("maco-2024", name).permutation(len(patients))
    middles = (np.cumsum(counts[order]) - counts[order] / 2) / len(index)
    dealt = np.empty(len(patients), int)
    dealt[order] = np.searchsorted(np.cumsum(sizes)[:-1] / sum(sizes), middles)
    part = dealt[index]
    return _simple(lineage, store, {v: np.flatnonzero(part == i) for i, v in enumerate(("train", "val", "test"))})


_MGCA = {
    "rsna": _mgca_rsna,
    "siim": _mgca_siim,
    "chexpert": _mgca_chexpert,
    "covidx": _mgca_carved,
    "object_cxr": _mgca_carved,
}
_MACO = {"rsna": _maco_rsna, "chexpert": _maco_chexpert, "siim": _maco_sizes, "nih": _maco_sizes}
