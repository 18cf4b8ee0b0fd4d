"""A downloader for pooch that goes on where a cut download ended, and believes no server that contradicts itself."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3
from pydantic import ValidationError
from rich.progress import Progress

from mlip.errors import UserError
from mlip.fetch.addresses import SourceFile
from mlip.fetch.disk import need_room, writing
from mlip.log import logger
from mlip.study import Strict

CHUNK = 1 << 16  # bytes that a kill may lose
TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two pieces
ATTEMPTS = 6  # in a row that bring nothing new
BUSY = (408, 425, 429, 500, 502, 503, 504)


class Told(Strict):
    """What a server says of a file; kept beside the part that is there, so that both can be compared with it later."""

    url: str
    total: int | None  # bytes; None where it does not say
    etag: str = ""
    modified: str = ""

    def contradicts(self, other: Told) -> str:
        """Why this is another file than ``other``, or "". What one of them does not say is no contradiction."""
        for what, a, b in (
            ("length", other.total, self.total),
            ("ETag", other.etag, self.etag),
            ("date", other.modified, self.modified),
        ):
            if a and b and a != b:
                return f"its {what} was {a} and is {b}"
        return ""


class _AgainError(Exception):
    """This attempt brought no whole file; the next one may."""


class _Anonymous(requests.Session):
    """Sends no name and password, also where the user's ``.netrc`` has some for that machine."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = lambda request: request
        # Ranges and lengths are of the file itself, not of a packed form of it.
        self.headers.update({"Accept-Encoding": "identity", "User-Agent": "mlip-bench"})

    def rebuild_auth(self, prepared_request: Any, response: Any) -> None:
        prepared_request.headers.pop("Authorization", None)


@dataclass
class Resuming:
    """Loads one file for ``pooch.retrieve``.

    Parameters
    ----------
    file : what to load.
    where : its address file, named in errors.
    page : where a person finds the file when its address has died.
    part : what is there of it, ``<name>.part``; ``<name>.part.json`` beside it says of which file it is a part.
    progress : where the bytes are shown.
    pause : seconds before the second attempt; each further one waits twice as long.
    """

    file: SourceFile
    where: Path
    page: str
    part: Path
    progress: Progress
    pause: float = 1.0

    def __call__(self, url: str, output_file: Any, pooch: Any, check_only: bool = False) -> None:
        """Load ``url`` into ``output_file``, beginning with what the part already holds.

        Raises
        ------
        UserError : the server refuses, gives a page instead of the file, breaks off again and again, or there is no room.
        """
        task = self.progress.add_task(self.file.name, total=self.file.size)
        failures, furthest = 0, _size(self.part)
        with _Anonymous() as session:
            while True:
                try:
                    self._attempt(session, url, task)
                    break
                except (requests.RequestException, urllib3.exceptions.HTTPError, _AgainError) as error:
                    reached = _size(self.part)
                    failures, furthest = (1 if reached > furthest else failures + 1), max(furthest, reached)
                    if failures > ATTEMPTS:
                        raise self._refusal(
                            f"broke off {failures} times at {reached:,} bytes ({_first_words(error)})",
                            "run the same command again: it goes on from there",
                        ) from None
                    logger.warning(
                        "%s: stopped at %s bytes (%s); trying again",
                        self.file.name,
                        f"{reached:,}",
                        _first_words(error),
                    )
                    time.sleep(self.pause * 2 ** (failures - 1))
        os.replace(self.part, output_file)
        self._state.unlink(missing_ok=True)
        self.progress.remove_task(task)

    @property
    def _state(self) -> Path:
        return self.part.with_name(f"{self.part.name}.json")

    def _so_far(self, url: str) -> tuple[int, Told | None]:
        """Bytes that are there, and of which file; none where that is not known."""
        try:
            told = Told.model_validate_json(self._state.read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            return 0, None
        return (_size(self.part), told) if told.url == url else (0, None)

    def _attempt(self, session: requests.Session, url: str, task: Any) -> None:
        """One request and what it brings; returns when the part is the whole file."""
        have, before = self._so_far(url)
        headers = {"Range": f"bytes={have}-"} if have else {}
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if have and response.status_code == 416:  # nothing is left, or the file is shorter now
                length = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
                if length and int(length[1]) == have and before and before.total in (None, have):
                    return
                self._begin_anew("the server has fewer bytes than the part")
            self._check_answer(url, response)
            now = _told(url, response)
            if before and have and (change := now.contradicts(before)):
                self._begin_anew(f"the file has changed on the server since the download began: {change}")
            if have and response.status_code != 206:
                logger.warning("%s: the server cannot continue a file, it begins anew", self.file.name)
                have = 0
            if have and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                self._begin_anew("the server continues the file at another place than it was asked for")
            if now.total and now.total != self.file.size and not have:
                logger.warning(
                    "%s: %s bytes; %s says %s", self.file.name, f"{now.total:,}", self.where.name, f"{self.file.size:,}"
                )
            need_room(self.part.parent, (now.total or self.file.size) - have)
            self._state.write_text(now.model_dump_json(), encoding="utf-8")
            self.progress.update(task, total=now.total or self.file.size, completed=have)
            with writing(self.part.parent), self.part.open("ab" if have else "wb") as out:
                for chunk in response.raw.stream(CHUNK, decode_content=False):
                    out.write(chunk)
                    self.progress.advance(task, len(chunk))
        if now.total is not None and (came := _size(self.part)) != now.total:
            if came > now.total:
                self._begin_anew(f"{came:,} bytes came of {now.total:,}")
            raise _AgainError(f"{came:,} bytes came of {now.total:,}")  # a server may give less than the rest

    def _begin_anew(self, why: str) -> None:
        self._state.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)
        raise _AgainError(f"{why}, what was there is thrown away")

    def _check_answer(self, url: str, response: requests.Response) -> None:
        status = response.status_code
        if status in BUSY:
            raise _AgainError(f"the server answers {status} {response.reason}")
        fix = f"see {self.page}; where the file has moved, correct the address"
        if status not in (200, 206):
            raise self._refusal(f"answers {status} {response.reason}", fix)
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise self._refusal(f"leads to {response.url}, which is not encrypted", fix)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise self._refusal("gives a page instead of the file", fix)
        chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
        if "Content-Length" not in response.headers and not chunked:
            raise self._refusal("does not say where the file ends, so that a cut could not be seen", fix)

    def _refusal(self, problem: str, fix: str) -> UserError:
        return UserError(f"{self.file.name}: {self.file.url} {problem}", where=self.where, fix=fix)


def _told(url: str, response: requests.Response) -> Told:
    headers = response.headers
    whole = re.fullmatch(r"bytes \d+-\d+/(\d+)", headers.get("Content-Range", ""))
    length = whole[1] if whole else headers.get("Content-Length") if response.status_code == 200 else None
    # A weak ETag may be the same for other bytes: it says nothing here.
    etag = headers.get("ETag", "")
    return Told(
        url=url,
        total=int(length) if length else None,
        etag="" if etag.startswith("W/") else etag,
        modified=headers.get("Last-Modified", ""),
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _first_words(error: Exception) -> str:
    return str(error) if isinstance(error, _AgainError) else type(error).__name__
