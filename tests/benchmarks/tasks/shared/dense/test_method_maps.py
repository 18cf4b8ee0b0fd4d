"""Detection and segmentation read the method's own feature maps, and refuse a method that has none to give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from benchmarks.tasks.catalogue import read_protocol
from benchmarks.tasks.shared.dense.features import MethodMaps
from mlip.contract import ImageFeatures, Method
from mlip.encoders.dependence import uses_image_encoder
from mlip.encoders.image import ImageEncoder
from mlip.errors import UserError
from mlip.seeding import seed_everything
from mlip.study import ImageEncoderConfig
from tests.benchmarks.tasks import dense_world as world
from tests.methods import build

torch.set_num_threads(1)
CNNS = ("densenet121", "tf_efficientnet_lite0", "convnext_atto", "regnetx_002", "swin_tiny_patch4_window7_224", "resnet50_clip")  # fmt: skip


def method(kind: str = "cnn", cls: type[Method] | None = None) -> Method:
    """The random control; as ``cls``, with a network of its own of two convolutions of stride 4."""
    made = world.method(world.encoder(world.study(Path("unused")), kind)).eval()
    if cls is not None:
        made.__class__ = cls
        made.own = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, made.image_encoder.dim, 4, 4))
    return made


class OwnNetwork(type(method())):  # type: ignore[misc]
    """Its image features never pass through the study's image encoder."""

    own: nn.Sequential

    def encode_image(self, images: Tensor) -> ImageFeatures:
        grid = self.own(images).permute(0, 2, 3, 1)
        pooled = grid.mean(dim=(1, 2))
        return ImageFeatures(pooled, grid, nn.functional.normalize(self.head_v(pooled), dim=-1))


class OwnGrid(OwnNetwork):
    def feature_maps(self, images: Tensor) -> list[Tensor]:
        return [self.own(images)]


class OwnPyramid(OwnNetwork):
    def feature_maps(self, images: Tensor) -> list[Tensor]:
        return [nn.functional.avg_pool2d(images, s).repeat(1, s, 1, 1) for s in (4, 8, 16, 32)]


def test_default_maps_are_the_encoders() -> None:
    images = torch.rand(2, 3, world.SIZE, world.SIZE)
    cnn, vit = method("cnn"), method("vit")
    with torch.no_grad():
        for a, b in zip(cnn.feature_maps(images), cnn.image_encoder.stages(images), strict=True):
            assert torch.equal(a, b)
        (grid,) = vit.feature_maps(images)
        assert torch.equal(grid, vit.image_encoder(images).grid.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("name", "encoder"),
    [("random", "cnn"), ("random", "vit"), ("convirt", "cnn"), ("gloria", "cnn"), ("mgca", "cnn"), ("mgca", "vit")],
)
def test_baselines_encode_through_their_image_encoder(name: str, encoder: str) -> None:
    made = build(name, encoder).eval()
    before = {k: v.clone() for k, v in made.state_dict().items()}
    torch.manual_seed(0)
    assert uses_image_encoder(made, torch.rand(2, 3, 48, 48))
    after = torch.rand(1)
    torch.manual_seed(0)
    torch.rand(2, 3, 48, 48)
    assert torch.equal(torch.rand(1), after), "the global generator is left alone"
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items()), "every weight is put back"


