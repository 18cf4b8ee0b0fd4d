"""The figure of a row's maps: films in columns with the finding's outline, below them each map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from benchmarks.analyses.map_scores import enlarge

_LETTERS = 22  # of a heading, above one film


@dataclass(frozen=True)
class Panel:
    """Films of one question."""

    heading: str
    films: np.ndarray  # uint8 [n, S, S]
    hidden: bool  # the films are of persons: ``films`` is a grey that stands for them
    outlines: np.ndarray  # bool [n, S, S]
    maps: dict[str, np.ndarray]  # by name [n, h, w]


def draw(title: str, note: str, panels: list[Panel], path: Path) -> None:
    """Films in columns, with the outline; below them each map, scaled to the film's own range.

    A map that does not depend on the film is drawn once, as a square with its scale.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    names = list(dict.fromkeys(name for panel in panels for name in panel.maps))
    shown = sum(len(panel.films) for panel in panels)
    fixed = {n for n in names if shown > 1 and all(_blind(panel.maps[n]) for panel in panels if n in panel.maps)}
    columns = max(1, shown)
    asked = [wrap(panel.heading, max(_LETTERS * len(panel.films), 12)) for panel in panels]
    room = 0.11 * max(map(len, [*asked, [""]]))  # inches for the headings, which take no part in the layout
    settings: Any = {"font.size": 8}
    with mpl.rc_context(mpl.rcParamsDefault | settings | {"backend": "agg"}):
        figure, axes = plt.subplots(
            1 + len(names), columns, squeeze=False, layout=ConstrainedLayoutEngine(h_pad=room),
            figsize=(1.25 * columns + 0.9, (1.08 + 2 * room) * (1 + len(names)) + 0.9),
        )  # fmt: skip
        for ax in axes.flat:
            ax.set_axis_off()
        place = 0
        for panel, above in zip(panels, asked, strict=True):
            _heading(axes[0, place], "\n".join(above))
            for k, (film, outline) in enumerate(zip(panel.films, panel.outlines, strict=True)):
                _film(axes[0, place + k], film, outline)
                for line, name in enumerate(names, start=1):
                    if name in panel.maps and name not in fixed:
                        _film(axes[line, place + k], film, outline, panel.maps[name][k])
            place += len(panel.films)
        for line, name in enumerate(names, start=1):
            heading = name
            if name in fixed:
                values = next(panel.maps[name][0] for panel in panels if name in panel.maps)
                axes[line, 0].imshow(values, cmap="viridis")
                heading += f": {values.min():.3g} (dark) to {values.max():.3g} (yellow), the same for all films"
            _heading(axes[line, 0], heading)
        lines = [f"{title}. White line: the finding's outline. Maps: dark = least, yellow = most of that film."]
        if any(panel.hidden for panel in panels):
            lines.append("Films of real persons are not drawn.")
        if not names:
            lines.append("This row has no map: its local part is switched off.")
        figure.suptitle("\n".join([*lines, note]), x=0.01, ha="left", fontsize=8, wrap=True)
        figure.savefig(path, dpi=100, metadata={"Software": None})
        plt.close(figure)


def _blind(maps: np.ndarray) -> bool:
    return bool((maps == maps[:1]).all())


def _heading(ax: Any, text: str) -> None:
    """A line above a film that may run over the neighbouring films instead of widening its own column."""
    ax.text(0, 1.04, text, transform=ax.transAxes, va="bottom").set_in_layout(False)


def _film(ax: Any, film: np.ndarray, outline: np.ndarray, values: np.ndarray | None = None) -> None:
    """One film in grey with the outline, under the map where one is given."""
    side = len(film)
    ax.imshow(film, cmap="gray", vmin=0, vmax=255)
    if values is not None:
        ax.imshow(enlarge(values[None], side)[0], cmap="inferno", alpha=0.55)
    ax.contour(outline, levels=[0.5], colors="white", linewidths=0.9)
