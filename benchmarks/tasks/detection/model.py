"""The detector: Detectron2's RetinaNet on the frozen encoder's pyramid, trained and run on cached maps.

RetinaNet rather than Faster R-CNN: one stage, so that neither proposals nor sampled regions cost time on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.tasks.detection.backbone import build_pyramid, normalisation
from benchmarks.tasks.detection.boxes import ImageBoxes
from benchmarks.tasks.detection.protocol import DetectionProtocol
from benchmarks.tasks.shared.dense.features import MethodMaps
from mlip.detectron2_compat import prepare

prepare()

from detectron2.layers import batched_nms  # noqa: E402
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator  # noqa: E402
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss  # noqa: E402
from detectron2.modeling.matcher import Matcher  # noqa: E402
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead  # noqa: E402
from detectron2.structures import Boxes, Instances  # noqa: E402
from fvcore.nn import sigmoid_focal_loss  # noqa: E402


class Resumable(RetinaNet):
    """Keeps the moving average that its loss is divided by among its weights, so that a training can go on after a kill."""

    def get_extra_state(self) -> Tensor:
        return torch.tensor(getattr(self, "loss_normalizer", float("nan")), dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        if not state.isnan():
            self.loss_normalizer = state.item()


def build_retinanet(maps: MethodMaps, protocol: DetectionProtocol, categories: int) -> RetinaNet:
    """A freshly initialised RetinaNet; only pyramid and head have gradients."""
    pyramid = build_pyramid(maps, protocol)
    names = list(pyramid.output_shape())[: len(protocol.anchor_sizes)]
    shapes = [pyramid.output_shape()[name] for name in names]
    sizes = [[size * octave * maps.side for octave in protocol.anchor_octaves] for size in protocol.anchor_sizes]
    head = RetinaNetHead(
        input_shape=shapes,
        num_classes=categories,
        num_anchors=len(protocol.anchor_octaves) * len(protocol.anchor_ratios),
        conv_dims=[protocol.channels] * protocol.head_convs,
        norm=normalisation(protocol.norm),
    )
    return Resumable(
        backbone=pyramid,
        head=head,
        head_in_features=names,
        anchor_generator=DefaultAnchorGenerator(
            sizes=sizes, aspect_ratios=[protocol.anchor_ratios], strides=[s.stride for s in shapes], offset=0.5
        ),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=Matcher(list(protocol.match_ious), [0, -1, 1], allow_low_quality_matches=True),
        num_classes=categories,
        focal_loss_alpha=protocol.focal_alpha,
        focal_loss_gamma=protocol.focal_gamma,
        smooth_l1_beta=0.1,
        box_reg_loss_type=protocol.box_loss,
        test_score_thresh=protocol.score_threshold,
        test_topk_candidates=3 * protocol.max_detections,
        test_nms_thresh=protocol.nms_iou,
        max_detections_per_image=protocol.max_detections,
        # the store's images are normalised before the encoder, see mlip/data/pixels.py
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
    )


@dataclass(frozen=True)
class AnchorTargets:
    """What each of the R anchors of N images is to find, as ``RetinaNet.label_anchors`` says."""

    labels: Tensor  # int64 [N, R]: category, their number for background, -1 for neither
    boxes: Tensor  # float32 [N, R, 4] corners of the matched true box; of no meaning for background

    @classmethod
    def join(cls, parts: Sequence[AnchorTargets]) -> AnchorTargets:
        return cls(torch.cat([p.labels for p in parts]), torch.cat([p.boxes for p in parts]))


class Detector:
    """A RetinaNet fed with cached maps and, in training, with cached matches of its anchors.

    Detectron2's losses, box transform and suppression see a whole batch at once, where its RetinaNet goes image by image.

    Parameters
    ----------
    net : from :func:`build_retinanet`.
    maps : the frozen method's maps inside it.
    image_size : side of the stored images; boxes go in and come out in its pixels.
    """

    def __init__(self, net: RetinaNet, maps: MethodMaps, image_size: int) -> None:
        self.net, self.side, self.image_size = net, maps.side, image_size
        self.scale = maps.side / image_size
        with torch.no_grad():
            example = [torch.zeros(1, *shape, device=net.device) for shape in maps.shapes]
            features = self._levels(example)
            self.anchors: list[Boxes] = net.anchor_generator(features)

    def match(self, image: ImageBoxes) -> AnchorTargets:
        """Which anchors are to find which true box of one image (N = 1).

        Raises
        ------
        ValueError : a true box overlaps no part of the image.
        """
        device = self.net.device
        corners = torch.as_tensor(self._overlapping(image), device=device)
        classes = torch.as_tensor(image.categories, device=device)
        truth = Instances((self.side, self.side), gt_boxes=Boxes(corners), gt_classes=classes)
        labels, boxes = self.net.label_anchors(self.anchors, [truth])
        return AnchorTargets(torch.stack(labels), torch.stack(boxes))

    def loss(self, maps: list[Tensor], targets: AnchorTargets) -> Tensor:
        """Focal classification loss plus box regression loss of a batch.

        ``RetinaNet.losses``, which takes twice as long because it also makes box targets of the background.
        """
        net, labels = self.net, targets.labels
        logits, deltas = (torch.cat(values, dim=1) for values in self._predict(maps))
        known = labels >= 0
        image, anchor = torch.nonzero(known & (labels != net.num_classes), as_tuple=True)
        truth = functional.one_hot(labels[known], net.num_classes + 1)[:, :-1].to(logits.dtype)
        classes = sigmoid_focal_loss(
            logits[known], truth, alpha=net.focal_loss_alpha, gamma=net.focal_loss_gamma, reduction="sum"
        )
        boxes = _dense_box_regression_loss(
            [Boxes(Boxes.cat(self.anchors).tensor[anchor])],
            net.box2box_transform,
            [deltas[image, anchor][None]],
            [targets.boxes[image, anchor]],
            torch.ones(1, len(image), dtype=torch.bool, device=labels.device),
            box_reg_loss_type=net.box_reg_loss_type,
            smooth_l1_beta=net.smooth_l1_beta,
        )
        loss: Tensor = (classes + boxes) / net._ema_update("loss_normalizer", max(len(image), 1), 100)
        return loss

    @torch.no_grad()
    def detect(self, maps: list[Tensor]) -> list[ImageBoxes]:
        """Boxes found in a batch, clipped to the image, after non-maximum suppression per category.

        ``RetinaNet.inference_single_image`` for the whole batch at once.
        """
        parts = [self._candidates(*level) for level in zip(self.anchors, *self._predict(maps), strict=True)]
        boxes, scores, categories, images = (torch.cat(values) for values in zip(*parts, strict=True))
        keep = batched_nms(boxes, scores, images * self.net.num_classes + categories, self.net.test_nms_thresh)
        found = Boxes(boxes[keep])
        found.scale(1 / self.scale, 1 / self.scale)
        found.clip((self.image_size, self.image_size))
        corners = found.tensor.double().cpu().numpy()
        there = found.nonempty().cpu().numpy()
        corners, whose = (
            np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
            images[keep].cpu().numpy(),
        )
        names, values = categories[keep].cpu().numpy(), scores[keep].double().cpu().numpy()
        result = []
        for image in range(len(maps[0])):
            own = np.flatnonzero(whose == image)[: self.net.max_detections_per_image]
            own = own[there[own]]
            result.append(ImageBoxes(corners[own], names[own], values[own]))
        return result

    def _candidates(self, anchors: Boxes, logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best predictions of one level in each image: boxes [n, 4], scores, categories and image numbers [n]."""
        net = self.net
        scores = logits.sigmoid().flatten(1)
        scores, place = scores.topk(min(net.test_topk_candidates, scores.shape[1]), dim=1)
        image, rank = torch.nonzero(scores > net.test_score_thresh, as_tuple=True)
        place, scores = place[image, rank], scores[image, rank]
        anchor = place // net.num_classes
        boxes = net.box2box_transform.apply_deltas(deltas[image, anchor], anchors.tensor[anchor])
        return boxes, scores, place % net.num_classes, image

    def _overlapping(self, image: ImageBoxes) -> np.ndarray:
        """True corners on the encoder's image, float32 [n, 4]."""
        corners = (image.corners * self.scale).astype(np.float32)
        # The matcher takes for each box every anchor that overlaps it best: without any overlap, all anchors without a box.
        area = np.clip(corners[:, 2:], 0, self.side) - np.clip(corners[:, :2], 0, self.side)
        if not (area > 0).all():
            raise ValueError(f"a true box overlaps no part of the image: corners {corners[~(area > 0).all(axis=1)][0]}")
        return corners

    def _levels(self, maps: list[Tensor]) -> list[Tensor]:
        levels = self.net.backbone(maps)
        return [levels[name] for name in self.net.head_in_features]

    def _predict(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits [B, R, K] and box deltas [B, R, 4] of each level."""
        found: tuple[list[Tensor], list[Tensor]] = self.net._transpose_dense_predictions(
            self.net.head(self._levels(maps)), [self.net.num_classes, 4]
        )
        return found
