"""A tiny data set of noise with planted bright squares, in the store's format, and jobs on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.plan import source_of
from benchmarks.tasks.catalogue import read_protocol
from benchmarks.tasks.shared.task import EvalJob, Task, with_budget
from mlip.contract import Method, MethodContext
from mlip.encoders.image import ImageEncoder
from mlip.encoders.text import TextEncoder
from mlip.methods import method_class
from mlip.paths import StudyPaths
from mlip.seeding import seed_everything
from mlip.study import Study, TextEncoderConfig, parse_study
from mlip.text.tokenisation import train_tokenizer
from tests.methods import entry as baseline
from tests.stores import divide, write_store

SIZE = 64
ENCODERS = {
    "cnn": {
        "name": "resnet",
        "args": {"layers": [1, 1, 1, 1], "channels": [16, 32, 48, 64], "stem_width": 8, "stem_type": "deep_tiered"},
    },
    "vit": {"name": "vit", "args": {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4}},
    "text": {},
}


def study(root: Path, reader: str = "rsna") -> Study:
    raw: dict[str, Any] = {
        "study": "dense", "title": "t", "data_note": "n", "image_size": SIZE,
        "work": str(root / "work"), "results": str(root / "results"),
        "datasets": {"squares": {"reader": reader, "root": str(root)}},
        "encoders": ENCODERS,
        "pretrain": {"datasets": ["squares"]},
        "tasks": {t: {"datasets": ["squares"], "fractions": [100]} for t in ("detection", "segmentation")},
    }  # fmt: skip
    return parse_study(raw, where="test")


def plant(config: Study, count: int = 24, categories: tuple[str, ...] = ("Pneumonia",), unknown_masks: int = 0) -> None:
    """Write store and splits: half the films with one square each of about 20 px, every film in train and in test.

    The last ``unknown_masks`` films have no mask, which is not the same as an empty one.
    """
    rng, paths = np.random.default_rng(3), StudyPaths(config)
    images = rng.integers(40, 80, (count, SIZE, SIZE)).astype(np.uint8)
    masks, boxes, names = np.zeros_like(images), [], []
    for i in range(count):
        boxes.append([])
        names.append([])
        if i % 2:
            x, y, w, h = (int(v) for v in (*rng.integers(4, 36, 2), *rng.integers(18, 25, 2)))
            images[i, y : y + h, x : x + w] += 150
            masks[i, y : y + h, x : x + w] = 1
            boxes[i].append([float(v) for v in (x, y, w, h)])
            names[i].append(categories[(i // 2) % len(categories)])
    mask_row = np.where(np.arange(count) < count - unknown_masks, np.arange(count), -1)
    rows = write_store(
        paths.data("squares"),
        images,
        reader=config.datasets["squares"].reader,
        boxes=boxes,
        of_boxes=names,
        box_categories=categories,
        masks=masks,
        mask_row=mask_row,
    )
    part = np.repeat(["train", "val", "test"], count)
    divide(paths.splits("squares"), pd.concat([rows] * 3), part, [np.where(part == "train", 100, 0)])


def encoder(config: Study, kind: str) -> ImageEncoder:
    seed_everything("dense-world", kind)
    model_config = config.encoders.cnn if kind == "cnn" else config.encoders.vit
    return ImageEncoder(model_config, kind, config.image_size)  # type: ignore[arg-type]


def job(task: Task, config: Study, method: str = "x", protocol: str = "strict", **budget: Any) -> EvalJob:
    task_config = config.tasks[task.name].model_copy(update={"budget": budget})
    resolved = with_budget(read_protocol(task.name, protocol), task_config)
    paths = StudyPaths(config)
    return EvalJob(
        study=config, paths=paths, task=task_config, protocol=resolved, protocol_name=protocol, source=source_of(config, "squares"),
        method=method, seed=0, entry=baseline("random"), device=torch.device("cpu"),
        output=paths.predictions(task.name, protocol, "squares", method, 0),
    )  # fmt: skip


def method(encoder: ImageEncoder) -> Method:
    """The random control around this encoder."""
    entry = baseline("random", encoder.kind)
    text = TextEncoderConfig(layers=1, dim=16, heads=2, vocabulary=100, max_tokens=16)
    tokenizer = train_tokenizer(["no effusion ."], text.vocabulary, text.max_tokens)
    context = MethodContext(
        encoder, TextEncoder(text, tokenizer.vocabulary), tokenizer, None, dict(entry.params), dict(entry.components)
    )
    return method_class(entry.folder)(context)


def give_encoder(monkeypatch: pytest.MonkeyPatch, model: ImageEncoder) -> None:
    """Let `load_method` return the random control around this encoder instead of a checkpoint's method."""
    give_method(monkeypatch, method(model))


def give_method(monkeypatch: pytest.MonkeyPatch, model: Method) -> None:
    monkeypatch.setattr("mlip.pretraining.checkpoints.load_method", lambda study, entry, seed: model.eval())
