"""The division of a store as everything above reads it: which row trains, validates and tests, and the label draws.

``mlip/data/division.py`` makes it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlip.errors import UserError


def read_splits(path: Path) -> pd.DataFrame:
    """The split table of a data set.

    Raises
    ------
    UserError : the file is missing, or its content is not what was written (its hash differs).
    """
    try:
        stored = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot be read ({type(error).__name__})", where=path, fix="build the splits again") from None
    table = stored.to_pandas()
    if (stored.schema.metadata or {}).get(b"content") != content_hash(table).encode():
        raise UserError("was changed after it was written", where=path, fix="delete it and build the splits again")
    return table


def train_rows(splits: pd.DataFrame, fraction: int, draw: int) -> np.ndarray:
    """Sorted store rows of the training part at ``fraction`` percent of the labels in one draw, int64.

    Raises
    ------
    UserError : the table has no such draw, or the fraction is no whole percentage.
    """
    column = f"draw{draw}"
    if column not in splits:
        raise UserError(
            f"the splits hold no draw {draw}", fix="raise `draws` of a task on this data set and build them again"
        )
    if not 1 <= fraction <= 100:
        raise UserError(f"a label fraction of {fraction} % is not between 1 and 100", fix="correct `fractions`")
    used = (splits.part == "train") & (splits[column] > 0) & (splits[column] <= fraction)
    return np.unique(splits.row[used].to_numpy())


def part_rows(splits: pd.DataFrame, part: str) -> np.ndarray:
    """Sorted store rows of a part (train, val, test), int64."""
    return np.unique(splits.row[splits.part == part].to_numpy())


def content_hash(table: pd.DataFrame) -> str:
    """sha256 of rows, parts and draws: equal for everyone who divides the same data, whatever their salt."""
    return hashlib.sha256(table.drop(columns=["image_id", "patient_id"]).to_csv(index=False).encode()).hexdigest()
