"""Where a trained row looks: its maps for a prompt on test films, drawn beside the finding's outline and measured.

The questions are those of the study's zero-shot task: each yes/no label of a data set whose boxes or masks outline that
very finding, asked with the label's first presence prompt. Two numbers per film with an outline: the pointing game (is
the map's highest pixel inside?) and the AUROC of inside against outside pixels. Two controls need no method: a centre
prior, and the mean outline of the training films, which knows where the finding is likely and sees no film.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmarks.scores.statistics import interval, multiplicities
from benchmarks.tasks.shared.features import BATCH
from mlip.data.splits import part_rows, read_splits
from mlip.data.store import Store, open_store
from mlip.seeding import generator
from mlip.study import Study

if TYPE_CHECKING:
    import torch

    from benchmarks.plan import Plan
    from mlip.contract import Method
    from mlip.fingerprints import Fingerprint
    from mlip.methods import Entry

CAPABILITY, TASK_NAME = "maps", "zero_shot"
FILMS = 4  # drawn per question
GREY = 96  # stands for the film of a real person
CENTRE, OUTLINES = "centre prior", "mean training outline"
METRICS = ("pointing game", "pixel AUROC")


@dataclass(frozen=True)
class Question:
    """A finding of a data set whose films outline it, and the prompt that asks for it."""

    dataset: str
    label: str
    prompt: str


def questions(plan: Plan) -> list[Question]:
    """What the maps of this study are asked for; empty without a zero-shot task or without outlines."""
    config = plan.study.tasks.get(TASK_NAME)
    found = []
    for protocol, dataset in config.pairs if config else ():
        if config is None or protocol != config.protocols[0]:
            continue
        block = plan.block(TASK_NAME, protocol, dataset)
        reader = block.source.reader
        for label, prompts in block.protocol.prompts_for(block.source.of(block.protocol.datasets)).items():
            if label in reader.box_categories or label == reader.mask_name:
                found.append(Question(dataset, label, prompts.positive[0]))
    return found


def mapped_rows(plan: Plan) -> list[str]:
    """Names of the rows that maps are made of."""
    if CAPABILITY not in plan.study.analyses or not questions(plan):
        return []
    return [name for name, entry in plan.rows.items() if CAPABILITY in entry.capabilities]


def fingerprint(plan: Plan, row: str, seed: int) -> Fingerprint:
    """What the figure and the numbers of a row depend on."""
    asked, entry = questions(plan), plan.row(row)
    settings = [plan.study.note, entry.title, [[q.dataset, q.label, q.prompt] for q in asked]]
    return plan.fingerprints.looked_at("maps", [(entry, seed)], list(dict.fromkeys(q.dataset for q in asked)), settings)


def write_maps(plan: Plan, entry: Entry, seed: int, device: torch.device) -> None:
    """Write ``results/<study>/maps/<row>.png`` and ``.csv`` from the row's checkpoint.

    Neither holds an identifier. Films are drawn where they are virtual; of real ones the outline and the maps alone.

    Raises
    ------
    UserError : the checkpoint, a store or the splits are missing or do not fit.
    """
    from mlip.pretraining.checkpoints import load_method

    study, paths = plan.study, plan.paths
    method = load_method(study, entry, seed).to(device)
    tables, panels = [], []
    for question in questions(plan):
        store, splits = open_store(paths.data(question.dataset)), read_splits(paths.splits(question.dataset))
        rows, truth = outlined(store, part_rows(splits, "test"), question.label)
        if not len(rows):
            continue
        found = method_maps(method, store.images, rows, question.prompt, device)
        controls = {CENTRE: centre_prior(truth.shape[1]), OUTLINES: _mean_outline(store, splits, question.label)}
        everything = {name: enlarge(values, truth.shape[1]) for name, values in found.items()}
        everything |= {n: np.broadcast_to(v, truth.shape) for n, v in controls.items() if v is not None}
        patients = store.records["patient_id"].to_numpy()[rows]
        table = measure(study, question, everything, truth, patients)
        tables.append(table.assign(row=entry.name, seed=seed))
        rng = generator(study.seed, "maps", question.dataset, question.label, "films")
        shown = np.sort(rng.choice(len(rows), min(FILMS, len(rows)), replace=False))  # the same films for all rows
        films = store.images[rows[shown]]
        if _of_persons(study, question):
            films = np.full_like(films, GREY)  # a person's film never enters a result
        panels.append((question, films, truth[shown], {n: v[shown] for n, v in found.items()}))
    paths.maps.mkdir(parents=True, exist_ok=True)
    columns = ["row", "seed", "dataset", "label", "prompt", "map", "metric", "value", "ci_low", "ci_high"]
    columns += ["over_centre", "over_centre_low", "over_centre_high", "films", "patients"]
    frame = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
    frame[columns].round(4).to_csv(paths.maps / f"{entry.name}.csv", index=False)
    draw(study, f"{entry.title}, seed {seed}", panels, paths.maps / f"{entry.name}.png")


def current_rows(plan: Plan) -> list[str]:
    """Names of the rows whose maps are there and are those that today's code and configuration make."""
    seed = plan.study.pretrain.seeds[0]
    return [
        name
        for name in mapped_rows(plan)
        if plan.is_made("maps", (name,), fingerprint(plan, name, seed))
        and all((plan.paths.maps / f"{name}.{kind}").is_file() for kind in ("png", "csv"))
    ]


