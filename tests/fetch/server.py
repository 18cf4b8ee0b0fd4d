"""A server on this machine that gives files as a real one does, with ranges, and cuts, changes and lies where it is told to."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """One file. Lists are used up request by request; what comes after their end is the honest answer."""

    body: bytes
    cuts: list[int | None] = field(default_factory=list)  # bytes of the body after which the connection is closed
    statuses: list[int] = field(default_factory=list)
    versions: list[bytes] = field(default_factory=list)  # other content, request by request
    ranges: bool = True
    validators: tuple[str, ...] = ("ETag", "Last-Modified")
    longer: int = 0  # by how much Content-Length exceeds the body
    chunked: bool = False
    endless: bool = False  # neither a length nor pieces
    kind: str = "application/octet-stream"
    shift: int = 0  # a range begins so much later than it was asked for
    most: int = 10**9  # bytes that one range is given
    redirect: str = ""
    hangs: bool = False  # after a cut the connection stays open, and nothing more comes


class Server:
    """``with Server() as server: server.files["a.tgz"] = Served(...)``; ``server.url("a.tgz")``."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []  # path, headers
        self.sent: dict[str, int] = defaultdict(int)  # bytes of bodies by path
        self.released = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner.answer(self)

            def end_headers(self) -> None:
                self.send_header("Connection", "close")
                super().end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True

    def __enter__(self) -> Server:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/{path}"

    def ranges(self, path: str) -> list[str]:
        """The ranges that were asked for, "" for none."""
        return [headers.get("Range", "") for name, headers in self.requests if name == path]

    def answer(self, ask: BaseHTTPRequestHandler) -> None:
        path = ask.path.removeprefix("/")
        self.requests.append((path, dict(ask.headers)))
        file = self.files.get(path)
        if file is None or file.statuses:
            ask.send_response(file.statuses.pop(0) if file else 404)
            ask.send_header("Content-Length", "0")
            ask.end_headers()
            return
        if file.redirect:
            ask.send_response(302)
            ask.send_header("Location", file.redirect)
            ask.send_header("Content-Length", "0")
            ask.end_headers()
            return
        body = file.versions.pop(0) if file.versions else file.body
        said = {"ETag": f'"{hash(body):x}"', "Last-Modified": f"day {hash(body) % 1000}"}
        start, asked = 0, re.fullmatch(r"bytes=(\d+)-", ask.headers.get("Range", ""))
        if asked and file.ranges:
            start = int(asked[1]) + file.shift
            if start >= len(body):
                ask.send_response(416)
                ask.send_header("Content-Range", f"bytes */{len(body)}")
                ask.send_header("Content-Length", "0")
                ask.end_headers()
                return
            ask.send_response(206)
            ask.send_header("Content-Range", f"bytes {start}-{min(len(body), start + file.most) - 1}/{len(body)}")
            body = body[: start + file.most]
        else:
            ask.send_response(200)
        for name in file.validators:
            ask.send_header(name, said[name])
        ask.send_header("Content-Type", file.kind)
        if file.chunked:
            ask.send_header("Transfer-Encoding", "chunked")
        elif not file.endless:
            ask.send_header("Content-Length", str(len(body) - start + file.longer))
        ask.end_headers()
        cut = file.cuts.pop(0) if file.cuts else None
        part = body[start : None if cut is None else start + cut]
        self.sent[path] += len(part)
        if file.chunked:
            ask.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n" + (b"0\r\n\r\n" if cut is None else b""))
        else:
            ask.wfile.write(part)
        if cut is not None and file.hangs:
            ask.wfile.flush()
            self.released.wait(60)
