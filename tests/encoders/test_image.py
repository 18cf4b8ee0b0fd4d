"""Shapes and features of the image encoders, against the same features computed by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.utils import AttentionExtract
from torch import Tensor
from torch.nn import functional

from mlip.encoders.image import ImageEncoder
from mlip.errors import UserError
from mlip.study import ImageEncoderConfig, StemConfig

CNN = ImageEncoderConfig(name="resnet", args={"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]})
VIT = ImageEncoderConfig(name="vit", args={"patch_size": 12, "embed_dim": 32, "depth": 2, "num_heads": 2})


def test_cnn_shapes() -> None:
    encoder = ImageEncoder(CNN, "cnn", 96).eval()
    images = torch.rand(2, 3, 96, 96)
    out = encoder(images)
    assert out.pooled.shape == (2, encoder.dim) == (2, 32)
    assert out.grid.shape == (2, 6, 6, encoder.grid_dim) and encoder.grid_dim == 24 and encoder.patches == 36
    assert [m.shape[1:] for m in encoder.stages(images)] == [(8, 24, 24), (16, 12, 12), (24, 6, 6), (32, 3, 3)]
    assert torch.allclose(out.pooled, encoder.model(images), atol=1e-6)


def test_vit_shapes_and_attention() -> None:
    encoder = ImageEncoder(VIT, "vit", 48).eval()
    images = torch.rand(2, 3, 48, 48)
    out = encoder(images, need_attention=True)
    assert out.grid.shape == (2, 4, 4, 32) and out.attention is not None
    assert out.attention.shape == (2, 2, 17, 17)
    assert torch.allclose(out.attention.sum(-1), torch.ones(2, 2, 17), atol=1e-5)
    assert torch.allclose(out.pooled, encoder(images).pooled)


def test_vit_attention_is_the_models_own() -> None:
    """The tapped matrix applied to the values gives what the fused attention gave."""
    encoder = ImageEncoder(VIT, "vit", 48).eval()
    block = encoder.model.blocks[-1].attn
    seen = {}
    block.register_forward_hook(lambda m, a, o: seen.update(x=a[0], out=o))
    attention = encoder(torch.rand(2, 3, 48, 48), need_attention=True).attention
    x = seen["x"]
    b, n, c = x.shape
    v = block.qkv(x).reshape(b, n, 3, block.num_heads, -1).permute(2, 0, 3, 1, 4)[2]
    expected = block.proj((attention @ v).transpose(1, 2).reshape(b, n, c))
    assert torch.allclose(expected, seen["out"], atol=1e-5)


def test_attention_is_the_softmax_of_scaled_products_and_timms_own() -> None:
    encoder = ImageEncoder(VIT, "vit", 48).train()
    images = torch.rand(2, 3, 48, 48)
    attention = encoder(images, need_attention=True).attention
    assert encoder.training and attention is not None and attention.requires_grad
    model, seen = encoder.model, {}
    handle = model.blocks[-1].attn.register_forward_pre_hook(lambda m, a: seen.update(x=a[0]))
    encoder(images)
    handle.remove()
    x, heads = seen["x"], 2
    query, key, _ = (x @ model.blocks[-1].attn.qkv.weight.T + model.blocks[-1].attn.qkv.bias).chunk(3, dim=2)
    query, key = (t.unflatten(2, (heads, 16)).transpose(1, 2) for t in (query, key))
    expected = torch.softmax(query @ key.transpose(2, 3) / 16**0.5, dim=-1)
    assert torch.allclose(attention, expected, atol=1e-6)
    # timm reads it where attention is not fused, which the encoder's own passes are.
    plain = copy.deepcopy(model)
    plain.blocks[-1].attn.fused_attn = False
    (theirs,) = AttentionExtract(plain, ["blocks.1.attn.attn_drop"], method="hook")(images).values()
    assert torch.allclose(attention, theirs, atol=1e-6)


LITE0 = "tf_efficientnet_lite0"


def stemmed(stages: int = 3, scale: int = 1, pretrained: str | None = None, patch: int = 8) -> ImageEncoderConfig:
    args = {"patch_size": patch, "embed_dim": 32, "depth": 1, "num_heads": 2}
    return ImageEncoderConfig(
        name="vit", args=args, stem=StemConfig(name=LITE0, stages=stages, scale=scale, pretrained=pretrained)
    )


@pytest.mark.parametrize(("stages", "scale", "patch"), [(3, 1, 8), (5, 1, 16), (5, 2, 8)])
def test_a_stem_embeds_the_patches(stages: int, scale: int, patch: int) -> None:
    encoder = ImageEncoder(stemmed(stages, scale, patch=patch), "vit", 64).eval()
    assert encoder.stride == patch and encoder.patches == (64 // patch) ** 2
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    assert encoder(images).grid.shape == (2, 64 // patch, 64 // patch, 32)
    cell = encoder.model.patch_embed(images)[0, 1]  # first row, second column
    (seen,) = torch.autograd.grad(cell.abs().sum(), images)
    total = seen.abs().sum(dim=(0, 1))
    assert total[:patch, patch : 2 * patch].mean() > total[-patch:, :patch].mean()  # in the order of the image


def test_a_stem_starts_from_imagenet_and_the_rest_does_not() -> None:
    torch.manual_seed(0)
    config = stemmed(pretrained="packaged:efficientnet-lite0")
    config.args["weight_init"] = "jax"  # which initialises every convolution it finds
    stem = ImageEncoder(config, "vit", 64).model.patch_embed.backbone
    cnn = ImageEncoder(ImageEncoderConfig(name=LITE0, pretrained="packaged:efficientnet-lite0"), "cnn", 64).model
    assert torch.equal(stem.conv_stem.weight, cnn.conv_stem.weight)
    assert torch.equal(stem.blocks[2][1].conv_dw.weight, cnn.blocks[2][1].conv_dw.weight)
    fresh = ImageEncoder(config.without_weights(), "vit", 64).model.patch_embed.backbone
    assert not torch.equal(fresh.conv_stem.weight, cnn.conv_stem.weight)


def test_a_vit_on_a_stem_of_stride_16_is_a_pyramid_and_runs_its_stem_once() -> None:
    encoder = ImageEncoder(stemmed(stages=5, patch=16), "vit", 64).eval()
    assert encoder.has_stages and not ImageEncoder(stemmed(stages=3), "vit", 64).has_stages
    images = torch.rand(2, 3, 64, 64)
    stem, calls = encoder.model.patch_embed.backbone, []
    handle = stem.conv_stem.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        maps = encoder.stages(images)
        handle.remove()
        x = stem.bn1(stem.conv_stem(images))
        by_hand = [x := block(x) for block in stem.blocks]
        assert len(calls) == 1 and [m.shape[-1] for m in maps] == [16, 8, 4, 2]
        torch.testing.assert_close(maps[0], by_hand[1])
        torch.testing.assert_close(maps[1], by_hand[2])
        torch.testing.assert_close(maps[2].permute(0, 2, 3, 1), encoder(images).grid)
    torch.testing.assert_close(maps[3], maps[2].unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean(dim=(3, 5)))
    assert not any(block._forward_hooks for block in stem.blocks)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (stemmed(stages=4), "4 stages .* stride 16, patch_size 8"),
        (stemmed(stages=3, scale=2), "stride 8, patch_size 8 on images enlarged 2 times needs 16"),
        (stemmed(pretrained="packaged:nothing"), "no packaged weights 'nothing'"),
        (stemmed().model_copy(update={"pooled": "last_stage"}), r"encoders\.vit\.pooled.*no stages to pool"),
        (ImageEncoderConfig(name="vit", stem=StemConfig(name="resnet18", stages=3)), "no EfficientNet"),
        (ImageEncoderConfig(name="vit", stem=StemConfig(name="resnet5000", stages=3)), "no model 'resnet5000'"),
        (ImageEncoderConfig(name="vit_tiny_patch16_224", stem=StemConfig(name=LITE0, stages=3)), "does not fit"),
    ],
)
def test_stems_that_do_not_fit(config: ImageEncoderConfig, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        ImageEncoder(config, "vit", 64)


def test_input_size_is_applied_inside() -> None:
    config = CNN.model_copy(update={"input_size": 64})
    encoder = ImageEncoder(config, "cnn", 48)
    assert encoder(torch.rand(1, 3, 48, 48)).grid.shape[1:3] == (4, 4)


@pytest.mark.parametrize(("name", "kind"), [("resnet18", "cnn"), ("vit_tiny_patch16_224", "vit")])
def test_timm_names(name: str, kind: str) -> None:
    size = 64
    encoder = ImageEncoder(ImageEncoderConfig(name=name), kind, size).eval()  # type: ignore[arg-type]
    out = encoder(torch.rand(1, 3, size, size))
    assert out.grid.shape[1:3] == (4, 4) and out.pooled.shape == (1, encoder.dim)


def _stages_by_hand(model, x: Tensor) -> list[Tensor]:
    maps = [model.maxpool(model.act1(model.bn1(model.conv1(x))))]
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        maps.append(layer(maps[-1]))
    return maps[1:]


@pytest.mark.parametrize("config", [CNN, ImageEncoderConfig(name="resnet50")], ids=lambda c: c.name)
def test_resnets_give_the_very_numbers_of_their_layers(config: ImageEncoderConfig) -> None:
    """Layer by layer, bit by bit: numbers of finished studies rest on it."""
    encoder = ImageEncoder(config, "cnn", 64).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        out, stages = encoder(images), encoder.stages(images)
        by_hand = _stages_by_hand(encoder.model, images)
        last = _stages_by_hand(encoder.model, images.contiguous(memory_format=torch.channels_last))
        pooled = functional.adaptive_avg_pool2d(last[3], 1).flatten(1)
    assert all(torch.equal(a, b) for a, b in zip(stages, by_hand, strict=True))
    assert torch.equal(out.grid, last[2].permute(0, 2, 3, 1)) and torch.equal(out.pooled, pooled)


@pytest.mark.parametrize("config", [VIT, ImageEncoderConfig(name="vit_base_patch16_224")], ids=lambda c: c.name)
def test_vits_give_the_very_numbers_of_their_blocks(config: ImageEncoderConfig) -> None:
    encoder = ImageEncoder(config, "vit", 48).eval()
    model, images = encoder.model, torch.rand(2, 3, 48, 48).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        out = encoder(images)
        patches = model.patch_embed.proj(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([model.cls_token.expand(2, -1, -1), patches], dim=1) + model.pos_embed
        for block in model.blocks:
            tokens = tokens + block.attn(block.norm1(tokens))
            tokens = tokens + block.mlp(block.norm2(tokens))
        tokens = model.norm(tokens)
    side = encoder.grid_size
    assert torch.equal(out.pooled, tokens[:, 0]) and torch.equal(out.grid, tokens[:, 1:].unflatten(1, (side, side)))


def test_building_draws_what_initialisation_draws_and_nothing_else() -> None:
    """The encoder looks at its shapes without computing: heads built after it start from the same numbers."""
    torch.manual_seed(3)
    encoder = ImageEncoder(CNN, "cnn", 64)
    after = torch.rand(1)
    torch.manual_seed(3)
    from timm.models.resnet import BasicBlock, ResNet

    model = ResNet(BasicBlock, num_classes=0, zero_init_last=False, **CNN.args)  # type: ignore[arg-type]
    assert torch.equal(torch.rand(1), after) and encoder.training
    state = encoder.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


FAMILIES = {
    "densenet121": (1024, 1024, (256, 512, 1024, 1024)),
    "tf_efficientnet_lite0": (1280, 112, (24, 40, 112, 320)),
    "convnext_atto": (320, 160, (40, 80, 160, 320)),
    "regnetx_002": (368, 152, (24, 56, 152, 368)),
    "swin_tiny_patch4_window7_224": (768, 384, (96, 192, 384, 768)),
    "resnet50_clip": (2048, 1024, (256, 512, 1024, 2048)),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_cnns(name: str) -> None:
    dim, grid_dim, channels = FAMILIES[name]
    encoder = ImageEncoder(ImageEncoderConfig(name=name), "cnn", 64).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        out, stages, classifier_input = encoder(images), encoder.stages(images), encoder.model(images)
    assert out.pooled.shape == (2, dim) and encoder.dim == dim
    assert out.grid.shape == (2, 4, 4, grid_dim) and (encoder.grid_dim, encoder.grid_size) == (grid_dim, 4)
    assert [tuple(m.shape[1:]) for m in stages] == [
        (c, 64 // s, 64 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)
    ]
    assert torch.allclose(out.pooled, classifier_input, atol=1e-5), "what timm gives its classifier"
    assert torch.allclose(out.grid, stages[2].permute(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_pooled_may_be_the_mean_of_the_last_stage(name: str) -> None:
    _, grid_dim, channels = FAMILIES[name]
    config = ImageEncoderConfig(name=name, pooled="last_stage")
    encoder = ImageEncoder(config, "cnn", 64).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        out, stages = encoder(images), encoder.stages(images)
    assert out.pooled.shape == (2, channels[3]) and encoder.dim == channels[3] and encoder.grid_dim == grid_dim
    assert torch.allclose(out.pooled, stages[3].mean(dim=(2, 3)), atol=1e-5)
    assert torch.allclose(out.grid, stages[2].permute(0, 2, 3, 1), atol=1e-5)
    encoder.train()(images).pooled.square().sum().backward()
    without = [name for name, weight in encoder.named_parameters() if weight.grad is None]
    assert not without, "nothing is left in it that the pooled feature does not use"


def test_a_resnets_last_stage_is_what_its_classifier_gets() -> None:
    torch.manual_seed(4)
    whole = ImageEncoder(CNN, "cnn", 64).eval()
    cut = ImageEncoder(CNN.model_copy(update={"pooled": "last_stage"}), "cnn", 64).eval()
    cut.load_state_dict(whole.state_dict())
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(cut(images).pooled, whole(images).pooled, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_lie_the_right_way_round(name: str) -> None:
    """Gray below and noise above: only maps whose rows are the image's rows tell them apart by row."""
    torch.manual_seed(0)
    encoder = ImageEncoder(ImageEncoderConfig(name=name), "cnn", 128).eval()
    images = torch.zeros(1, 3, 128, 128)
    noise = torch.randn(1, 3, 40, 128)
    with torch.no_grad():
        plain = encoder.stages(images)[0]
        images[:, :, :40] = noise
        moved = (encoder.stages(images)[0] - plain).abs().mean(dim=(0, 1))  # [32, 32] cells of 4 pixels
    assert moved[:10].mean() > 3 * moved[20:].mean(), "rows above moved, rows below did not"
    assert moved[:, :16].mean() < 2 * moved[:, 16:].mean() < 4 * moved[:, :16].mean(), "left and right alike"


