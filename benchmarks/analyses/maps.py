"""Where a trained row looks: its maps for a prompt on test films, drawn beside the finding's outline and measured.

The questions are those of the study's zero-shot task: each yes/no label of a data set whose boxes or masks outline that
very finding. A map is asked for in two ways: with the label's first presence prompt, as papers draw it; and as zero-shot
classification asks, the mean over the presence prompts minus the mean over the absence prompts. What a patch answers to
every sentence alike drops out of the second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from benchmarks.analyses.map_figure import Panel, draw
from benchmarks.analyses.map_scores import CENTRE, COLUMNS, OUTLINES, centre_prior, measure
from benchmarks.tasks.shared.features import BATCH
from mlip.data.splits import part_rows, read_splits
from mlip.data.store import Store, open_store
from mlip.seeding import generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from benchmarks.plan import Plan
    from mlip.contract import Method
    from mlip.fingerprints import Fingerprint
    from mlip.methods import Entry

CAPABILITY, TASK_NAME = "maps", "zero_shot"
FILMS = 4  # drawn per question
GREY = 96  # stands for the film of a real person
CONTRAST = ", presence minus absence"  # ends the name of such a map


@dataclass(frozen=True)
class Question:
    """A finding of a data set whose films outline it, and the prompts that ask for it; ``absence`` may be empty."""

    dataset: str
    label: str
    presence: tuple[str, ...]
    absence: tuple[str, ...] = ()

    def asked(self, name: str) -> str:
        """How the map of this name was asked for, in words."""
        if name in (CENTRE, OUTLINES):
            return ""
        if name.endswith(CONTRAST):
            return f"{len(self.presence)} presence prompts minus {len(self.absence)} absence prompts"
        return self.presence[0]


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
                found.append(Question(dataset, label, tuple(prompts.positive), tuple(prompts.negative)))
    return found


def mapped_rows(plan: Plan) -> list[str]:
    """Names of the rows that maps are made of."""
    if CAPABILITY not in plan.study.analyses or not questions(plan):
        return []
    return [name for name, entry in plan.rows.items() if CAPABILITY in entry.capabilities]


def fingerprint(plan: Plan, row: str) -> Fingerprint:
    """What the figure and the numbers of a row depend on."""
    asked, entry = questions(plan), plan.row(row)
    settings = [plan.study.note, entry.title, [[q.dataset, q.label, q.presence, q.absence] for q in asked]]
    trained = [(entry, seed) for seed in entry.seeds(plan.study)]
    return plan.fingerprints.looked_at("maps", trained, list(dict.fromkeys(q.dataset for q in asked)), settings)


def write_maps(plan: Plan, entry: Entry, device: torch.device) -> None:
    """Write ``results/<study>/maps/<row>.csv``, the numbers over all seeds, and ``.png``, the maps of the first one.

    Neither holds an identifier. Films are drawn where they are virtual; of real ones the outline and the maps alone.

    Raises
    ------
    UserError : a checkpoint, a store or the splits are missing or do not fit.
    """
    from mlip.pretraining.checkpoints import load_method

    study, paths = plan.study, plan.paths
    seeds = entry.seeds(study)
    methods = [load_method(study, entry, seed).to(device) for seed in seeds]
    tables: list[pd.DataFrame] = []
    panels: list[Panel] = []
    for question in questions(plan):
        store, splits = open_store(paths.data(question.dataset)), read_splits(paths.splits(question.dataset))
        rows, truth = outlined(store, part_rows(splits, "test"), question.label)
        if not len(rows):
            continue
        found = [question_maps(method, store.images, rows, question, device) for method in methods]
        controls = {CENTRE: centre_prior(truth.shape[1]), OUTLINES: _mean_outline(store, splits, question.label)}
        rng = generator(study.seed, "maps", question.dataset, question.label)
        table = measure(
            found,
            {name: values for name, values in controls.items() if values is not None},
            truth,
            store.records["patient_id"].to_numpy()[rows],
            (study.statistics.bootstrap, study.statistics.level),
            rng,
        )
        asked = [question.asked(name) for name in table["map"]]
        tables.append(table.assign(dataset=question.dataset, label=question.label, asked=asked))
        rng = generator(study.seed, "maps", question.dataset, question.label, "films")
        shown = np.sort(rng.choice(len(rows), min(FILMS, len(rows)), replace=False))  # the same films for all rows
        films = store.images[rows[shown]]
        if hidden := study.datasets[question.dataset].twin is None:
            films = np.full_like(films, GREY)  # a person's film never enters a result
        heading = f"{question.dataset}: “{question.presence[0]}”"
        panels.append(Panel(heading, films, hidden, truth[shown], {n: v[shown] for n, v in found[0].items()}))
    paths.maps.mkdir(parents=True, exist_ok=True)
    frame = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    frame[COLUMNS].round(4).to_csv(paths.maps / f"{entry.name}.csv", index=False)
    draw(f"{entry.title}, seed {seeds[0]}", study.note, panels, paths.maps / f"{entry.name}.png")


def current_rows(plan: Plan) -> list[str]:
    """Names of the rows whose maps are there and are those that today's code and configuration make."""
    return [
        name
        for name in mapped_rows(plan)
        if plan.is_made("maps", (name,), fingerprint(plan, name))
        and all((plan.paths.maps / f"{name}.{kind}").is_file() for kind in ("png", "csv"))
    ]


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


