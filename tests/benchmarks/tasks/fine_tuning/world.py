"""Striped films, and encoders that cannot see which way the stripes go until they are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.plan import source_of
from benchmarks.tasks.catalogue import read_protocol
from benchmarks.tasks.fine_tuning import TASK
from benchmarks.tasks.shared.task import EvalJob, with_budget
from mlip.encoders.image import ImageEncoder
from mlip.paths import StudyPaths
from mlip.seeding import seed_everything
from mlip.study import Study, parse_study
from tests.methods import entry as baseline
from tests.stores import divide, write_store

SIDE, COUNT = 32, 120
ENCODERS = {
    "cnn": {"name": "resnet", "args": {"layers": [1, 1, 1, 1], "channels": [8, 12, 16, 16]}},
    "vit": {"name": "vit", "args": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}},
    "text": {},
}
# Short trainings at a rate that moves these small encoders.
QUICK = {
    "optimiser": "adamw", "training": {100: {"lr": 3e-3, "steps": 60, "warmup": 5}}, "batch_size": 16, "augmentation": None,
    "drop_path": 0.0, "layer_decay": None,
}  # fmt: skip


def study(root: Path) -> Study:
    raw: dict[str, Any] = {
        "study": "tuned", "title": "t", "data_note": "n", "image_size": SIDE, "work": str(root / "work"),
        "datasets": {"films": {"reader": "rsna", "root": str(root)}}, "encoders": ENCODERS,
        "pretrain": {"datasets": ["films"], "checkpoint_seconds": 1e-9},
        "tasks": {t: {"datasets": ["films"], "fractions": [100]} for t in ("fine_tuning", "linear_probe")},
    }  # fmt: skip
    return parse_study(raw, where="test")


def plant(config: Study, shuffled: bool = False, wrong_validation: bool = False) -> np.ndarray:
    """Write store and splits of films with stripes of two pixels, across (label 1) or along; the true labels [N].

    ``shuffled``: the labels of the training films say nothing. ``wrong_validation``: those of the validation films are
    turned round.
    """
    rng, paths = np.random.default_rng(5), StudyPaths(config)
    y = np.arange(COUNT) % 2
    images = np.empty((COUNT, SIDE, SIDE), dtype=np.uint8)
    for i in range(COUNT):
        stripes = 120 + 60 * ((np.arange(SIDE) + rng.integers(2)) % 2)
        film = np.tile(stripes, (SIDE, 1))
        images[i] = np.clip((film.T if y[i] else film) + rng.normal(0, 12, (SIDE, SIDE)), 0, 255)
    part = np.repeat(["train", "val", "test"], COUNT // 3)
    labels = y.copy()
    if shuffled:
        labels[part == "train"] = rng.permutation(labels[part == "train"])
    if wrong_validation:
        labels[part == "val"] = 1 - labels[part == "val"]
    rows = write_store(paths.data("films"), images, reader="rsna", labels={"Pneumonia": labels})
    divide(paths.splits("films"), rows, part, [np.where(part == "train", 100, 0)])
    return y


def encoder(config: Study, kind: str) -> ImageEncoder:
    """A CNN's first filters are means of their window, so that it sees stripes of both ways alike."""
    seed_everything("fine-tuning", kind)
    model_config = config.encoders.cnn if kind == "cnn" else config.encoders.vit
    made = ImageEncoder(model_config, kind, config.image_size)  # type: ignore[arg-type]
    if kind == "cnn":
        with torch.no_grad():
            first = made.model.conv1.weight
            first.copy_(first.mean(dim=(2, 3), keepdim=True).expand_as(first))
    return made


def job(config: Study, protocol: str = "strict", made_by: str = "", **budget: Any) -> EvalJob:
    task = config.tasks["fine_tuning"].model_copy(update={"budget": budget})
    paths = StudyPaths(config)
    return EvalJob(
        study=config, paths=paths, task=task, protocol=with_budget(read_protocol("fine_tuning", protocol), task),
        protocol_name=protocol, source=source_of(config, "films"), method="random", seed=0, entry=baseline("random"),
        device=torch.device("cpu"), output=paths.predictions(TASK.name, protocol, "films", "random", 0), made_by=made_by,
    )  # fmt: skip
