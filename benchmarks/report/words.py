"""The words of the pages: what a protocol is, how a table is read, how a row is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import yaml

from benchmarks.cells import Results, fraction_name
from benchmarks.scores.support import FEW
from mlip.data.sources import comes_from, is_known
from mlip.study import Study

if TYPE_CHECKING:
    from benchmarks.plan import Block, Row

RECONSTRUCTION = "†"
OLDER = "‡"
EXTERNAL = "§"


def describe(study: Study, blocks: Sequence[Block]) -> str:
    """Protocol, lineage, quirks, the study's overrides, and how many draws, seeds and test images are behind the table."""
    block = blocks[0]
    protocol, config = block.protocol, study.tasks[block.task_name]
    lines = [f"## Protocol `{block.protocol_name}`: {protocol.title}", ""]
    lines.append(f"- Follows: {protocol.lineage or 'no paper, a protocol of our own'}")
    if protocol.quirks:
        lines += ["- Quirks kept:", *(f"  - {quirk}" for quirk in protocol.quirks)]
    else:
        lines.append("- Quirks kept: none")
    if budget := config.budget_of(block.protocol_name):
        changed = ", ".join(f"`{key}` = {_plain(value)}" for key, value in budget.items())
        lines.append(f"- Budget of this study, overriding the protocol: {changed}")
    for name, target in config.targets.items():
        lines.append(f"- {name}, as this study says: {_plain(target)}")
    if block.task.fraction_unit:
        draws = ", ".join(f"{len(d)} at {fraction_name(block.task, f)}" for f, d in block.plan.items())
        lines.append(f"- Draws of the labels: {draws}")
    else:
        lines.append("- No labels are used")
    lines.append(f"- Pre-training seeds: {len(study.pretrain.seeds)}")
    return "\n".join(lines)


def settings(block: Block) -> str:
    """All values of the protocol, folded away."""
    values = block.protocol.model_dump(mode="json", exclude={"name", "title", "lineage", "quirks"})
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110).rstrip()
    return f"<details><summary>All settings</summary>\n\n```yaml\n{text}\n```\n\n</details>"


def how_to_read(study: Study) -> str:
    level = f"{100 * study.statistics.level:g} %"
    wrong = f"{100 * (1 - study.statistics.level):g} %"
    lines = [
        "## How to read",
        "",
        f"- Each cell: value × 100, its {level} interval, and (the ranks it may have). The value is the mean over pre-training "
        "seeds and label draws.",
        "- Interval: Student's t on the logit scale. Its variance is that of test patients "
        f"({study.statistics.bootstrap} bootstrap resamples), label draws and seeds, each estimated apart; the line *Variance* "
        "says what share each has, `?` where there is one seed or one draw and nothing is known.",
        "- Ranks: two methods are told apart where a test of their difference, paired in patients and draws, is significant after "
        f"Holm's adjustment for all pairs of the column: where all methods of a column are equal, the chance that any pair is told apart is {wrong}. "
        "`1–3` means that no more than this can be said: ranks 1 to 3. A higher value never has a worse rank.",
        "- **Bold**: neither this method nor one of a higher value is separably worse than another, and it is separably better than EVERY "
        "control of the column.",
        "- Smallest separable gap: the smallest difference between two methods that was separable, and how many pairs were.",
        "- Controls stand below the line and take no rank. A row in which nothing depends on the seed is evaluated once.",
        f"- Labels with fewer than {FEW} positive test images are marked **few**: their intervals are wide and less sure.",
        f"- {RECONSTRUCTION} reconstruction: built from the paper's description; agreement with the authors' numbers is not established.",
        "- pending, stale, failed and skipped cells carry a letter that names the reason under the table.",
        "- How often all this is right on simulated studies: the table in `docs/tables.md`.",
    ]
    if len(study.pretrain.seeds) == 1:
        some = any(v.weights for v in study.methods.variants.values())
        where = (
            f" where a row that is trained here takes part (those of {EXTERNAL} are compared as they are)"
            if some
            else ""
        )
        lines.append(
            "- There is ONE pre-training seed. How far another training of the same method would differ is unknown, so there are "
            f"no ranks and no bold{where}, and the intervals do not hold that variation."
        )
    return "\n".join(lines)


def row_name(row: Row, results: Results | None = None) -> str:
    """The row's title with its marks: reconstruction, and (where ``results`` are given) a training of older code."""
    reconstruction = row.entry is not None and row.entry.status == "reconstruction"
    older = results is not None and row.name in results.older
    marks = [(RECONSTRUCTION, reconstruction), (OLDER, older), (EXTERNAL, row.entry is not None and row.entry.external)]
    return " ".join([row.title, *(mark for mark, there in marks if there)])


def full_name(row: Row, results: Results | None = None) -> str:
    """:func:`row_name`, and of a checkpoint that others trained what on: for tables, where there is room."""
    return row_name(row, results) + trained_on(row)


def trained_on(row: Row) -> str:
    """ " (trained on MIMIC-CXR)" of a checkpoint that others trained; "" of other rows."""
    if row.entry is None or row.entry.weights is None:
        return ""
    return f" (trained on {', '.join(row.entry.weights.trained_on) or 'unknown data'})"


def letter(number: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("a") + rest) + text
    return text


def _plain(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...").strip()


def external_rows(study: Study, results: Results) -> list[str]:
    """The section on rows that others trained: what was read, where they may have seen test films, and what one training leaves
    open; none where there is no such row.
    """
    rows = {row.name: row for block in results.blocks for row in block.rows}
    tested = {block.dataset: study.datasets[block.dataset].reader for block in results.blocks}
    lines = []
    for row in rows.values():
        if row.entry is None or row.entry.weights is None:
            continue
        weights = row.entry.weights
        seen = {name: comes_from(reader, weights.trained_on) for name, reader in tested.items()}
        unknown = [name for name in weights.trained_on if not is_known(name)]
        may = [f"**{name}** (from {', '.join(of)})" for name, of in seen.items() if of]
        said = [f"- {EXTERNAL} {row.title}: `{weights.path.name}`{trained_on(row)}."]
        if not weights.trained_on:
            said.append("What it was trained on is not said: it may have seen the test films of every data set.")
        elif may:
            said.append(f"It may have seen test films of {', '.join(may)}: its numbers there may flatter it.")
        else:
            said.append("It names no collection that the test films are from.")
        if unknown:
            said.append(f"Of {', '.join(unknown)} it is not known what it holds.")
        lines.append(" ".join(said))
    if not lines:
        return []
    about = (
        "These rows were trained elsewhere and are used as they are. Each is ONE training: its intervals and ranks are those of this "
        "checkpoint, and how far another training of the same method would differ is unknown."
    )
    return ["\n".join(["## Checkpoints of others", "", about, "", *lines])]


def older_code(results: Results) -> list[str]:
    """The paragraph on rows whose training outlived an edit of the code; none where there is no such row."""
    if not results.older:
        return []
    names = {row.name: row for block in results.blocks for row in block.rows}
    lines = [
        f"- {OLDER} {names[name].title}: trained by code `{found.code}` (commit {found.commit[:12] or 'unknown'}), "
        f"today's is `{found.today}`."
        for name, found in results.older.items()
    ]
    return ["\n".join(["## Trainings of older code", "", *lines])]
