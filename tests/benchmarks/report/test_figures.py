"""Figures: nothing lies over anything else, rows can be told apart, no control presses the others together."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from benchmarks.report import figures
from benchmarks.report.words import row_name
from tests.benchmarks.simulated import World, make_world


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    made = make_world(tmp_path, monkeypatch)
    made.fill()
    return made


def test_a_long_heading_leaves_the_legend_and_the_panels_alone(world):
    blocks = [b for b in world.plan.blocks if b.task_name == "probe"][:1]  # one panel, the narrowest figure there is
    figure = figures.task_figure(world.cells(), blocks)
    figures.set_heading(figure, "A sentence on the data and what they cannot say. " * 12)
    figure.draw_without_rendering()
    heading, legend = figure._suptitle.get_window_extent(), figure.legends[0].get_window_extent()
    panel = figure.axes[0].get_tightbbox()
    assert heading.height > 60
    assert not heading.overlaps(legend) and not heading.overlaps(panel) and not legend.overlaps(panel)
    assert legend.y0 >= 0 and figure.bbox.contains(heading.x1 - 1, heading.y1 - 1)
    plt.close(figure)


def test_no_two_rows_share_colour_and_line(world):
    rows = world.plan.blocks[0].rows
    styles = figures.row_styles([*rows, *rows])  # more controls than any study has
    assert len(styles) == len({row.name for row in rows})
    controls = [s for row in rows for s in [styles[row.name]] if row.control]
    assert len({(s["color"], s["linestyle"]) for s in controls}) == len(controls) > 2


def test_a_control_that_is_nothing_by_definition_does_not_stretch_the_axis(world, monkeypatch):
    block = next(b for b in world.plan.blocks if b.task_name == "probe")
    monkeypatch.setattr(figures, "OFF_SCALE", "constant")
    cells = world.cells()

    def lowest(value: float) -> tuple[float, list[str]]:
        changed = cells.copy()
        changed.loc[changed["method"] == "constant", ["value", "ci_low", "ci_high"]] = value
        figure = figures.task_figure(changed, [block])
        ax = figure.axes[0]
        found = ax.get_ylim()[0], [t.get_text() for t in ax.texts]
        plt.close(figure)
        return found

    assert lowest(0.0)[0] > 20 and lowest(0.0)[1] == [f"{row_name(block.rows[-1])}: 0"]
    assert lowest(0.1)[0] < 11 and lowest(0.1)[1] == []
