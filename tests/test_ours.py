"""The project's checks of its own files leave a user's additions alone, and miss none of the project's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mlip.data.catalogue import readers
from mlip.methods import method_folders
from tests import ours
from tests.conftest import ROOT


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one committed document and one that a user has put beside it."""
    (tmp_path / "docs").mkdir()
    for name in ("theirs.md", "mine.md"):
        (tmp_path / "docs" / name).write_text(name, encoding="utf-8")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "docs/theirs.md"], ["commit", "-q", "-m", "x"], ["add", "docs/mine.md"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(ours, "ROOT", tmp_path.resolve())
    ours.tracked.cache_clear()
    yield tmp_path.resolve()
    ours.tracked.cache_clear()


def test_what_is_not_committed_is_the_users(checkout: Path) -> None:
    found = ours.ours((checkout / "docs").glob("*.md"))
    assert [p.name for p in found] == ["theirs.md"]


def test_without_git_everything_is_the_projects(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "ROOT", checkout / "docs")  # a folder inside another repository
    ours.tracked.cache_clear()
    assert len(ours.ours((checkout / "docs").glob("*.md"))) == 2


def test_the_projects_own_are_found() -> None:
    assert {"cvpr24", "isbi24", "convirt", "random"} <= set(ours.our_methods()) <= set(method_folders())
    assert {"mimic_cxr", "rsna"} <= set(ours.our_readers()) <= set(readers())
    assert {"mimic_cxr", "rsna"} <= set(ours.our_writers())
    assert ROOT / "config" / "twin.yaml" in ours.ours((ROOT / "config").glob("*.yaml"))