def test_swin_sees_images_at_its_own_size() -> None:
    config = ImageEncoderConfig(name="swin_tiny_patch4_window7_224", input_size=96)
    encoder = ImageEncoder(config, "cnn", 64)
    assert encoder.map_side(64) == 96 and [m.shape[2] for m in encoder.stages(torch.rand(1, 3, 64, 64))] == [
        24,
        12,
        6,
        3,
    ]
    plain = ImageEncoder(CNN.model_copy(update={"input_size": 96}), "cnn", 64)
    assert plain.map_side(64) == 64 and plain.stages(torch.rand(1, 3, 64, 64))[0].shape[2] == 16


def test_deit_with_two_prefix_tokens() -> None:
    encoder = ImageEncoder(ImageEncoderConfig(name="deit_tiny_distilled_patch16_224"), "vit", 64).eval()
    out = encoder(torch.rand(1, 3, 64, 64), need_attention=True)
    assert out.grid.shape == (1, 4, 4, 192) and out.attention is not None and out.attention.shape == (1, 3, 18, 18)


def test_stages_say_what_they_demand() -> None:
    dilated = ImageEncoderConfig(name="resnet18", args={"output_stride": 16})
    encoder = ImageEncoder(dilated, "cnn", 64)
    with pytest.raises(UserError, match=r"no stage of stride 32; detection and segmentation need 4, 8, 16 and 32"):
        encoder.stages(torch.rand(1, 3, 64, 64))
    with pytest.raises(UserError, match="this vit has no stages"):
        ImageEncoder(VIT, "vit", 48).stages(torch.rand(1, 3, 48, 48))


