"""What holds for the records of every data set: asked by the doctor and by the building of a store, so that they agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from mlip.data.records import Record
from mlip.errors import UserError
from mlip.text.reports import parse_report


def validate_records(records: Sequence[Record], where: Path, name: str) -> None:
    """Make sure that the records of the data set ``name`` can be stored, divided and trained on.

    Parameters
    ----------
    where : the data set's folder or table, for the message; identifiers are not printed.

    Raises
    ------
    UserError : there is no record, two are of one image, one has no patient, or a label is none.
    """
    if not records:
        raise UserError(
            "no image is left after the options were applied", where=where, fix=f"change datasets.{name}.options"
        )
    fix = "use the unmodified official tables"
    if doubled := len(records) - len({r.image_id for r in records}):
        raise UserError(f"lists an image twice ({doubled} rows too many)", where=where, fix=fix)
    for kind in ("image_id", "patient_id"):
        if blank := sum(not getattr(r, kind).strip() for r in records):
            raise UserError(f"has no {kind} for {blank} of {len(records)} images", where=where, fix=fix)
    values = np.fromiter(chain.from_iterable(r.labels.values() for r in records), np.float64)
    if len(wrong := values[~(np.isin(values, (1, 0, -1)) | np.isnan(values))]):
        raise UserError(f"has a label that is {wrong[0]:g}, a label is 1, 0, -1 or NaN", where=where, fix=fix)


def demand_reports(records: Iterable[Record], where: Path, name: str) -> None:
    """Raise UserError where a data set that is to be trained on has no report."""
    if not has_report(records):
        raise UserError(
            f"no report of {name} has a FINDINGS or IMPRESSION sentence, so nothing can be trained on it",
            where=where,
            fix="complete the reports, or take it out of pretrain.datasets",
        )


def has_report(records: Iterable[Record]) -> bool:
    """Whether a single report has a sentence to train on: findings, an impression, or a plain note."""
    return any(not parse_report(r.report).empty for r in records if r.report.strip())
