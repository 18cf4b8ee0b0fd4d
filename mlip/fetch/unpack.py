"""Taking the wanted files out of a tar archive, and nothing else: no path outside the folder, no link, no flood."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from mlip.data.formats.files import first_line, name_fault
from mlip.errors import UserError
from mlip.fetch.addresses import Unpack
from mlip.fetch.disk import writing

_MOST = 3  # times the expected size
_FIX = "remove it and run the same command again; where that does not help, its provider has published another one"


def unpack(archive: Path, rules: Unpack, root: Path, scratch: Path, advance: Callable[[int], object]) -> dict[str, int]:
    """Put the wanted members of ``archive`` below ``root``.

    They are written below ``scratch`` (on the same disk) and moved when all are there, so that a file in its place is whole.

    Parameters
    ----------
    advance : told how many bytes are written since it was told last.

    Returns
    -------
    bytes of each file by its path below ``root``.

    Raises
    ------
    UserError : the archive is damaged, holds a path that leads outside or a link where a file is wanted, lacks a wanted
        file, or holds more than is plausible; or the disk is full.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    places = {_pattern(pattern): place for pattern, place in rules.take.items()}
    missing, found, total = dict(zip(places, rules.take, strict=True)), dict[str, int](), 0
    try:
        with tarfile.open(archive, "r:*") as tar, writing(root):
            for member in tar:
                name = member.name.removeprefix("./").rstrip("/")
                if name not in ("", ".") and (fault := name_fault(name, nested=True)):
                    raise UserError(f"holds the path {member.name!r}, which {fault}", where=archive, fix=_FIX)
                match = next((m for pattern in places if (m := pattern.fullmatch(name))), None)
                if match is None or member.isdir() or name.split("/")[-1].startswith("."):
                    continue
                place = places[match.re].replace("*", match["any"] or "")
                if not member.isfile() or place in found:
                    kind = "twice" if place in found else "as a link or a device"
                    raise UserError(f"holds {member.name!r} {kind}", where=archive, fix=_FIX)
                found[place] = member.size
                total += member.size
                if total > _MOST * rules.size:
                    raise UserError(f"holds more than {_MOST * rules.size:,} bytes", where=archive, fix=_FIX)
                missing.pop(match.re, None)
                _write(tar, member, scratch / place)
                advance(member.size)
            # To its end, where the checksum of gzip stands.
            while tar.fileobj is not None and tar.fileobj.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"is damaged or no archive ({first_line(error)})", where=archive, fix=_FIX) from None
    if missing:
        raise UserError(f"holds no {', '.join(missing.values())}", where=archive, fix=_FIX)
    for place in found:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch / place, root / place)
    shutil.rmtree(scratch)
    return found


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None
    with source, target.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)


def _pattern(text: str) -> re.Pattern[str]:
    """``images/*.png``: any path that ends so, whatever folders stand before; the text for ``*`` is the group ``any``."""
    before, star, after = text.partition("*")
    middle = "(?P<any>[^/]+)" if star else "(?P<any>)"
    return re.compile(f"(?:.*/)?{re.escape(before)}{middle}{re.escape(after)}")
