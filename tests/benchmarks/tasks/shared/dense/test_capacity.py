"""CNN and ViT rows of the default study, and plain grids, get heads of about one size that end at one resolution."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.tasks.catalogue import read_protocol
from benchmarks.tasks.detection.model import Detector, build_retinanet
from benchmarks.tasks.segmentation.model import Segmenter
from benchmarks.tasks.shared.dense.features import MethodMaps
from mlip.contract import Method
from mlip.encoders.image import ImageEncoder
from mlip.study import load_study
from tests.benchmarks.tasks import dense_world as world

ROWS, GRID = 0.25, 0.4  # how much larger a head may be: within the default study, and beside a plain grid's


class PlainGrid:
    """The shapes of a plain ViT's maps: 8x8 cells of width 128 on 64 pixels."""

    kind, side, channels, strides, shapes = "grid", 64, [128], [8], [(128, 8, 8)]


def maps_of(kind: str, levels: int) -> MethodMaps:
    """Of the default study's encoder, without its weights, which no shape depends on."""
    encoders = load_study(Path("config/twin.yaml")).encoders
    config = getattr(encoders, kind).model_copy(update={"pretrained": None})
    if config.stem is not None:
        config = config.model_copy(update={"stem": config.stem.model_copy(update={"pretrained": None})})
    encoder = ImageEncoder(config, kind, world.SIZE)  # type: ignore[arg-type]
    method: Method = world.method(encoder)
    return MethodMaps(method, world.SIZE, "here", levels)


def weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_heads_are_of_one_size_and_resolution(task: str) -> None:
    protocol = read_protocol(task, "strict")
    sizes, cells = {}, set()
    for kind in ("cnn", "vit", "grid"):
        maps = PlainGrid() if kind == "grid" else maps_of(kind, getattr(protocol, "levels", 4))
        example = [torch.zeros(1, *shape) for shape in maps.shapes]
        if task == "detection":
            net = build_retinanet(maps, protocol, 1)  # type: ignore[arg-type]
            sizes[kind] = weights(net)
            cells.add(tuple(level.shape[-1] for level in Detector(net, maps, world.SIZE)._levels(example)))  # type: ignore[arg-type]
        else:
            model = Segmenter(maps, protocol, world.SIZE).eval()  # type: ignore[arg-type]
            sizes[kind] = weights(model)
            cells.add(model.decoder(example).shape[-1])
    assert max(sizes.values()) < (1 + GRID) * min(sizes.values()), sizes
    del sizes["grid"]
    assert max(sizes.values()) < (1 + ROWS) * min(sizes.values()), sizes
    assert len(cells) == 1, cells
