"""The detector: Detectron2's RetinaNet on the frozen encoder's pyramid, trained and run on cached maps.

RetinaNet rather than Faster R-CNN: one stage, so that neither proposals nor sampled regions cost time on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.tasks.detection.backbone import build_pyramid, image_tensor, normalisation
from benchmarks.tasks.detection.boxes import ImageBoxes
from benchmarks.tasks.detection.protocol import DetectionProtocol
from benchmarks.tasks.shared.dense.features import MethodMaps
from mlip.detectron2_compat import prepare

prepare()

from detectron2.modeling.anchor_generator import DefaultAnchorGenerator  # noqa: E402
from detectron2.modeling.box_regression import Box2BoxTransform  # noqa: E402
from detectron2.modeling.matcher import Matcher  # noqa: E402
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead  # noqa: E402
from detectron2.modeling.postprocessing import detector_postprocess  # noqa: E402
from detectron2.structures import Boxes, ImageList, Instances  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402


def build_retinanet(maps: MethodMaps, protocol: DetectionProtocol, categories: int) -> RetinaNet:
    """A freshly initialised RetinaNet; only pyramid and head have gradients."""
    pyramid = build_pyramid(maps, protocol.channels, protocol.levels, protocol.norm)
    shapes = list(pyramid.output_shape().values())
    sizes = [[size * octave * maps.side for octave in protocol.anchor_octaves] for size in protocol.anchor_sizes]
    head = RetinaNetHead(
        input_shape=shapes,
        num_classes=categories,
        num_anchors=len(protocol.anchor_octaves) * len(protocol.anchor_ratios),
        conv_dims=[protocol.channels] * protocol.head_convs,
        norm=normalisation(protocol.norm),
    )
    return RetinaNet(
        backbone=pyramid,
        head=head,
        head_in_features=list(pyramid.output_shape()),
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


class Detector:
    """A RetinaNet fed with cached maps.

    Parameters
    ----------
    net : from :func:`build_retinanet`.
    maps : the frozen method's maps inside it.
    image_size : side of the stored images; boxes go in and come out in its pixels.
    """

    def __init__(self, net: RetinaNet, maps: MethodMaps, image_size: int) -> None:
        self.net, self.side, self.image_size = net, maps.side, image_size
        self.scale = maps.side / image_size

    def loss(self, maps: list[Tensor], truth: Sequence[ImageBoxes]) -> Tensor:
        """Focal classification loss plus box regression loss of a batch.

        Raises
        ------
        ValueError : a true box overlaps no part of the image.
        """
        device = self.net.device
        targets = []
        for image in truth:
            corners = torch.as_tensor(self._overlapping(image), device=device)
            classes = torch.as_tensor(image.categories, device=device)
            targets.append(Instances((self.side, self.side), gt_boxes=Boxes(corners), gt_classes=classes))
        features, predictions = self._predict(maps)
        with EventStorage():  # RetinaNet logs into the innermost one
            losses = self.net.forward_training(self._images(len(truth)), features, predictions, targets)
        return torch.stack(list(losses.values())).sum()

    @torch.no_grad()
    def detect(self, maps: list[Tensor]) -> list[ImageBoxes]:
        """Boxes found in a batch, clipped to the image, after non-maximum suppression per category."""
        features, predictions = self._predict(maps)
        results = self.net.forward_inference(self._images(len(maps[0])), features, predictions)
        found = []
        for result in results:
            result = detector_postprocess(result, self.image_size, self.image_size)
            corners = result.pred_boxes.tensor.double().cpu().numpy()
            boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
            scores = result.scores.double().cpu().numpy()
            found.append(ImageBoxes(boxes, result.pred_classes.cpu().numpy(), scores))
        return found

    def _overlapping(self, image: ImageBoxes) -> np.ndarray:
        """True corners on the encoder's image, float32 [n, 4]."""
        corners = (image.corners * self.scale).astype(np.float32)
        # The matcher takes for each box every anchor that overlaps it best: without any overlap, all anchors without a box.
        area = np.clip(corners[:, 2:], 0, self.side) - np.clip(corners[:, :2], 0, self.side)
        if not (area > 0).all():
            raise ValueError(f"a true box overlaps no part of the image: corners {corners[~(area > 0).all(axis=1)][0]}")
        return corners

    def _predict(self, maps: list[Tensor]) -> tuple[list[Tensor], list[list[Tensor]]]:
        levels = self.net.backbone(maps)
        features = [levels[name] for name in self.net.head_in_features]
        return features, self.net.head(features)

    def _images(self, count: int) -> ImageList:
        return ImageList(image_tensor(self.side, count, self.net.device), [(self.side, self.side)] * count)
