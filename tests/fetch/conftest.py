"""The local server, and no waiting between attempts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fetch.server import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("mlip.fetch.download.time.sleep", lambda seconds: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        yield running
