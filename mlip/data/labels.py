"""CheXpert's fourteen label columns as numbers, and the signs by which exchanged columns betray themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

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
_VALUES = (1.0, 0.0, -1.0)
_CONTRADICTIONS = 0.05  # tolerated share of No Finding rows with a finding; the labeller itself makes none


def label_values(table: pd.DataFrame, path: Path, order: tuple[str, ...]) -> np.ndarray:
    """The label columns of a table read as text: float64 [rows, 14] in the order of :data:`CHEXPERT_LABELS`.

    Columns are read by name, so exchanged *names* would change every label unseen. Three things show them: the order of
    the official table, values that no label has, and "No Finding" beside findings (the labeller gives it only
    where nothing but support devices is positive or uncertain: chexpert-labeler, ``stages/aggregate.py``).

    Parameters
    ----------
    order : the label columns in the order in which the official table has them.

    Raises
    ------
    UserError : one of these signs; the column, and the line of the file where there is one, are named.
    """
    fix = "use the unmodified official table"
    found = tuple(c for c in table.columns if c in order)
    if moved := [(a, b) for a, b in zip(found, order, strict=True) if a != b]:
        raise UserError(
            f"has the label column {moved[0][0]!r} where the official table has {moved[0][1]!r}: columns were exchanged",
            where=path,
            fix=fix,
        )
    values = np.empty((len(table), len(CHEXPERT_LABELS)))
    for at, name in enumerate(CHEXPERT_LABELS):
        column = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        wrong = table[name].notna().to_numpy() & ~np.isin(column, _VALUES)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"line {row + 2}: {name!r} is {table[name].iloc[row]!r}, a label is 1, 0, -1 or empty",
                where=path,
                fix=fix,
            )
        values[:, at] = column
    sound = values[:, 0] == 1
    contradicted = sound & (values[:, 1:-1] == 1).any(axis=1)
    if contradicted.sum() > _CONTRADICTIONS * sound.sum():
        row = int(np.flatnonzero(contradicted)[0])
        beside = CHEXPERT_LABELS[1 + int(np.flatnonzero(values[row, 1:-1] == 1)[0])]
        raise UserError(
            f"line {row + 2}: 'No Finding' is 1 beside {beside!r}, as in {contradicted.sum()} of {sound.sum()} such rows: "
            "label columns were exchanged",
            where=path,
            fix=fix,
        )
    return values
