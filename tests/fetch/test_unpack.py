"""Archives that lie, lead outside or are damaged: nothing of them comes into the data set's folder."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from mlip.errors import UserError
from mlip.fetch.addresses import Unpack
from mlip.fetch.unpack import unpack
from tests.fetch.archives import files_below, tar

RULES = Unpack(size=2_000_000, take={"*.png": "films/*.png", "notes/*.txt": "texts/*.md", "table.csv": "table.csv"})
GOOD = {
    "top/a.png": b"film",
    "b.png": b"other",
    "top/notes/n.txt": b"note",
    "top/table.csv": b"1,2",
    "top/more.zip": b"-",
}
NOISE = np.random.default_rng(1).bytes(1_000_000)


def take(content: bytes, folder: Path, rules: Unpack = RULES) -> dict[str, int]:
    (folder / "root").mkdir()
    (folder / "a.tgz").write_bytes(content)
    return unpack(folder / "a.tgz", rules, folder / "root", folder / "scratch", lambda done: None)


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("mode", ["w:gz", "w", "w:xz"])
def test_what_is_wanted_comes_to_its_place_and_nothing_else(mode: str, tmp_path: Path) -> None:
    members = {**GOOD, "top/._a.png": b"left behind", "top/link": link("top/link", tarfile.SYMTYPE, "/etc/passwd")}
    held = take(tar(members, mode), tmp_path)
    assert held == {"films/a.png": 4, "films/b.png": 5, "texts/n.md": 4, "table.csv": 3}
    assert {k: len(v) for k, v in files_below(tmp_path / "root").items()} == held
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"../out.png": b"x"}, r"holds the path '\.\./out\.png', which is no plain name"),
        ({"top/../../out.png": b"x"}, "is no plain name"),
        ({"/tmp/out.png": b"x"}, "is no plain name"),
        ({"other/..": b"x"}, "is no plain name"),
        ({"a\nb.png": b"x"}, "control character"),
        ({"c.png": link("c.png", tarfile.SYMTYPE, "../../out.png")}, "holds 'c.png' as a link or a device"),
        ({"c.png": link("c.png", tarfile.LNKTYPE, "/etc/passwd")}, "as a link or a device"),
        ({"c.png": link("c.png", tarfile.FIFOTYPE, "")}, "as a link or a device"),
        ({"again/a.png": b"x"}, "holds 'again/a.png' twice"),
        ({f"{k}.png": NOISE for k in range(7)}, "holds more than 6,000,000 bytes"),
    ],
)
def test_an_archive_that_leads_elsewhere_is_refused(
    more: dict[str, bytes | tarfile.TarInfo], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=problem) as raised:
        take(tar({**GOOD, **more}), tmp_path)
    assert raised.value.where == tmp_path / "a.tgz" and raised.value.fix
    assert files_below(tmp_path / "root") == {}
    assert sorted(p.name for p in tmp_path.iterdir()) in (["a.tgz", "root"], ["a.tgz", "root", "scratch"])


def test_a_wanted_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no notes/\*\.txt, table\.csv"):
        take(tar({"a.png": b"film", "subtable.csv": b"1"}), tmp_path)


@pytest.mark.parametrize("lost", [1, 5, 8, 2000, 700_000])
def test_a_truncated_archive_is_seen_however_little_is_lost(lost: int, tmp_path: Path) -> None:
    whole = tar({**GOOD, "z.png": NOISE})
    with pytest.raises(UserError, match="is damaged or no archive"):
        take(whole[:-lost], tmp_path)
    assert files_below(tmp_path / "root") == {}


def test_a_changed_byte_is_seen(tmp_path: Path) -> None:
    whole = bytearray(tar({**GOOD, "z.png": NOISE}))
    whole[500_000] ^= 1
    with pytest.raises(UserError, match="is damaged or no archive"):
        take(bytes(whole), tmp_path)
    assert files_below(tmp_path / "root") == {}


@pytest.mark.parametrize("content", [b"", b"<html>Sign in</html>" * 100, NOISE])
def test_what_is_no_archive_is_said(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is damaged or no archive"):
        take(content, tmp_path)
