"""Fetching one data set: licence, room, each file loaded, compared and unpacked; what is there already is left alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pooch
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from mlip.errors import UserError
from mlip.fetch.addresses import Licence, Source, SourceFile, address_file
from mlip.fetch.disk import need_room, writing
from mlip.fetch.download import Resuming
from mlip.fetch.lock import NAME, Accepted, Fetched, is_there, known_sha256, read_lock
from mlip.fetch.unpack import unpack
from mlip.log import console, logger

WORKSHOP = ".fetch"  # parts, archives, and what is being unpacked; hidden files are passed over by the readers


def fetch(
    name: str,
    source: Source,
    root: Path,
    accept: Callable[[Licence], str],
    *,
    first: bool = False,
    keep_archives: bool = False,
) -> list[str]:
    """Load a data set into ``root``, in the layout of the reader ``name``.

    Parameters
    ----------
    accept : asks a person for the licence and says how it was accepted; asked once per folder and wording.
    first : only the files of the first part.
    keep_archives : leave the archives under ``.fetch`` when they are unpacked.

    Returns
    -------
    names of the files that were loaded, none where all was there.

    Raises
    ------
    UserError : the licence is not accepted, there is no room, a file cannot be loaded or unpacked, or it is not the file
        that was loaded before: both checksums are named.
    """
    lock = read_lock(root, name)
    where = address_file(name)
    if first and not any(file.beyond_first for file in source.files):
        raise UserError("has no parts", where=where, fix="leave out --first")
    wanted = source.wanted(first)
    known = {file.name: known_sha256(lock, file, root, where) for file in wanted}
    absent = [file for file in wanted if not is_there(lock, file, root)]
    if lock.accepted is None or lock.accepted.terms != source.licence.terms:
        how = accept(source.licence)
        lock.accepted = Accepted(terms=source.licence.terms, on=date.today(), how=how)
    need_room(root, _needed(absent, root, keep_archives))
    with writing(root):
        (root / WORKSHOP).mkdir(parents=True, exist_ok=True)
    with _alone(root), _bars() as progress:
        lock.files = read_lock(root, name).files  # another process may have ended in the meantime
        absent = [file for file in absent if not is_there(lock, file, root)]
        lock.write(root)
        for file in absent:
            logger.info("%s: loading %s MB", file.name, f"{file.size / 1e6:,.1f}")
            load = Resuming(file, where, source.page, root / WORKSHOP / f"{file.name}.part", progress)
            lock.files[file.name] = _one(file, root, load, known[file.name], keep_archives)
            lock.write(root)
    return [file.name for file in absent]


def _one(file: SourceFile, root: Path, load: Resuming, known: str | None, keep: bool) -> Fetched:
    """Load, compare, put into place."""
    workshop = root / WORKSHOP
    pooch.get_logger().setLevel("WARNING")
    loaded = Path(pooch.retrieve(file.url, None, fname=file.name, path=workshop, downloader=load))
    found = pooch.file_hash(str(loaded))
    if known is not None and found != known:
        raise UserError(
            f"has the sha256 {found}, {known} was expected",
            where=loaded,
            fix="remove it and run the same command again; where that does not help, the provider has published another "
            f"version: fetch it into another folder with --to (the expected one is in {root / NAME} or {load.where})",
        )
    size = loaded.stat().st_size
    if file.unpack is None:
        assert file.to is not None
        (root / file.to).parent.mkdir(parents=True, exist_ok=True)
        os.replace(loaded, root / file.to)
        holds = {file.to: size}
    else:
        task = load.progress.add_task(f"unpack {file.name}", total=file.unpack.size)
        scratch = workshop / f"{file.name}.unpacked"
        holds = unpack(loaded, file.unpack, root, scratch, lambda done: load.progress.advance(task, done))
        load.progress.remove_task(task)
        if not keep:
            loaded.unlink()
    logger.info("%s: %s bytes, sha256 %s, %s files", file.name, f"{size:,}", found, f"{len(holds):,}")
    return Fetched(url=file.url, sha256=found, size=size, on=date.today(), holds=holds)


def _needed(files: list[SourceFile], root: Path, keep: bool) -> int:
    """Bytes to be written: what stays, and the archives, of which one at a time is there unless they are kept."""
    archives = [file.size for file in files if file.unpack]
    begun = sum(p.stat().st_size for p in (root / WORKSHOP).glob("*") if p.is_file())
    need = sum(file.unpacked for file in files) + (sum(archives) if keep else max(archives, default=0))
    return max(need - begun, 0)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One process at a time in a folder; a lock of the operating system, which ends with its holder."""
    with (root / WORKSHOP / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError("another mlip fetch is at work there", where=root, fix="wait for its end") from None
        yield


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=False),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
