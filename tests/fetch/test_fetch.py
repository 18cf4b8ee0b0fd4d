"""From the command to the reader: each data set out of archives as its provider makes them, and what is asked of a person."""

from __future__ import annotations

import fcntl
import hashlib
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from mlip.data.catalogue import readers
from mlip.data.records import Record
from mlip.errors import UserError
from mlip.fetch import addresses
from mlip.run.cli import app
from tests.conftest import ROOT
from tests.fetch.archives import files_below, serve, tar
from tests.fetch.server import Server

YES = ("--accept-licence",)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the address files of a test lie."""
    monkeypatch.setattr(addresses, "FOLDER", tmp_path / "addresses")
    addresses._read.cache_clear()
    return tmp_path / "addresses"


def run(name: str, tmp_path: Path, *options: str) -> Result:
    addresses._read.cache_clear()
    return CliRunner().invoke(app, ["fetch", name, "--to", str(tmp_path / "data"), *options])


def good(result: Result) -> str:
    assert result.exception is None, result.exception
    return result.output


def refused(result: Result) -> str:
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


def _content(record: Record) -> str:
    """What a record says, NaN included, without where its files lie."""
    return repr(replace(record, path=Path(), mask=None))


@pytest.mark.parametrize("name", ["iu_xray", "covid_chestxray", "nih"])
def test_the_reader_reads_what_was_fetched(name: str, server: Server, folder: Path, tmp_path: Path) -> None:
    given = serve(name, server, tmp_path, folder)
    for file in server.files.values():
        file.cuts = [len(file.body) // 3, len(file.body) // 3]
    shown = good(run(name, tmp_path, *YES))
    source = addresses.read_source(name)
    root, reader = tmp_path / "data" / source.folder, readers()[name]
    options = reader.Options()
    reader.verify(root, options)
    records = reader.records(root, options)
    (tmp_path / "provider" / "BBox_List_2017.csv").unlink(missing_ok=True)  # has no address
    original = reader.records(tmp_path / "provider", options)
    assert [_content(r) for r in records] == [_content(r) for r in original]
    for record, film in zip(records, original, strict=True):
        np.testing.assert_array_equal(reader.load_image(record), reader.load_image(film))
    assert all(server.sent[path] == len(body) for path, body in given.items())
    for word in ("Licence:", "ready", f"{len(records)} good", source.title):
        assert word in shown
    assert sorted(p.name for p in (root / ".fetch").iterdir()) == ["lock"]


def test_a_second_run_loads_nothing_and_asks_nothing(server: Server, folder: Path, tmp_path: Path) -> None:
    serve("iu_xray", server, tmp_path, folder)
    good(run("iu_xray", tmp_path, *YES))
    asked = len(server.requests)
    shown = good(run("iu_xray", tmp_path))
    assert "all was there" in shown and "Licence" not in shown and len(server.requests) == asked
    lock = json.loads((tmp_path / "data" / "iu-xray" / "fetch.lock.json").read_text(encoding="utf-8"))
    assert set(lock["files"]) == {"NLMCXR_png.tgz", "NLMCXR_reports.tgz"}
    assert lock["accepted"]["how"] == "--accept-licence"


def test_what_was_lost_is_loaded_again_and_must_be_the_same(server: Server, folder: Path, tmp_path: Path) -> None:
    given = serve("iu_xray", server, tmp_path, folder)
    good(run("iu_xray", tmp_path, *YES))
    root = tmp_path / "data" / "iu-xray"
    held = files_below(root / "NLMCXR_png")
    next((root / "NLMCXR_png").glob("*.png")).unlink()
    assert "loaded NLMCXR_png.tgz" in good(run("iu_xray", tmp_path))
    assert files_below(root / "NLMCXR_png") == held
    next((root / "NLMCXR_png").glob("*.png")).write_bytes(b"cut")
    old = json.loads((root / "fetch.lock.json").read_text(encoding="utf-8"))["files"]["NLMCXR_png.tgz"]["sha256"]
    server.files["NLMCXR_png.tgz"].body = tar({"new.png": b"another film"})
    asked = len(server.requests)
    said = refused(run("iu_xray", tmp_path))
    new = hashlib.sha256(server.files["NLMCXR_png.tgz"].body).hexdigest()
    assert old in said and new in said and "fetch.lock.json" in said
    assert not (root / "NLMCXR_png" / "new.png").exists()
    assert refused(run("iu_xray", tmp_path)) == said and len(server.requests) == asked + 1  # nothing is loaded twice
    server.files["NLMCXR_png.tgz"].body = given["NLMCXR_png.tgz"]
    (root / ".fetch" / "NLMCXR_png.tgz").unlink()
    good(run("iu_xray", tmp_path))
    assert files_below(root / "NLMCXR_png") == held


def edit(folder: Path, name: str, **change: object) -> None:
    """Change keys of the first file of an address file, or of the source itself."""
    path = folder / f"{name}.yaml"
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in change.items():
        (raw if key in raw else raw["files"][0])[key] = value
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")


def test_a_checksum_of_the_address_file_holds_from_the_first_time(server: Server, folder: Path, tmp_path: Path) -> None:
    given = serve("iu_xray", server, tmp_path, folder)
    edit(folder, "iu_xray", sha256="0" * 64)
    said = refused(run("iu_xray", tmp_path, *YES))
    assert "0" * 64 in said and hashlib.sha256(given["NLMCXR_reports.tgz"]).hexdigest() in said
    assert not list((tmp_path / "data" / "iu-xray").glob("ecgen-radiology"))
    edit(folder, "iu_xray", sha256=None)
    good(run("iu_xray", tmp_path))
    edit(folder, "iu_xray", sha256="0" * 64)
    assert "NLMCXR_reports.tgz was loaded with the sha256" in refused(run("iu_xray", tmp_path))


def test_the_licence_is_asked_for_once_and_again_when_it_changes(server: Server, folder: Path, tmp_path: Path) -> None:
    serve("iu_xray", server, tmp_path, folder)
    said = refused(run("iu_xray", tmp_path))
    assert "creativecommons" in said and "--accept-licence" in said and not server.requests
    good(run("iu_xray", tmp_path, *YES))
    licence = {"name": "Another", "url": "https://a.example", "asks": "Pay."}
    edit(folder, "iu_xray", licence=licence)
    assert "is not accepted yet" in refused(run("iu_xray", tmp_path))


@pytest.mark.parametrize(("answer", "accepted"), [("y\n", True), ("n\n", False)])
def test_a_terminal_is_asked(
    answer: str, accepted: bool, server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("iu_xray", server, tmp_path, folder)
    monkeypatch.setattr("mlip.run.fetch.is_terminal", lambda: True)
    result = CliRunner().invoke(app, ["fetch", "iu_xray", "--to", str(tmp_path / "data")], input=answer)
    assert bool(server.requests) is accepted
    if accepted:
        lock = json.loads((tmp_path / "data" / "iu-xray" / "fetch.lock.json").read_text(encoding="utf-8"))
        assert good(result) and lock["accepted"]["how"] == "answered yes"
    else:
        assert "was not accepted" in refused(result) and not (tmp_path / "data").exists()


def test_the_first_archive_and_later_the_others(server: Server, folder: Path, tmp_path: Path) -> None:
    serve("nih", server, tmp_path, folder)
    assert "4 good" in good(run("nih", tmp_path, "--first", *YES))
    assert not server.ranges("images_002.tar.gz")
    loaded = good(run("nih", tmp_path))
    assert "loaded images_002.tar.gz" in loaded and "8 good" in loaded
    serve("iu_xray", server, tmp_path / "iu", folder)
    assert "has no parts" in refused(run("iu_xray", tmp_path, "--first"))


def test_too_little_room_is_said_before_anything_is_loaded(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("nih", server, tmp_path, folder)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("mlip.fetch.disk.shutil.disk_usage", lambda path: usage._replace(free=7_000_000_000))
    said = refused(run("nih", tmp_path, *YES))
    assert "9.92 GB are needed, 7.00 GB are free" in said and "--first" in said and not server.requests
    assert not (tmp_path / "data").exists()
    good(run("nih", tmp_path, "--first", *YES))  # 4.03 GB


def test_archives_are_kept_where_that_is_asked_for(server: Server, folder: Path, tmp_path: Path) -> None:
    given = serve("iu_xray", server, tmp_path, folder)
    good(run("iu_xray", tmp_path, "--keep-archives", *YES))
    root = tmp_path / "data" / "iu-xray"
    assert (root / ".fetch" / "NLMCXR_png.tgz").read_bytes() == given["NLMCXR_png.tgz"]
    next((root / "NLMCXR_png").glob("*.png")).unlink()
    asked = len(server.requests)
    good(run("iu_xray", tmp_path))  # what was kept is unpacked again
    assert len(server.requests) == asked


def test_a_killed_process_is_continued_by_the_next(server: Server, folder: Path, tmp_path: Path) -> None:
    serve("iu_xray", server, tmp_path, folder)
    films = server.files["NLMCXR_png.tgz"]
    films.body = tar(
        {**files_below(tmp_path / "provider" / "NLMCXR_png"), "large.png": random.Random(0).randbytes(700_000)}
    )
    films.hangs, films.cuts = True, [len(films.body) // 2]
    program = (
        "import sys, pathlib; from mlip.fetch import addresses; addresses.FOLDER = pathlib.Path(sys.argv.pop(1)); "
        "from mlip.run.cli import main; main()"
    )
    words = [sys.executable, "-c", program, str(folder), "fetch", "iu_xray", "--to", str(tmp_path / "data"), *YES]
    part = tmp_path / "data" / "iu-xray" / ".fetch" / "NLMCXR_png.tgz.part"
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (part.is_file() and part.stat().st_size > 200_000) and time.monotonic() < deadline:
        threading.Event().wait(0.05)  # time.sleep is switched off here
    process.kill()
    process.wait()
    begun = part.stat().st_size
    assert 200_000 < begun <= len(films.body) // 2
    good(run("iu_xray", tmp_path))
    assert server.ranges("NLMCXR_png.tgz") == ["", f"bytes={begun}-"]
    assert server.ranges("NLMCXR_reports.tgz") == [""]
    assert len(list((tmp_path / "data" / "iu-xray" / "NLMCXR_png").iterdir())) == 8


def test_a_kill_between_loading_and_unpacking_loads_nothing_again(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("iu_xray", server, tmp_path, folder)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlip.fetch.fetching.unpack", killed)
        run("iu_xray", tmp_path, *YES)
    assert server.ranges("NLMCXR_reports.tgz") == [""]
    good(run("iu_xray", tmp_path))
    assert server.ranges("NLMCXR_reports.tgz") == [""] == server.ranges("NLMCXR_png.tgz")


def test_a_damaged_archive_is_named_and_nothing_of_it_is_recorded(server: Server, folder: Path, tmp_path: Path) -> None:
    given = serve("iu_xray", server, tmp_path, folder)
    server.files["NLMCXR_reports.tgz"].body = given["NLMCXR_reports.tgz"][:-100]  # its length is what the server says
    said = refused(run("iu_xray", tmp_path, *YES))
    root = tmp_path / "data" / "iu-xray"
    assert f"{root / '.fetch' / 'NLMCXR_reports.tgz'}: is damaged or no archive" in said
    assert json.loads((root / "fetch.lock.json").read_text(encoding="utf-8"))["files"] == {}
    server.files["NLMCXR_reports.tgz"].body = given["NLMCXR_reports.tgz"]
    (root / ".fetch" / "NLMCXR_reports.tgz").unlink()
    good(run("iu_xray", tmp_path))


def test_a_folder_with_other_files_is_left_alone(server: Server, folder: Path, tmp_path: Path) -> None:
    serve("iu_xray", server, tmp_path, folder)
    mine = tmp_path / "data" / "iu-xray" / "NLMCXR_png" / "mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert "holds files that mlip fetch did not put there" in refused(run("iu_xray", tmp_path, *YES))
    assert files_below(tmp_path / "data") == {"iu-xray/NLMCXR_png/mine.png": b"mine"} and not server.requests


@pytest.mark.parametrize("content", ["{", '{"source": "nih"}', '{"source": "iu_xray", "files": {"a": {}}}'])
def test_a_damaged_lock_is_named(content: str, server: Server, folder: Path, tmp_path: Path) -> None:
    serve("iu_xray", server, tmp_path, folder)
    good(run("iu_xray", tmp_path, *YES))
    (tmp_path / "data" / "iu-xray" / "fetch.lock.json").write_text(content, encoding="utf-8")
    assert "fetch.lock.json: is " in refused(run("iu_xray", tmp_path))


def test_two_at_once_do_not_mix(server: Server, folder: Path, tmp_path: Path) -> None:
    serve("iu_xray", server, tmp_path, folder)
    workshop = tmp_path / "data" / "iu-xray" / ".fetch"
    workshop.mkdir(parents=True)
    with (workshop / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another mlip fetch is at work" in refused(run("iu_xray", tmp_path, *YES))
    assert not server.requests


def test_what_the_doctor_cannot_use_is_an_error(server: Server, folder: Path, tmp_path: Path) -> None:
    given = serve("iu_xray", server, tmp_path, folder)
    server.files["NLMCXR_png.tgz"].body = tar({"other.png": b"no film"})
    result = run("iu_xray", tmp_path, *YES)
    assert given and result.exit_code == 1 and "damaged" in result.output and "missing" in result.output
