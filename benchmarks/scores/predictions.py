"""Predictions on disk: one parquet file per task, protocol, data set, method and seed, with its own description inside."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlip.errors import UserError

META = b"mlip"


def write_predictions(frame: pd.DataFrame, path: Path, meta: dict[str, Any]) -> None:
    """Write predictions and, in the same file, what they are: {seconds, task, protocol, dataset, method, seed, ...}.

    The file appears under its name only when complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), META: json.dumps(meta, sort_keys=True).encode()}
    )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_predictions(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Predictions and their metadata.

    Raises
    ------
    UserError : the file is absent, not parquet, or was not written by :func:`write_predictions`.
    """
    try:
        table = pq.read_table(path)
        meta = json.loads(table.schema.metadata[META])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"predictions cannot be read ({type(error).__name__})", where=path, fix="delete it and run again"
        ) from None
    return table.to_pandas(), meta


@dataclass(frozen=True)
class Predictions:
    """One predictions file. Strings are turned to codes once, since the metrics look at them hundreds of times."""

    frame: pd.DataFrame
    groups: dict[tuple[int, int], np.ndarray]  # (fraction, draw) -> rows
    patients: pd.Index  # distinct, by first appearance
    patient: np.ndarray  # [rows] index into ``patients``
    image_ids: np.ndarray  # distinct, by the code in ``frame``

    @property
    def images(self) -> frozenset[str]:
        return frozenset(self.image_ids)

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Predictions:
        image, images = pd.factorize(frame["image_id"])
        patient, patients = pd.factorize(frame["patient_id"])
        keys: Any = frame.groupby(["fraction", "draw"]).indices.items()
        groups = {(int(fraction), int(draw)): np.asarray(rows) for (fraction, draw), rows in keys}
        coded = frame.drop(columns=["patient_id", "fraction", "draw"]).assign(image_id=image.astype(np.int32))
        if "label" in coded:
            coded["label"] = pd.Categorical(coded["label"])
        return cls(coded, groups, pd.Index(patients), patient.astype(np.int32), np.asarray(images, dtype=str))
