"""Rows of a study that are one method with a difference: without a part of it, or on a share of the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlip.methods import without_a_part

if TYPE_CHECKING:
    from benchmarks.plan import Block, Row

ABLATION, PAIRS = "ablation", "pairs"


def ablated(blocks: Sequence[Block]) -> list[tuple[Row, Row]]:
    """(full method, the same without a part) of a study's rows; none in most studies."""
    rows = _rows(blocks)
    pairs = without_a_part({name: row.entry for name, row in rows.items() if row.entry is not None})
    return [(rows[full], rows[name]) for full, name in pairs]


def on_shares(blocks: Sequence[Block]) -> list[list[Row]]:
    """Rows that are one method on several shares of the pairs, smallest share first; none in most studies."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in _rows(blocks).values():
        if row.entry is not None:
            same = (row.entry.manifest.id, row.entry.encoder, repr(row.entry.components), repr(row.entry.params))
            groups.setdefault(same, []).append(row)
    found = [sorted(group, key=share) for group in groups.values()]
    return [group for group in found if len({share(row) for row in group}) > 1]


def share(row: Row) -> int:
    """Percent of the training patients whose pairs the row is trained on."""
    return row.entry.pairs if row.entry is not None else 100


def figures(tasks: Sequence[str], blocks: Sequence[Block]) -> list[str]:
    """Names, without suffix, of all figures that a study's tables draw."""
    return [*tasks, *([ABLATION] if ablated(blocks) else []), *([PAIRS] if on_shares(blocks) else [])]


def _rows(blocks: Sequence[Block]) -> dict[str, Row]:
    return {row.name: row for block in blocks for row in block.rows}
