"""Folders with blanks, and machines whose locale is not UTF-8: the same files come out."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.workflow.conftest import copy_of_sources, mini_study, snakemake

pytestmark = pytest.mark.study
# Python's own escape into UTF-8 is closed, as in a container without any locale.
ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def test_blanks_and_an_ascii_locale(tmp_path: Path) -> None:
    title = "Größe — études"
    plain, odd = tmp_path / "plain", tmp_path / "my  data (1) & more"
    for folder in (plain, odd):
        folder.mkdir()
    checkout = copy_of_sources(tmp_path / "my clone")
    snakemake("--cores", "2", "--configfile", str(mini_study(plain, title=title)))
    snakemake("--cores", "2", "--configfile", str(mini_study(odd, title=title)), cwd=checkout, **ASCII)
    pages = [(folder / "results" / "mini.md").read_bytes() for folder in (plain, odd)]
    assert title.encode() in pages[0] and pages[0] == pages[1]
    cells = [pd.read_csv(folder / "results" / "mini" / "cells.csv").drop(columns="seconds") for folder in (plain, odd)]
    pd.testing.assert_frame_equal(*cells)
    assert {p.name for p in tmp_path.iterdir()} == {"plain", odd.name, "my clone"}  # no stray file of a split path