@pytest.mark.parametrize(
    ("name", "kind", "args", "size", "problem"),
    [
        ("resnet5000", "cnn", {}, 64, r"no model 'resnet5000'.*did you mean"),
        ("resnet18.nobody", "cnn", {}, 64, "resnet18.nobody"),
        ("vit_tiny_patch16_224", "cnn", {}, 64, "is not a cnn.*encoders.vit"),
        ("resnet18", "vit", {}, 64, "is not a vit.*ResNet"),
        ("swin_tiny_patch4_window7_224", "vit", {}, 64, "is not a vit.*encoders.cnn"),
        ("mixer_s16_224", "cnn", {}, 224, "no stages of growing stride"),
        ("resnet18", "cnn", {"output_stride": 8}, 64, "no stage of stride 16"),
        ("resnet18", "cnn", {"no_such": 1}, 64, "cannot build 'resnet18'.*no_such"),
        ("resnet", "cnn", {"layers": [1, 1]}, 64, "'resnet' has no stage of stride 16"),
        ("vit", "vit", {"embed_dim": 30, "num_heads": 4, "depth": 1}, 64, "encoders.vit.*divisible"),
        ("vit_tiny_patch16_224", "vit", {}, 56, "56 pixels are no multiple of the patch size 16"),
        ("vit", "vit", {"patch_size": 8, "img_size": 32, "embed_dim": 16, "num_heads": 2, "depth": 1}, 64, "img_size"),
        ("vit", "vit", {"class_token": False, "global_pool": "avg", "embed_dim": 16, "num_heads": 2}, 64, "class token"),
    ],
)  # fmt: skip
def test_refusals(name: str, kind: str, args: dict, size: int, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as refused:
        ImageEncoder(ImageEncoderConfig(name=name, args=args), kind, size)  # type: ignore[arg-type]
    assert f"encoders.{kind}" in str(refused.value) and refused.value.fix and "\n" not in str(refused.value)