def links(plan: Plan) -> str:
    """The leaderboard's line on these maps, or ""."""
    folder = f"{plan.study.study}/{plan.paths.maps.name}"
    found = [
        f"{plan.rows[name].title} ([figure]({folder}/{name}.png), [numbers]({folder}/{name}.csv))"
        for name in current_rows(plan)
    ]
    head = "Where the rows look for a finding on test films, and how often that is inside its outline: "
    return head + "; ".join(found) + "." if found else ""


# --- films and maps ---------------------------------------------------------------------------------------------------


def outlined(store: Store, rows: np.ndarray, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Those of ``rows`` whose film outlines the finding [n], and the outlines, bool [n, S, S], filled.

    Boxes of that category count before a mask of that name.
    """
    side = store.images.shape[1]
    kept, outlines = [], []
    boxes = label in store.manifest["box_categories"]
    for row in rows:
        record = store.records.iloc[row]
        if boxes:
            outline = np.zeros((side, side), dtype=bool)
            for (x, y, width, height), category in zip(record["boxes"], record["box_categories"], strict=True):
                if category == label:
                    left, top = max(int(np.floor(x)), 0), max(int(np.floor(y)), 0)
                    outline[top : int(np.ceil(y + height)), left : int(np.ceil(x + width))] = True
        elif store.masks is not None and record["mask_row"] >= 0:
            outline = store.masks[record["mask_row"]].astype(bool)
        else:
            continue
        if outline.any() and not outline.all():
            kept.append(row)
            outlines.append(outline)
    return np.array(kept, dtype=np.int64), np.array(outlines, dtype=bool).reshape(-1, side, side)


def method_maps(
    method: Method, images: np.ndarray, rows: np.ndarray, prompt: str, device: torch.device
) -> dict[str, np.ndarray]:
    """The method's maps of the films ``images[rows]`` (uint8 [N, S, S]), by name: float64 [n, h, w]."""
    import torch

    from mlip.data.pixels import load, to_tensor

    parts: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            batch = to_tensor(load(images, rows[start : start + BATCH])).to(device)
            for name, values in method.maps(batch, prompt).items():
                parts.setdefault(name, []).append(values.double().cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def enlarge(maps: np.ndarray, side: int) -> np.ndarray:
    """[n, h, w] -> [n, side, side], bilinear."""
    import torch
    from torch.nn import functional

    grid = torch.from_numpy(np.ascontiguousarray(maps)).unsqueeze(1)
    return functional.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False).squeeze(1).numpy()


def centre_prior(side: int) -> np.ndarray:
    """Minus the distance from the film's centre [side, side]: what a reader would point at without looking."""
    offset = np.arange(side) - (side - 1) / 2
    return -np.hypot(offset[:, None], offset[None, :])


def _mean_outline(store: Store, splits: pd.DataFrame, label: str) -> np.ndarray | None:
    _, outlines = outlined(store, part_rows(splits, "train"), label)
    return outlines.mean(axis=0) if len(outlines) else None


# --- numbers ----------------------------------------------------------------------------------------------------------


def pointing(values: np.ndarray, outline: np.ndarray) -> float:
    """Whether the highest pixel lies inside; of several equally high ones, the share that does (chance for a flat map)."""
    span = float(values.max() - values.min())
    highest = values >= values.max() - 1e-9 * span
    return float(outline[highest].mean())


def pixel_auroc(values: np.ndarray, outline: np.ndarray) -> float:
    """Probability that a pixel inside is higher than one outside, ties one half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(outline.ravel(), values.ravel()))


def measure(
    study: Study, question: Question, maps: dict[str, np.ndarray], truth: np.ndarray, patients: np.ndarray
) -> pd.DataFrame:
    """One line per map and metric: mean over films [n], its bootstrap interval over patients, and the same of the
    paired difference to the centre prior.

    Parameters
    ----------
    maps : by name, [n, S, S]; the centre prior among them. truth : bool [n, S, S]. patients : [n].
    """
    # In the order of the films: identifiers are hashed with a salt of the work folder, so their own order means nothing.
    codes, who = pd.factorize(patients)
    rng = generator(study.seed, "maps", question.dataset, question.label)
    drawn = multiplicities(len(who), study.statistics.bootstrap, rng)[codes]  # [n, R]
    scorers: Iterable[tuple[str, Callable[[np.ndarray, np.ndarray], float]]]
    scorers = zip(METRICS, (pointing, pixel_auroc), strict=True)
    lines: list[dict[str, Any]] = []
    for metric, score in scorers:
        films = {
            name: np.array([score(v, t) for v, t in zip(values, truth, strict=True)]) for name, values in maps.items()
        }
        for name, values in films.items():
            line: dict[str, Any] = {"map": name, "metric": metric}
            over = values - films[CENTRE]
            for key, numbers in (("", values), ("over_centre", over)):
                low, high = interval(numbers @ drawn / drawn.sum(axis=0), study.statistics.level)
                prefix = f"{key}_" if key else "ci_"
                line |= {key or "value": numbers.mean(), f"{prefix}low": low, f"{prefix}high": high}
            lines.append(line)
    about = {"dataset": question.dataset, "label": question.label, "prompt": question.prompt}
    return pd.DataFrame(lines).assign(**about, films=len(truth), patients=len(who))


# --- figure -----------------------------------------------------------------------------------------------------------

_LETTERS = 22  # of a heading, above one film
Panel = tuple[Question, np.ndarray, np.ndarray, dict[str, np.ndarray]]


def draw(study: Study, title: str, panels: list[Panel], path: Path) -> None:
    """Films in columns, with the outline; below them each map, scaled to the film's own range.

    A map that does not depend on the film is drawn once, as a square with its scale.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    names = list(dict.fromkeys(name for *_, maps in panels for name in maps))
    fixed = {n for n in names if all(n not in m or (m[n] == m[n][:1]).all() for *_, m in panels) and _films(panels) > 1}
    columns = max(1, _films(panels))
    asked = [wrap(f"{q.dataset}: “{q.prompt}”", max(_LETTERS * len(films), 12)) for q, films, *_ in panels]
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
        for (_, films, truth, maps), above in zip(panels, asked, strict=True):
            _heading(axes[0, place], "\n".join(above))
            for k, (film, outline) in enumerate(zip(films, truth, strict=True)):
                _film(axes[0, place + k], film, outline)
                for line, name in enumerate(names, start=1):
                    if name in maps and name not in fixed:
                        _film(axes[line, place + k], film, outline, maps[name][k])
            place += len(films)
        for line, name in enumerate(names, start=1):
            heading = name
            if name in fixed:
                values = next(m[name][0] for *_, m in panels if name in m)
                axes[line, 0].imshow(values, cmap="viridis")
                heading += f": {values.min():.3g} (dark) to {values.max():.3g} (yellow), the same for all films"
            _heading(axes[line, 0], heading)
        lines = [f"{title}. White line: the finding's outline. Maps: dark = least, yellow = most of that film."]
        if any(_of_persons(study, question) for question, *_ in panels):
            lines.append("Films of real persons are not drawn.")
        if not names:
            lines.append("This row has no map: its local part is switched off.")
        figure.suptitle("\n".join([*lines, study.note]), x=0.01, ha="left", fontsize=8, wrap=True)
        figure.savefig(path, dpi=100, metadata={"Software": None})
        plt.close(figure)


def _of_persons(study: Study, question: Question) -> bool:
    return study.datasets[question.dataset].twin is None


def _heading(ax: Any, text: str) -> None:
    """A line above a film that may run over the neighbouring films instead of widening its own column."""
    ax.text(0, 1.04, text, transform=ax.transAxes, va="bottom").set_in_layout(False)


def _films(panels: list[Panel]) -> int:
    return sum(len(films) for _, films, _, _ in panels)


def _film(ax: Any, film: np.ndarray, outline: np.ndarray, values: np.ndarray | None = None) -> None:
    """One film in grey with the outline, under the map where one is given."""
    side = len(film)
    ax.imshow(film, cmap="gray", vmin=0, vmax=255)
    if values is not None:
        ax.imshow(enlarge(values[None], side)[0], cmap="inferno", alpha=0.55)
    ax.contour(outline, levels=[0.5], colors="white", linewidths=0.9)
