"""A tiny data set of noise with planted bright squares, in the store's format, and jobs on it."""

from __future__ import annotations

import json
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
from tests.baselines.helpers import entry as baseline

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
    from mlip.data.division import _write

    rng, folder = np.random.default_rng(3), StudyPaths(config).data("squares")
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
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", images)
    np.save(folder / "masks.npy", masks)
    ids = [f"{i:016x}" for i in range(count)]
    records = pd.DataFrame({"row": range(count), "image_id": ids, "patient_id": ids, "study_id": ids})
    records["view"] = records["official_split"] = records["report"] = ""
    records["boxes"], records["box_categories"], records["mask_row"] = boxes, names, mask_row
    records["boxes_known"], records["flat"] = True, False
    records["width"] = records["height"] = SIZE
    records["dhash"] = "0"
    records.to_parquet(folder / "records.parquet")
    manifest = {"dataset": "squares", "size": SIZE, "count": count, "labels": [], "unreadable": []}
    manifest |= {"box_categories": list(categories), "mask_name": "square"}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    parts = [
        records[["row", "image_id", "patient_id"]].assign(part=p, draw0=d) for p, d in (("train", 100), ("val", 0))
    ]
    parts.append(parts[1].assign(part="test"))
    _write(pd.concat(parts, ignore_index=True), StudyPaths(config).splits("squares"), "strict", [], "")


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
