"""A small world for the tasks: a study with a store, splits and features in a temporary folder, and a fake method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.plan import source_of
from benchmarks.tasks.catalogue import read_protocol, tasks
from benchmarks.tasks.shared.features import fingerprint
from benchmarks.tasks.shared.task import EvalJob, Source, with_budget
from mlip.data.catalogue import readers
from mlip.data.store import open_store
from mlip.manifest import Manifest
from mlip.methods import Entry
from mlip.paths import StudyPaths
from mlip.study import Study, parse_study
from tests.stores import divide, write_store

SIDE = 8
READERS = {"rsna": "rsna", "chexpert": "chexpert", "chexpert_5x200": "chexpert", "covidx": "covidx", "siim": "siim"}


def a_source(name: str) -> Source:
    """A data set of this world as tasks see it, without a study."""
    kind = READERS.get(name, "mimic_cxr" if name == "mimic" else name)
    return Source(name, kind, "five_by_200" if name == "chexpert_5x200" else "", readers()[kind], None)


@dataclass
class World:
    """Builds the files that the tasks read."""

    study: Study
    paths: StudyPaths
    entry: Entry

    def store(
        self,
        dataset: str,
        labels: dict[str, np.ndarray],
        *,
        images: np.ndarray | None = None,
        reports: list[str] | None = None,
        patients: np.ndarray | None = None,
        studies: np.ndarray | None = None,
        views: list[str] | None = None,
        parts: np.ndarray | None = None,
        draws: int = 3,
    ) -> None:
        """Store and splits. By default two images a patient; parts go by patient 60/20/20; draws are nested."""
        count = len(next(iter(labels.values()))) if labels else len(reports or [])
        rng = np.random.default_rng(count)
        patients = np.arange(count) // 2 if patients is None else patients
        images = rng.integers(0, 255, (count, SIDE, SIDE), dtype=np.uint8) if images is None else images
        rows = write_store(
            self.paths.data(dataset),
            images,
            reader=READERS.get(dataset, dataset),
            labels=labels,
            reports=reports,
            patients=patients,
            studies=studies,
            views=views,
        )
        if parts is None:
            parts = np.array(["train", "train", "train", "val", "test"])[patients % 5]
        fractions = (
            np.random.default_rng(k).choice([1, 10, 100], size=count, p=[0.25, 0.25, 0.5]) for k in range(draws)
        )
        divide(self.paths.splits(dataset), rows, parts, [np.where(parts == "train", f, 0) for f in fractions])

    def rewrite(self, path: Path, change: Callable[[pd.DataFrame], None]) -> None:
        """Change a parquet file in place."""
        frame = pd.read_parquet(path)
        change(frame)
        frame.to_parquet(path)

    def features(self, dataset: str, pooled: np.ndarray) -> None:
        from safetensors.numpy import save_file

        path = self.paths.features(self.entry.name, 0, dataset)
        path.parent.mkdir(parents=True, exist_ok=True)
        pooled = np.ascontiguousarray(pooled, dtype=np.float32)
        about = {"store": fingerprint(open_store(self.paths.data(dataset)))}
        save_file({"pooled": pooled}, path, metadata=about)

    def source(self, dataset: str) -> Source:
        return source_of(self.study, dataset)

    def job(
        self, task: str, dataset: str, protocol_name: str = "strict", method: str | None = None, **budget: Any
    ) -> EvalJob:
        import torch

        config = self.study.tasks[task].model_copy(update={"budget": budget})
        return EvalJob(
            study=self.study,
            paths=self.paths,
            task=config,
            protocol=with_budget(read_protocol(task, protocol_name), config),
            protocol_name=protocol_name,
            source=self.source(dataset),
            method=method or self.entry.name,
            seed=0,
            entry=None if method else self.entry,
            device=torch.device("cpu"),
            output=self.paths.predictions(task, protocol_name, dataset, self.entry.name, 0),
        )

    def run(self, task: str, dataset: str, protocol_name: str = "strict", **budget: Any) -> pd.DataFrame:
        return tasks()[task].run(self.job(task, dataset, protocol_name, **budget))


@pytest.fixture
def world(tmp_path: Path) -> World:
    names = [*READERS, "mimic"]
    encoder = {"name": "resnet"}
    study = parse_study(
        {
            "study": "tiny",
            "title": "Tiny",
            "data_note": "random numbers",
            "work": str(tmp_path / "work"),
            "image_size": SIDE,
            "datasets": {n: {"reader": READERS.get(n, "mimic_cxr"), "root": str(tmp_path / n)} for n in names},
            "encoders": {"cnn": encoder, "vit": {"name": "vit"}, "text": {}},
            "pretrain": {"datasets": ["mimic"]},
            "tasks": {
                "linear_probe": {"datasets": ["rsna", "chexpert", "covidx"], "fractions": [1, 10, 100], "draws": 2},
                "few_shot": {"datasets": ["rsna"], "fractions": [1, 4], "draws": 3},
                "zero_shot": {"datasets": ["rsna", "chexpert_5x200"]},
                "retrieval": {"datasets": ["mimic"]},
            },
        },
        where="test",
    )
    manifest = Manifest(
        id="fake",
        title="Fake",
        paper="none",
        citation="none",
        year=2024,
        status="control",
        encoders={"supports": ["cnn"], "prefers": "cnn"},
        capabilities=["zero_shot", "retrieval"],
    )
    study.datasets["chexpert_5x200"].options["subset"] = "five_by_200"
    return World(study, StudyPaths(study), Entry("fake", manifest, tmp_path, "cnn", {}, {}, "Fake"))


@pytest.fixture
def fake_method(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs and returns a method that sees an image's first pixels and reads numbers out of a text table."""
    import torch
    from torch import Tensor, nn

    import mlip.pretraining.checkpoints
    from mlip.contract import ImageFeatures, Method, TextFeatures

    class FakeMethod(Method):
        """Image embedding = the first row of pixels; text embedding = ``table[text]``."""

        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.anchor = nn.Parameter(torch.zeros(1))
            self.table: dict[str, np.ndarray] = {}
            self.asked: list[list[str]] = []
            self.images_seen = 0

        def losses(self, batch: Any) -> dict[str, Tensor]:
            return {}

        def encode_image(self, images: Tensor) -> ImageFeatures:
            assert not torch.is_grad_enabled() and not self.training
            self.images_seen += len(images)
            pixels = images[:, 0].flatten(1)
            joint = nn.functional.normalize(images[:, 0, 0], dim=-1)
            return ImageFeatures(pooled=pixels, grid=images.permute(0, 2, 3, 1), joint=joint)

        def encode_text(self, texts: Any) -> TextFeatures:
            self.asked.append(list(texts))
            values = torch.tensor(np.stack([self.table[t] for t in texts]), dtype=torch.float32)
            return TextFeatures(joint=nn.functional.normalize(values, dim=-1))

    method = FakeMethod().eval()
    monkeypatch.setattr(mlip.pretraining.checkpoints, "load_method", lambda study, entry, seed: method)
    return method
