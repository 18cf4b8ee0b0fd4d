"""The detection task. Detectron2 is imported only when a detector is trained, so that looking at tasks stays cheap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from benchmarks.tasks.detection.protocol import DetectionProtocol
from benchmarks.tasks.shared.dense.protocol import with_balance
from benchmarks.tasks.shared.task import EvalJob, MetricSpec, Source, Task
from mlip.errors import UserError
from mlip.seeding import seed_for
from mlip.study import Study

if TYPE_CHECKING:
    import torch

    from benchmarks.tasks.detection.boxes import ImageBoxes
    from benchmarks.tasks.detection.model import AnchorTargets, Detector
    from benchmarks.tasks.shared.dense.data import KnownRows
    from benchmarks.tasks.shared.dense.features import Features
    from benchmarks.tasks.shared.state import State
    from benchmarks.tasks.shared.training import Fitted

TEST_BATCH = 32


class DetectionTask(Task):
    """RetinaNet on the encoder, frozen or trained with it, for each label fraction and draw.

    Rows: one per test image, box category, fraction and draw, with the columns ``image_id, patient_id, fraction, draw,
    label, n_truth, scores, matched, iterations, stopped, seen, labelled`` (see :func:`benchmarks.tasks.detection.matching.outcomes` and
    :class:`benchmarks.tasks.shared.training.Fitted`). Beside the table lies
    ``<stem>.f<fraction>.d<draw>.json`` with the found boxes in the COCO results format.
    """

    name = "detection"
    title = "Detection"
    needs: ClassVar[Literal["features", "method"]] = "method"
    controls = ("prior-box",)
    label_draws = True
    needs_maps = True
    added = ("layer_decay", "augmentation")
    scored_later = ("skip_undetected", "skip_negative")
    Protocol = DetectionProtocol

    def run(self, job: EvalJob) -> pd.DataFrame:
        from benchmarks.tasks.shared.dense.features import features_of
        from benchmarks.tasks.shared.state import Kept
        from benchmarks.tasks.shared.training import deterministic

        data = _Data(job)
        features = features_of(job, data.store.images, data.rows.known, job.protocol.levels)

        def train(fraction: int, draw: int, state: State | None) -> pd.DataFrame:
            return data.outcomes(*_train_and_detect(job, data, features, fraction, draw, state), fraction, draw)

        with deterministic(job.device):
            return Kept(job).table(self.plan(job.protocol, job.task), train)

    def run_control(self, job: EvalJob) -> pd.DataFrame:
        from benchmarks.tasks.detection.prior import prior_boxes
        from benchmarks.tasks.shared.training import NOT_TRAINED

        data = _Data(job)
        parts = []
        for fraction, draw in self.plan(job.protocol, job.task):
            train = [data.truth[row] for row in data.rows.train(fraction, draw)]
            seed = seed_for(job.study.seed, "prior-box", job.dataset, fraction, draw)
            prior = prior_boxes(train, len(data.categories), job.protocol.prior_boxes, seed)
            parts.append(data.outcomes([prior] * len(data.test), NOT_TRAINED, fraction, draw))
        return pd.concat(parts, ignore_index=True)

    def most_seen(self, protocol: DetectionProtocol, source: Source, fraction: int, films: int) -> int:
        return protocol.most_seen(fraction, films)

    def with_target(self, protocol: DetectionProtocol, source: Source, target: dict[str, Any]) -> Any:
        return with_balance(protocol, source.kind, target)

    def metrics(self, protocol: DetectionProtocol, source: Source) -> list[MetricSpec]:
        whole = {"ious": list(protocol.ious)}
        # Bit 0 of `matched` belongs to the first threshold, so a list of that one alone reads it.
        first = {"ious": list(protocol.ious[:1])}
        specs = [MetricSpec("map", "mAP", whole), MetricSpec("map", f"AP{100 * protocol.ious[0]:.0f}", first)]
        if protocol.skip_undetected or protocol.skip_negative:
            skips = {"skip_undetected": protocol.skip_undetected, "skip_negative": protocol.skip_negative}
            specs.insert(0, MetricSpec("map", "mAP (lineage's skips)", {**whole, **skips}))
        return specs

    def check(self, protocol: DetectionProtocol, source: Source, study: Study) -> None:
        name = source.kind
        where = f"{study.study}: tasks.detection.datasets"
        if not source.reader.box_categories:
            raise UserError(
                f"{source.name} (reader {name}) has no boxes", where=where, fix="name a data set with boxes"
            )
        if name not in protocol.unlabelled_if_empty and not source.reader.own:
            raise UserError(
                f"does not say whether an image of {name} without boxes is a true negative",
                where=Path("benchmarks/protocols/detection") / f"{protocol.name}.yaml",
                fix=f"add {name} under unlabelled_if_empty",
            )


class _Data:
    """Images, true boxes and row numbers of one job."""

    def __init__(self, job: EvalJob) -> None:
        from benchmarks.tasks.detection.boxes import read_truth
        from benchmarks.tasks.shared.dense.data import KnownRows
        from mlip.data.store import open_store

        self.job, self.protocol = job, job.protocol
        self.store = open_store(job.paths.data(job.dataset))
        self.categories: list[str] = list(self.store.manifest["box_categories"])
        self.truth: list[ImageBoxes] = read_truth(self.store.records, self.categories)
        self.positive = np.array([len(t) > 0 for t in self.truth], dtype=bool)
        believed = self.store.records["boxes_known"].to_numpy(bool)  # else a film without boxes is no true negative
        # Of films of one's own the reader's options say it (`boxes.unlisted`).
        known = self.positive if self.protocol.unlabelled_if_empty.get(job.source.kind, False) else believed
        self.rows: KnownRows = KnownRows(job, self.store, known)
        self.test = self.rows.part("test")
        self._matched: dict[int, AnchorTargets] = {}

    def targets(self, detector: Detector, rows: np.ndarray) -> AnchorTargets:
        """What the anchors are to find in these images; matched once per job, since all its detectors have the same anchors."""
        from benchmarks.tasks.detection.model import AnchorTargets

        for row in rows:
            if row not in self._matched:
                self._matched[row] = detector.match(self.truth[row])
        return AnchorTargets.join([self._matched[row] for row in rows])

    def score(self, found: list[ImageBoxes], rows: np.ndarray) -> float:
        """mAP of the boxes found in these rows."""
        from benchmarks.tasks.detection.matching import evaluate, mean_average_precision

        truth = [self.truth[row] for row in rows]
        protocol = self.protocol
        return mean_average_precision(evaluate(truth, found, self.categories, protocol.ious, protocol.max_detections))

    def outcomes(self, found: list[ImageBoxes], fitted: Fitted, fraction: int, draw: int) -> pd.DataFrame:
        """The task's rows of one training, and its COCO results file."""
        from benchmarks.tasks.detection.boxes import coco_results
        from benchmarks.tasks.detection.matching import evaluate, outcomes

        truth = [self.truth[row] for row in self.test]
        result = evaluate(truth, found, self.categories, self.protocol.ious, self.protocol.max_detections)
        table = outcomes(result, truth, self.categories)
        ids = self.rows.identifiers(self.test)
        output = self.job.output
        output.parent.mkdir(parents=True, exist_ok=True)
        path = output.with_name(f"{output.stem}.f{fraction}.d{draw}.json")
        path.write_text(json.dumps(coco_results(ids["image_id"].tolist(), found)), encoding="utf-8")
        table = pd.concat([ids.iloc[table.pop("image")].reset_index(drop=True), table], axis=1)
        table.insert(2, "fraction", fraction)
        table.insert(3, "draw", draw)
        return table.assign(**fitted.columns)


