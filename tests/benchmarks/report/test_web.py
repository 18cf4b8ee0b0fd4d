"""The self-contained page: its numbers are the cells', it asks nothing of the network, and it works in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.report.build import build_tables
from benchmarks.report.web.films import _outline
from tests.benchmarks.simulated import complete_study, make_world

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here (apt-get install chromium)")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    with complete_study(tmp_path_factory.mktemp("web")) as world:
        return world.paths.leaderboard.with_suffix(".html")


class Links(HTMLParser):
    """Everything the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href") and tag != "a"]


def test_nothing_is_fetched(built: Path) -> None:
    text = built.read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    assert all(link.startswith(("data:", "#")) for link in links.found), links.found
    assert "@import" not in text and not re.search(r"url\((?!#|[\"']?data:)", text)


def test_the_same_cells_give_the_same_bytes(tmp_path, monkeypatch) -> None:
    world = make_world(tmp_path, monkeypatch)
    world.fill(datasets=("rsna",))
    page = world.paths.leaderboard.with_suffix(".html")
    build_tables(world.plan)
    before = page.read_bytes()
    build_tables(world.plan)
    text = before.decode()
    assert page.read_bytes() == before
    assert "pending" in text and "there is no standing" in text
    assert not re.search(r"\bnan\b", text[text.index("<body>") :], re.IGNORECASE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def opened(browser: Any, page: Path, width: int = 1280, scheme: str = "light") -> Any:
    """The page when its tables are there; fails on a request or an error in the console."""
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.wrong = []
    tab.on("console", lambda m: tab.wrong.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda e: tab.wrong.append(str(e)))
    tab.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else tab.wrong.append(r.url))
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-ready=yes]", timeout=30_000)
    return tab


@needs_browser
def test_tables_sort_and_filter(built: Path, browser: Any) -> None:
    from playwright.sync_api import expect

    tab = opened(browser, built)
    third = tab.locator("#probe table").first.locator("tbody tr td:nth-child(3)")

    def column() -> list[float]:
        return [float(v) for v in third.all_inner_texts()]

    before = column()
    head = tab.locator("#probe table").first.locator("thead th").nth(2)
    expect(head).not_to_have_attribute("aria-sort", re.compile(".*"))
    head.click()
    expect(head).to_have_attribute("aria-sort", "ascending")  # the table is drawn anew after the click, not in it
    rising = column()
    head.click()
    expect(head).to_have_attribute("aria-sort", "descending")
    assert rising == sorted(before) and column() == sorted(before, reverse=True) and rising != column()
    # All cells: the search leaves those that match, on one page of 25 at a time.
    cells = pd.read_csv(built.with_suffix("") / "cells.csv")
    assert tab.locator("#cells tbody tr").count() == 25 < len(cells)
    tab.locator("#cells input[type=search]").last.fill("gamma")
    assert tab.locator("#cells tbody tr").count() == (cells["method"] == "gamma").sum()
    assert tab.wrong == []


@needs_browser
def test_behind_each_number_stand_interval_and_seeds(built: Path, browser: Any) -> None:
    tab = opened(browser, built)
    cells = pd.read_csv(built.with_suffix("") / "cells.csv")
    one = cells[(cells["task"] == "probe") & (cells["method"] == "alpha") & (cells["metric"] == "AUROC")].iloc[0]
    value = tab.locator("#probe table").first.locator("tbody tr", has_text="Alpha").locator("button.value").first
    assert value.inner_text() == f"{100 * one['value']:.1f}" and tab.locator("#note").is_hidden()
    value.click()
    said = tab.locator("#note").inner_text()
    assert f"{100 * one['ci_low']:.1f} to {100 * one['ci_high']:.1f}" in said
    seeds = [float(v) for v in re.findall(r"by seed: (.*)", said)[0].split(", ")]
    assert len(seeds) == 3 and sum(seeds) / 3 == pytest.approx(100 * one["value"], abs=0.06)
    tab.keyboard.press("Escape")
    assert tab.locator("#note").is_hidden() and tab.wrong == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_light_and_dark_narrow_and_wide(width: int, scheme: str, built: Path, browser: Any) -> None:
    tab = opened(browser, built, width, scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width, "the page itself does not scroll sideways"
    light = "n => { const c = getComputedStyle(n); return [c.color, c.backgroundColor].map(v => v.match(/[0-9.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3) }"
    ink, paper = tab.evaluate(f"({light})(document.documentElement)")
    assert abs(ink - paper) > 150 and (ink > paper) == (scheme == "dark")
    # The ink of plots follows: text in an SVG has the page's colour.
    fill = tab.evaluate(
        "getComputedStyle(document.querySelector('#standing svg text')).fill.match(/[0-9.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3"
    )
    assert fill == pytest.approx(ink, abs=40)
    tab.locator("#theme").click()
    assert tab.evaluate("document.documentElement.classList.contains('dark')") == (scheme == "light")
    assert tab.wrong == []


def test_the_border_of_a_mask_goes_around_its_pixels() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:12, 3:9] = True
    (polygon,) = _outline(mask, "found")
    points = np.array([[float(v) for v in p.split(",")] for p in re.findall(r'points="([^"]+)"', polygon)[0].split()])
    assert points.min(axis=0) == pytest.approx([3, 5], abs=0.3) and points.max(axis=0) == pytest.approx(
        [9, 12], abs=0.3
    )
    assert _outline(np.zeros((20, 20), dtype=bool), "found") == []