def test_dependence_is_seen_where_a_method_encodes_without_gradient() -> None:
    class Frozen(type(method())):  # type: ignore[misc]
        @torch.inference_mode()
        def encode_image(self, images: Tensor) -> ImageFeatures:
            return super().encode_image(images)

    images = torch.rand(1, 3, world.SIZE, world.SIZE)
    made = method()
    made.__class__ = Frozen
    assert uses_image_encoder(made, images)
    assert not uses_image_encoder(method(cls=OwnNetwork), images)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_method_with_its_own_network_is_not_scored_as_the_random_encoder(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import import_module

    config = world.study(tmp_path)
    world.plant(config)
    world.give_method(monkeypatch, method(cls=OwnNetwork))
    module = import_module(f"benchmarks.tasks.{task}")
    with pytest.raises(
        UserError, match=r"baselines/random: .*do not come from its image_encoder.*override feature_maps"
    ):
        module.TASK.run(world.job(module.TASK, config, iterations=1))


def test_own_maps_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = MethodMaps(method(cls=OwnGrid), world.SIZE, "here")
    assert (grid.kind, grid.strides, grid.channels) == ("grid", [16], [64])
    pyramid = MethodMaps(method(cls=OwnPyramid), world.SIZE, "here", levels=3)
    assert (pyramid.kind, pyramid.strides, pyramid.channels) == ("pyramid", [8, 16, 32], [24, 48, 96])
    images = torch.rand(1, 3, world.SIZE, world.SIZE)
    assert torch.equal(pyramid(images)[0], OwnPyramid.feature_maps(pyramid.method, images)[1])


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("cls", [OwnGrid, OwnPyramid])
def test_own_maps_decide_the_scores(task: str, cls: type[Method], tmp_path: Path, monkeypatch) -> None:
    """Another network of the method's own, another result; another image encoder, the same."""
    from importlib import import_module

    module, tables = import_module(f"benchmarks.tasks.{task}"), []
    budget: dict[str, Any] = {"iterations": 3, "batch_size": 4}
    if task == "detection":
        budget |= {"channels": 32, "levels": 3, "anchor_sizes": [0.15, 0.3, 0.6], "score_threshold": 0.0}
    config = world.study(tmp_path)
    world.plant(config, count=8)
    for change in (None, "image_encoder", "own"):
        seed_everything("own-maps")
        made = method(cls=cls)
        if change:
            with torch.no_grad():
                for weight in getattr(made, change).parameters():
                    weight.add_(0.5)
        world.give_method(monkeypatch, made)
        tables.append(module.TASK.run(world.job(module.TASK, config, **budget)))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    if cls is OwnGrid:
        with pytest.raises(AssertionError):
            pd.testing.assert_frame_equal(tables[0], tables[2])


@pytest.mark.parametrize("sizes", [[(16, 16)] * 2, [(5, 5)], [(16, 8)], [(16, 16), (8, 8), (4, 4), (4, 4)], []])
def test_maps_of_other_shapes_are_refused(sizes: list[tuple[int, int]]) -> None:
    class Odd(OwnNetwork):
        def feature_maps(self, images: Tensor) -> list[Tensor]:
            return [images.new_zeros(len(images), 4, *size) for size in sizes]

    with pytest.raises(UserError, match=r"there: feature maps of .* are neither strides 4, 8, 16, 32 nor one grid"):
        MethodMaps(method(cls=Odd), world.SIZE, "there")


@pytest.mark.parametrize("name", CNNS)
def test_heads_build_on_every_family(name: str) -> None:
    from benchmarks.tasks.detection.model import Detector, build_retinanet
    from benchmarks.tasks.segmentation.model import Segmenter

    encoder = ImageEncoder(ImageEncoderConfig(name=name), "cnn", world.SIZE)
    made = world.method(encoder)
    images = torch.rand(2, 3, world.SIZE, world.SIZE)
    protocol = read_protocol("detection", "strict").model_copy(update={"channels": 16, "head_convs": 1})
    maps = MethodMaps(made, world.SIZE, "here", protocol.levels)
    assert maps.strides == [4, 8, 16, 32][-protocol.levels :]
    found = Detector(build_retinanet(maps, protocol, 1).eval(), maps, world.SIZE).detect(maps(images))
    assert len(found) == 2
    whole = MethodMaps(made, world.SIZE, "here")
    segmenter = Segmenter(whole, read_protocol("segmentation", "strict"), world.SIZE)
    assert segmenter(whole(images)).shape == (2, 1, world.SIZE, world.SIZE)


def test_sizes_that_do_not_fit_the_stages_are_refused() -> None:
    encoder = ImageEncoder(ImageEncoderConfig(name="resnet", args=world.ENCODERS["cnn"]["args"]), "cnn", 72)  # type: ignore[index]
    with pytest.raises(UserError, match="72 pixels are no multiple of 32"):
        MethodMaps(world.method(encoder), 72, "here")
    dilated = ImageEncoder(ImageEncoderConfig(name="resnet18", args={"output_stride": 16}), "cnn", 64)
    with pytest.raises(UserError, match="no stage of stride 32"):
        MethodMaps(world.method(dilated), 64, "here")
