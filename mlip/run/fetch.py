"""``mlip fetch``: real data that need no agreement, loaded and handed to the doctor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlip.errors import UserError

if TYPE_CHECKING:
    from mlip.fetch.addresses import Licence


def fetch(
    name: Annotated[str | None, typer.Argument(help="data set, named as its reader; without: what there is")] = None,
    to: Annotated[Path, typer.Option(help="folder of all data sets (`data_root` of a study)")] = Path("data"),
    first: Annotated[bool, typer.Option("--first", help="the first archive of films only")] = False,
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="accept it without a question")] = False,
    keep_archives: Annotated[bool, typer.Option("--keep-archives", help="leave them under .fetch")] = False,
) -> None:
    """Load a public data set that needs no agreement, and look at what came. Goes on where it was cut."""
    from mlip.fetch.addresses import read_source
    from mlip.fetch.fetching import fetch as load

    if name is None:
        return _show_all()
    source = read_source(name)
    root = to / source.folder

    def accept(licence: Licence) -> str:
        typer.echo(f"{source.title}\nLicence: {licence.terms}")
        if accept_licence:
            return "--accept-licence"
        if not is_terminal():
            raise UserError(
                "its licence is not accepted yet", where=licence.url, fix="read it and add --accept-licence"
            )
        if not typer.confirm("Do you accept it?"):
            raise UserError("its licence was not accepted", where=licence.url, fix="nothing was loaded")
        return "answered yes"

    loaded = load(name, source, root, accept, first=first, keep_archives=keep_archives)
    typer.echo(f"{root}: loaded {', '.join(loaded)}" if loaded else f"{root}: all was there")
    _look(name, root)


def is_terminal() -> bool:
    """Whether somebody is there who can answer."""
    return sys.stdin.isatty()


def _look(name: str, root: Path) -> None:
    """Hand the folder to the doctor."""
    from mlip.run.doctor import examine_folder, render_folder

    health = examine_folder(name, root)
    render_folder(health)
    if not health.usable:
        raise typer.Exit(1)


def _show_all() -> None:
    from rich.console import Console
    from rich.table import Table

    from mlip.fetch.addresses import names, read_source

    table = Table("data set", "what", "GB to load", "GB on the disk", "licence", "addresses", box=None, pad_edge=False)
    for name in names():
        source = read_source(name)
        sizes = [
            f"{sum(sizes) / 1e9:,.1f}" for sizes in zip(*((f.size, f.unpacked) for f in source.files), strict=True)
        ]
        tried = f"tried {source.tried}" if source.tried else f"believed {source.believed}, not tried"
        table.add_row(name, source.title, *sizes, source.licence.name, tried)
    Console().print(table)
