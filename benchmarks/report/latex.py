"""Tables of a task for a paper: LaTeX with booktabs (``results/<study>/<task>.tex``)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchmarks.cells import Results, fraction_name
from benchmarks.report.table import column_keys, rank_text
from benchmarks.report.words import full_name

if TYPE_CHECKING:
    from benchmarks.plan import Block

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "†": r"$\dagger$", "‡": r"$\ddagger$", "–": "--", "−": "$-$", "…": r"\ldots{}",
}  # fmt: skip


def escape(text: str) -> str:
    """Text with LaTeX's special letters made plain."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def task_tex(results: Results, blocks: Sequence[Block], note: str, level: float) -> str:
    """Every protocol and metric of a task as a ``table``; needs ``\\usepackage{booktabs}`` alone."""
    parts = [f"% {line}" for line in (note, r"needs \usepackage{booktabs}")]
    for protocol, group in groupby(blocks, key=lambda b: b.protocol_name):
        members = list(group)
        for index in range(max(len(b.specs) for b in members)):
            parts.append(_table(results, [b for b in members if len(b.specs) > index], index, protocol, level))
    return "\n".join(parts) + "\n"


def _table(results: Results, blocks: Sequence[Block], index: int, protocol: str, level: float) -> str:
    keys = column_keys(blocks, index)
    cells, columns = results.by_column, results.column
    datasets = [(name, len(list(same))) for name, same in groupby(keys, key=lambda k: f"{k[1][2]} {k[1][3]}")]
    lines = [
        r"\begin{table}\centering\small",
        rf"\caption{{{escape(blocks[0].protocol.title)} ({escape(protocol)}). Value $\times$ 100 with its {100 * level:g}\,\% interval; "
        r"in brackets the ranks that the method may have. Bold: no method of this or a higher value is separably worse than another, and separably better than every control.}",
        rf"\begin{{tabular}}{{l{'c' * len(keys)}}}",
        r"\toprule",
        " & ".join(["", *(rf"\multicolumn{{{n}}}{{c}}{{{escape(name)}}}" for name, n in datasets)]) + r" \\",
        " & ".join(["method", *(escape(fraction_name(b.task, k[4])) for b, k in keys)]) + r" \\",
        r"\midrule",
    ]
    before = False
    for row in blocks[0].rows:
        if row.control and not before:
            lines.append(r"\midrule")
        before = row.control
        text = [_cell(cells[k].loc[row.name], columns[k].bold(row.name)) for _, k in keys]
        lines.append(" & ".join([escape(full_name(row, results)), *text]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _cell(cell: Any, bold: bool) -> str:
    if cell["status"] != "ok":
        return escape(str(cell["status"]))
    value = f"{100 * cell['value']:.1f}"
    value = rf"\textbf{{{value}}}" if bold else value
    if not pd.isna(cell["ci_low"]):
        value += f" {{[{100 * cell['ci_low']:.1f}, {100 * cell['ci_high']:.1f}]}}"
    return value if pd.isna(cell["rank"]) else f"{value} ({escape(rank_text(cell['rank'], cell['rank_high']))})"