def question_maps(
    method: Method, images: np.ndarray, rows: np.ndarray, question: Question, device: torch.device
) -> dict[str, np.ndarray]:
    """The method's maps of the films ``images[rows]`` (uint8 [N, S, S]), by name: float64 [n, h, w].

    Beside each of its maps the contrast of the presence and the absence prompts, where a prompt makes a difference.
    """
    import torch

    from mlip.data.pixels import load, to_tensor

    parts: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode(), encoded_once(method):
        for start in range(0, len(rows), BATCH):
            batch = to_tensor(load(images, rows[start : start + BATCH])).to(device)
            present = [method.maps(batch, prompt) for prompt in question.presence]
            absent = [method.maps(batch, prompt) for prompt in question.absence]
            for name, values in present[0].items():
                parts.setdefault(name, []).append(values.double().cpu().numpy())
            for name, values in _contrasts(present, absent).items():
                parts.setdefault(name, []).append(values.double().cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def _contrasts(present: list[dict[str, Tensor]], absent: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean over presence prompts minus mean over absence prompts of those maps that a prompt moves; a prompt without the map (none of its
    words has an entity) is left out."""
    import torch

    found = {}
    for name in dict.fromkeys(name for maps in present for name in maps):
        sides = [[maps[name].double() for maps in side if name in maps] for side in (present, absent)]
        if not all(sides) or all(torch.equal(values, sides[0][0]) for side in sides for values in side):
            continue
        found[name + CONTRAST] = torch.stack(sides[0]).mean(dim=0) - torch.stack(sides[1]).mean(dim=0)
    return found


@contextmanager
def encoded_once(method: Method) -> Iterator[None]:
    """Within it the method's image encoder answers the batch that it saw last from memory: two dozen prompts ask about each."""
    encoder = getattr(method, "image_encoder", None)
    if encoder is None:
        yield
        return
    encode = encoder.forward
    last: dict[str, object] = {}

    def remembered(images: Tensor, *others: object, **options: object) -> object:
        if others or options:
            return encode(images, *others, **options)
        if last.get("images") is not images:
            last.update(images=images, features=encode(images))
        return deepcopy(last["features"])  # a method may change in place what it got

    encoder.forward = remembered
    try:
        yield
    finally:
        del encoder.forward


def _mean_outline(store: Store, splits: pd.DataFrame, label: str) -> np.ndarray | None:
    _, outlines = outlined(store, part_rows(splits, "train"), label)
    return outlines.mean(axis=0) if len(outlines) else None