def _train_and_detect(
    job: EvalJob, data: _Data, features: Features, fraction: int, draw: int, state: State | None
) -> tuple[list[ImageBoxes], Fitted]:
    from benchmarks.tasks.detection.boxes import move
    from benchmarks.tasks.detection.model import AnchorTargets, Detector, build_retinanet
    from benchmarks.tasks.shared.dense.features import TrainedFeatures
    from benchmarks.tasks.shared.dense.heads import HeadTraining

    protocol: DetectionProtocol = job.protocol
    training = HeadTraining(DetectionTask.name, job, data.rows, lambda rows: data.positive[rows], fraction, draw)
    training.seed("head")
    net = build_retinanet(features.maps, protocol, len(data.categories)).to(job.device)
    detector = Detector(net, features.maps, job.study.image_size)

    def loss_of(rows: np.ndarray) -> torch.Tensor:
        if not isinstance(features, TrainedFeatures):
            return detector.loss(features.batch(rows), data.targets(detector, rows))
        films, boxes = move(features.films(rows), [data.truth[row] for row in rows], protocol.augmentation)
        return detector.loss(features.of_films(films), AnchorTargets.join([detector.match(b) for b in boxes]))

    def validate() -> float:
        return data.score(_detect(detector, features, training.few), training.few)

    fitted = training.fit(net, features, loss_of, validate, state)
    return _detect(detector, features, data.test), fitted


def _detect(detector: Detector, features: Features, rows: np.ndarray) -> list[ImageBoxes]:
    features.prepare(rows)
    found: list[ImageBoxes] = []
    for start in range(0, len(rows), TEST_BATCH):
        found += detector.detect(features.batch(rows[start : start + TEST_BATCH]))
    return found
