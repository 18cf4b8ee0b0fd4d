"""One file from a server that cuts, changes and lies: what arrives is the file, or one line says why not."""

from __future__ import annotations

import io
import resource
import shutil
from pathlib import Path

import numpy as np
import pooch
import pytest
import requests
from rich.console import Console
from rich.progress import Progress

from mlip.errors import UserError
from mlip.fetch.addresses import SourceFile
from mlip.fetch.download import ATTEMPTS, Resuming
from tests.fetch.server import Served, Server

BODY = np.random.default_rng(3).bytes(300_000)
OTHER = np.random.default_rng(4).bytes(300_000)
LONGER = np.random.default_rng(5).bytes(320_000)
WHERE = Path("mlip/fetch/sources/some.yaml")


def load(server: Server, folder: Path, path: str = "a.tgz") -> bytes:
    """What pooch makes of it, through our downloader."""
    file = SourceFile.model_validate(
        {"name": "a.tgz", "url": server.url(path), "size": len(BODY), "sha256": None, "to": "a.tgz"}
    )
    with Progress(console=Console(file=io.StringIO())) as progress:
        downloader = Resuming(file, WHERE, "https://page.example", folder / "a.tgz.part", progress)
        got = pooch.retrieve(file.url, None, fname="a.tgz", path=folder, downloader=downloader)
    return Path(got).read_bytes()


