"""CheXpert's fourteen label columns as numbers, and the signs by which exchanged columns betray themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mlip.data.formats.tables import Column, bad_row, header, read_table
from mlip.errors import UserError

CHEXPERT_LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
_CONTRADICTIONS = 0.05  # tolerated share of No Finding rows with a finding; the labeller itself makes none


def label_table(path: Path, columns: Sequence[Column], order: tuple[str, ...], rows: int | None = None) -> pd.DataFrame:
    """A table with CheXpert's label columns: those of ``columns`` and the fourteen labels, which are float64.

    Columns are read by name, so exchanged *names* would change every label unseen. Three things show them: the order of
    the official table, values that no label has, and "No Finding" beside findings (the labeller gives it only where nothing
    but support devices is positive or uncertain: chexpert-labeler, ``stages/aggregate.py``).

    Parameters
    ----------
    order : the label columns in the order in which the official table has them.
    rows : only so many rows from the top; "No Finding" is then not looked at, it takes the whole table.

    Raises
    ------
    UserError : as ``read_table``, or one of these signs; the column, and the line of the file where there is one, are named.
    """
    fix = "use the unmodified official table"
    found = tuple(c for c in header(path) if c in order)
    if moved := [(a, b) for a, b in zip(found, order, strict=False) if a != b and len(found) == len(order)]:
        raise UserError(
            f"has the label column {moved[0][0]!r} where the official table has {moved[0][1]!r}: columns were exchanged",
            where=path,
            fix=fix,
        )
    table = read_table(path, (*columns, *(Column(name, "label") for name in CHEXPERT_LABELS)), rows)
    values = table[list(CHEXPERT_LABELS)].to_numpy(np.float64)
    sound = values[:, 0] == 1
    contradicted = sound & (values[:, 1:-1] == 1).any(axis=1)
    if rows is None and contradicted.sum() > _CONTRADICTIONS * sound.sum():
        row = int(np.flatnonzero(contradicted)[0])
        beside = CHEXPERT_LABELS[1 + int(np.flatnonzero(values[row, 1:-1] == 1)[0])]
        raise bad_row(
            path,
            table.index[row],
            f"'No Finding' is 1 beside {beside!r}, as in {contradicted.sum()} of {sound.sum()} such rows: "
            "label columns were exchanged",
            fix,
        )
    return table
