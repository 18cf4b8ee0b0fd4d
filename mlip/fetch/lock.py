"""The lock file beside the data: what was accepted, and the checksum of each file that was loaded."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from pydantic import Field, ValidationError

from mlip.errors import UserError
from mlip.fetch.addresses import Sha256, SourceFile
from mlip.study import Strict, describe

NAME = "fetch.lock.json"


class Accepted(Strict):
    terms: str
    on: date
    how: str


class Fetched(Strict):
    """A file as it was when it was loaded first. ``holds``: bytes of what came of it, by path below the data set's folder."""

    url: str
    sha256: Sha256
    size: int
    on: date
    holds: dict[str, int] = Field(repr=False)


class Lock(Strict):
    source: str
    accepted: Accepted | None = None
    files: dict[str, Fetched] = Field(default_factory=dict)

    def write(self, root: Path) -> None:
        """In one step, so that a kill leaves the old or the new one."""
        draft = root / f".{NAME}"
        draft.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        draft.replace(root / NAME)


def read_lock(root: Path, source: str) -> Lock:
    """The lock of a folder; an empty one where nothing was fetched into it.

    Raises
    ------
    UserError : it is of another data set or damaged, or the folder holds files that were not fetched.
    """
    path = root / NAME
    if not path.is_file():
        if root.is_dir() and any(not entry.name.startswith(".") for entry in root.iterdir()):
            raise UserError(
                "holds files that mlip fetch did not put there",
                where=root,
                fix="name another folder with --to, or move them",
            )
        return Lock(source=source)
    try:
        lock = Lock.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        problem = describe(error) if isinstance(error, ValidationError) else str(error)
        raise UserError(
            f"is no lock of mlip fetch ({problem})", where=path, fix="restore it, or name another folder"
        ) from None
    if lock.source != source:
        raise UserError(f"is of {lock.source}, not of {source}", where=path, fix="name another folder with --to")
    return lock


def known_sha256(lock: Lock, file: SourceFile, root: Path, where: Path) -> str | None:
    """The checksum that a file must have, None where it was never loaded.

    Raises
    ------
    UserError : the lock and the address file name different ones.
    """
    recorded = lock.files[file.name].sha256 if file.name in lock.files else None
    if recorded and file.sha256 and recorded != file.sha256:
        raise UserError(
            f"{file.name} was loaded with the sha256 {recorded}, {where} says {file.sha256}",
            where=root / NAME,
            fix="fetch the new version into another folder with --to",
        )
    return recorded or file.sha256


def is_there(lock: Lock, file: SourceFile, root: Path) -> bool:
    """Whether all that came of a file still lies in its place, with its number of bytes."""
    if file.name not in lock.files:
        return False
    holds = lock.files[file.name].holds
    return all((root / place).is_file() and (root / place).stat().st_size == size for place, size in holds.items())