def test_a_file_arrives_and_no_part_is_left(server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(BODY)
    assert load(server, tmp_path) == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["a.tgz"]
    assert server.ranges("a.tgz") == [""]


def test_a_download_that_is_cut_twice_loads_no_byte_twice(server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(BODY, cuts=[100_000, 70_001])
    assert load(server, tmp_path) == BODY
    assert server.ranges("a.tgz") == ["", "bytes=100000-", "bytes=170001-"]
    assert server.sent["a.tgz"] == len(BODY)


def test_another_process_goes_on_where_the_first_gave_up(server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(BODY, cuts=[120_000] + [0] * ATTEMPTS)
    with pytest.raises(
        UserError, match=r"some\.yaml: a\.tgz: .* broke off .* at 120,000 bytes .*the same command again"
    ):
        load(server, tmp_path)
    assert (tmp_path / "a.tgz.part").stat().st_size == 120_000
    assert load(server, tmp_path) == BODY
    assert server.sent["a.tgz"] == len(BODY)


def test_progress_starts_the_count_of_attempts_again(server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(BODY, cuts=[10_000] * (3 * ATTEMPTS))
    assert load(server, tmp_path) == BODY


def test_a_server_that_gives_less_than_the_rest_is_asked_for_more(server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(BODY, cuts=[100_000], most=80_000)
    assert load(server, tmp_path) == BODY
    assert server.ranges("a.tgz") == ["", "bytes=100000-", "bytes=180000-", "bytes=260000-"]


def test_the_size_that_the_server_tells_must_have_room(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["a.tgz"] = Served(LONGER)  # the address file says 300,000
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("mlip.fetch.disk.shutil.disk_usage", lambda path: usage._replace(free=310_000))
    with pytest.raises(UserError, match="are needed"):
        load(server, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_server_without_ranges_is_asked_for_the_whole(server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(BODY, cuts=[100_000, 200_000], ranges=False)
    assert load(server, tmp_path) == BODY
    assert server.sent["a.tgz"] == 300_000 + len(BODY)


@pytest.mark.parametrize(
    ("validators", "later"),
    [(("ETag",), OTHER), (("Last-Modified",), OTHER), ((), LONGER)],
    ids=["etag", "date", "length"],
)
def test_a_file_that_changes_between_attempts_is_not_mixed(
    validators: tuple[str, ...], later: bytes, server: Server, tmp_path: Path
) -> None:
    server.files["a.tgz"] = Served(later, cuts=[100_000], versions=[BODY], validators=validators)
    assert load(server, tmp_path) == later
    assert server.ranges("a.tgz") == ["", "bytes=100000-", ""]


def test_a_file_that_changes_all_the_time_is_given_up(server: Server, tmp_path: Path) -> None:
    versions = [bytes([k]) * 1000 for k in range(40)]
    server.files["a.tgz"] = Served(BODY, cuts=[500] * 40, versions=versions)
    with pytest.raises(UserError, match="broke off"):
        load(server, tmp_path)
    assert not (tmp_path / "a.tgz").exists()


@pytest.mark.parametrize("longer", [1, 5000])
def test_a_length_that_is_never_reached_is_no_file(longer: int, server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(BODY, longer=longer)
    with pytest.raises(UserError, match="broke off"):
        load(server, tmp_path)
    assert not (tmp_path / "a.tgz").exists()


def test_a_range_at_another_place_is_not_appended(server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(BODY, cuts=[100_000], shift=10)
    assert load(server, tmp_path) == BODY
    assert server.ranges("a.tgz") == ["", "bytes=100000-", ""]


def test_a_part_that_was_whole_already_is_taken(server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(BODY, cuts=[100_000] + [0] * ATTEMPTS)
    with pytest.raises(UserError):
        load(server, tmp_path)
    (tmp_path / "a.tgz.part").write_bytes(BODY)
    assert load(server, tmp_path) == BODY
    assert server.ranges("a.tgz")[-1] == "bytes=300000-"


def test_a_part_of_another_address_is_no_beginning(server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(BODY, cuts=[100_000] + [0] * ATTEMPTS, validators=())
    server.files["b.tgz"] = Served(OTHER, validators=())
    with pytest.raises(UserError):
        load(server, tmp_path)
    assert load(server, tmp_path, "b.tgz") == OTHER


@pytest.mark.parametrize("status", [404, 403, 410])
def test_an_address_that_has_died_is_said_at_once(status: int, server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(BODY, statuses=[status] * 9)
    with pytest.raises(
        UserError, match=rf"some\.yaml: a\.tgz: http://127.* answers {status} .*page\.example.*correct the addr"
    ):
        load(server, tmp_path)
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(BODY, statuses=[503, 429])
    assert load(server, tmp_path) == BODY


def test_a_page_is_no_file(server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(b"<html>Sign in</html>", kind="text/html; charset=utf-8")
    with pytest.raises(UserError, match="gives a page instead of the file"):
        load(server, tmp_path)


def test_pieces_without_a_length_are_known_by_their_end(server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(BODY, cuts=[100_000, 200_000], chunked=True, ranges=False, validators=())
    assert load(server, tmp_path) == BODY
    server.files["b.tgz"] = Served(BODY, endless=True)
    (tmp_path / "a.tgz").unlink()
    with pytest.raises(UserError, match="does not say where the file ends"):
        load(server, tmp_path, "b.tgz")


def test_no_password_is_sent(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    server.files["a.tgz"] = Served(BODY, redirect=server.url("b.tgz"))
    server.files["b.tgz"] = Served(BODY)
    assert load(server, tmp_path / "here") == BODY
    assert len(server.requests) == 2 and not any("Authorization" in headers for _, headers in server.requests)
    requests.get(server.url("b.tgz"), timeout=5)
    assert "Authorization" in server.requests[-1][1]  # what a plain request would have done


def test_an_encrypted_address_that_leads_to_a_plain_one_is_refused() -> None:
    response = requests.Response()
    response.status_code, response.url = 200, "http://elsewhere.example/a.tgz"
    file = SourceFile(name="a", url="https://here.example/a.tgz", size=1, sha256=None, to="a")
    with Progress(console=Console(file=io.StringIO())) as progress, pytest.raises(UserError, match="not encrypted"):
        Resuming(file, WHERE, "page", Path("part"), progress)._check_answer(file.url, response)


def test_a_full_disk_is_one_line(server: Server, tmp_path: Path) -> None:
    server.files["a.tgz"] = Served(BODY)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"no space is left\. Fix: free space"):
            load(server, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load(server, tmp_path) == BODY
