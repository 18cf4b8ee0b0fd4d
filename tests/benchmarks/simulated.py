"""A study with simulated predictions: two tasks, four methods of known quality and controls, without any training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks.cells import (
    compute,
)
from benchmarks.plan import Plan, resolve
from benchmarks.report.build import build_tables
from benchmarks.scores.predictions import write_predictions
from benchmarks.tasks.shared.task import MetricSpec, Protocol, Task
from mlip.paths import StudyPaths
from mlip.study import Study, parse_study

LABELS = ("Edema", "Pneumonia")
QUALITY = {
    "alpha": 3.0,
    "alpha-50": 2.0,
    "alpha-other": 1.0,
    "beta": 3.0,
    "gamma": 1.0,
    "noise": 0.0,
    "noise-vit": 0.0,
    "blind": 0.0,
    "constant": 0.0,
}
NOTE = "Data: SIMULATED scores, made for the tests."
PRETRAIN = {"datasets": ["rsna"], "epochs": 2, "batch_size": 8}
THREE_SEEDS = {"pretrain": {**PRETRAIN, "seeds": [0, 1, 2]}}


class Probe(Task):
    """Stands for a task with label fractions."""

    name = "probe"
    title = "Probe"
    needs: ClassVar[Any] = "features"
    controls = ("constant",)
    Protocol = Protocol

    def run(self, job):
        raise AssertionError("tables read predictions only")

    run_control = run

    def metrics(self, protocol, source):
        return [MetricSpec("auroc", "AUROC"), MetricSpec("average_precision", "Average precision")]

    def check(self, protocol, source, study):
        pass


class Direct(Probe):
    """Stands for a task without training, which not every method can do."""

    name = "direct"
    title = "Direct"
    controls = ("constant",)
    requires = ("zero_shot",)
    fraction_unit = ""


@dataclass
class World:
    """A study in a temporary folder, and a way to give it predictions."""

    study: Study
    paths: StudyPaths

    @cached_property
    def plan(self) -> Plan:
        return resolve(self.study, look=False)

    def fail(self, stage: str, *names: object, reason: str, fingerprint: str) -> None:
        """What a failed job leaves."""
        path = self.paths.failure(stage, *names)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"reason": reason, "fingerprint": fingerprint}), encoding="utf-8")

    def fail_evaluation(self, task: str, dataset: str, method: str, reason: str, seed: int = 0) -> None:
        cell = (task, "plain", dataset, method, seed)
        self.fail("evaluate", *cell, reason=reason, fingerprint=self.plan.evaluation(*cell).key)

    def predict(self, task: str, dataset: str, method: str, seed: int = 0, change: Callable | None = None) -> Path:
        """Write predictions of ``QUALITY[method]``; ``change`` edits the frame first."""
        config = self.study.tasks[task]
        plan = {"probe": Probe, "direct": Direct}[task]().plan(None, config)
        frame = simulate(QUALITY[method], plan, method=method, seed=seed, dataset=dataset)
        path = self.paths.predictions(task, "plain", dataset, method, seed)
        meta = {"seconds": 2.5, "task": task, "dataset": dataset, "method": method, "seed": seed}
        meta["fingerprint"] = self.plan.evaluation(task, "plain", dataset, method, seed).key
        if method in self.plan.rows:
            meta["training"] = {"code": self.plan.training(method, seed).code, "commit": "abc"}
        path_of_failure = self.paths.failure("evaluate", task, "plain", dataset, method, seed)
        path_of_failure.unlink(missing_ok=True)
        write_predictions(change(frame) if change else frame, path, meta)
        return path

    def fill(self, tasks: tuple[str, ...] = ("probe", "direct"), datasets: tuple[str, ...] = ("rsna", "siim")) -> None:
        """All predictions of the study, or of a part of it."""
        for block in self.plan.blocks:
            if block.task_name in tasks and block.dataset in datasets:
                for row in block.rows:
                    if row.entry is None or not block.task.skip_reason(row.entry, block.dataset):
                        for seed in row.seeds:
                            self.predict(block.task_name, block.dataset, row.name, seed)

    def cells(self) -> pd.DataFrame:
        return compute(self.plan).cells


def simulate(quality: float, plan: list[tuple[int, int]], *, method: str, seed: int, dataset: str) -> pd.DataFrame:
    """120 images of 70 patients; the truth belongs to the data set, the noise to images, methods, seeds and draws."""
    world = np.random.default_rng(len(dataset))
    owner = world.integers(0, 70, 120)
    truth = world.random((2, 120)) < 0.4
    difficulty = world.normal(size=(2, 120))
    own = np.random.default_rng([seed, *method.encode()])
    parts = []
    for fraction, draw in plan:
        strength = quality * (0.5 if fraction == 1 else 1.0)
        for k, label in enumerate(LABELS):
            score = strength * truth[k] + difficulty[k] + 0.3 * own.normal(size=120)
            parts.append(
                pd.DataFrame({
                    "image_id": [f"{dataset}{i:04d}" for i in range(120)], "patient_id": [f"p{o:03d}" for o in owner],
                    "fraction": fraction, "draw": draw, "label": label, "y": truth[k].astype(float),
                    "p": 0.5 if method == "constant" else 1 / (1 + np.exp(-score)),
                })
            )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def make_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Sequence[tuple[str, str]] = (), **changes: Any
) -> World:
    """The study, with method folders, tasks and protocols of its own put in place of the real ones.

    ``more``: further folders and their status. Those called ``gamma`` or ``blind`` list no capability, so that the task
    ``direct`` skips them.
    """
    folders = {}
    for name, status in (
        ("alpha", "official-agreement"),
        ("beta", "reconstruction"),
        ("gamma", "external"),
        ("noise", "control"),
        *more,
    ):
        folder = folders[name] = tmp_path / "methods" / name
        folder.mkdir(parents=True)
        manifest = {
            "id": name, "title": name.capitalize(), "paper": "none", "citation": "none", "year": 2024, "status": status,
            "encoders": {"supports": ["cnn", "vit"], "prefers": "cnn"}, "trained": status != "control",
            "seeded": status != "control",
            "capabilities": [] if name in ("gamma", "blind") else ["zero_shot"], "components": {"extra": {"doc": "a part", "source": "ours"}},
            "recipes": {"small": {"epochs": 3, "batch_size": 8, "lr": 0.001, "weight_decay": 0.1}},
        }  # fmt: skip
        if status == "official-agreement":
            manifest["agreement"] = "losses"
        (folder / "method.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
        (folder / "model.py").write_text("", encoding="utf-8")
    tasks = {"probe": Probe(), "direct": Direct()}
    quirks = ["the metric is averaged twice"]
    protocol = lambda task, name: Protocol(name=name, title=f"Plain {task}", lineage="nobody 1999", quirks=quirks)  # noqa: E731
    monkeypatch.setattr("mlip.methods.method_folders", lambda: folders)
    monkeypatch.setattr("benchmarks.plan.tasks", lambda: tasks)
    monkeypatch.setattr("benchmarks.plan.read_protocol", protocol)
    monkeypatch.setattr(
        "mlip.fingerprints.code_of", lambda modules, *_: f"code of {modules}"
    )  # these tasks have no module
    dataset = {"reader": "rsna", "root": str(tmp_path / "raw")}
    raw: dict[str, Any] = {
        "study": "simulated", "title": "Simulated study", "data_note": NOTE,
        "work": str(tmp_path / "work"), "results": str(tmp_path / "results"),
        "datasets": {"rsna": dataset, "siim": {**dataset, "reader": "siim"}},
        "encoders": {"cnn": {"name": "resnet"}, "vit": {"name": "vit"}, "text": {}},
        "pretrain": PRETRAIN,
        "methods": {"variants": {"noise-vit": {"method": "noise", "encoder": "vit", "title": "Noise (ViT)"}}},
        "tasks": {
            "probe": {"datasets": ["rsna", "siim"], "protocols": ["plain"], "fractions": [1, 100], "draws": 2},
            "direct": {"datasets": ["rsna"], "protocols": ["plain"]},
        },
        "statistics": {"bootstrap": 200},
    }  # fmt: skip
    study = parse_study({**raw, **changes}, where="test")
    return World(study, StudyPaths(study))


@contextmanager
def complete_study(folder: Path) -> Iterator[World]:
    """The study with three seeds, all predictions there and its tables built; its methods are gone after the block."""
    with pytest.MonkeyPatch.context() as patch:
        world = make_world(folder, patch, **THREE_SEEDS)
        world.fill()
        build_tables(world.plan)
        yield world
