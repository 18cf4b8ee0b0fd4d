"""Commands that hand results on: ``mlip export``, ``mlip pack``, ``mlip unpack``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlip.study import load_study

if TYPE_CHECKING:
    from benchmarks.plan import Plan

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="a study file, or the name of one under config/")]


def plan_of(study: str) -> Plan:
    """The plan of a study given by file or by name."""
    from benchmarks.plan import resolve

    file = Path(study)
    return resolve(load_study(file if file.suffix else Path("config") / f"{study}.yaml"), look=False)


def export(
    study: StudyName,
    row: Annotated[str, typer.Argument(help="a row of the study")],
    folder: Annotated[Path, typer.Argument(help="a new folder")],
    seed: Annotated[int, typer.Option(help="pre-training seed")] = 0,
) -> None:
    """The image encoder of one training as a folder that timm loads, with its model card."""
    plan = plan_of(study)
    plan.row(row)  # a mistyped name is refused before torch is imported
    from mlip.run.export import export as write

    typer.echo(f"wrote {folder}; load it with {write(plan, row, seed, folder)}")


def pack(
    study: StudyName,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the archive; without: STUDY.tar.gz")] = None,
) -> None:
    """Predictions, cells and cards of a study as one archive without identifiers."""
    plan = plan_of(study)
    from mlip.run.pack import pack as write

    file = out or Path(f"{plan.study.study}.tar.gz")
    found = write(plan, file)
    typer.echo(
        f"wrote {file}: {found['cells'].get('ok', 0)} cells from {len(found['predictions'])} files of predictions"
    )


def unpack(
    file: Annotated[Path, typer.Argument(help="an archive of `mlip pack`")],
    folder: Annotated[Path, typer.Argument(help="a new folder")],
    pages: Annotated[bool, typer.Option("--pages", help="write its tables and leaderboard too")] = False,
) -> None:
    """Lay an archive out, compute its cells again, and say whether they are those that it holds."""
    from mlip.run.unpack import unpack as read

    found = read(file, folder, pages)
    typer.echo(
        f"{found.cells.get('ok', 0)} cells are what the predictions say; compare with {folder / 'results' / found.study}"
    )
