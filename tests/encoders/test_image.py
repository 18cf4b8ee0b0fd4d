"""Shapes and features of the image encoders; strict loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mlip.encoders.image import ImageEncoder
from mlip.errors import UserError
from mlip.study import ImageEncoderConfig

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


def test_a_stemmed_token_sees_a_field_of_fifteen_pixels() -> None:
    args = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "stem_channels": [4, 8, 16]}
    encoder = ImageEncoder(ImageEncoderConfig(name="vit", args=args), "vit", 48).eval()
    assert encoder.patches == 36 and encoder.stride == 8
    assert encoder(torch.rand(2, 3, 48, 48)).grid.shape == (2, 6, 6, 32)
    images = torch.rand(1, 3, 48, 48, requires_grad=True)
    encoder.model.patch_embed(images)[0, 2 * 6 + 3].sum().backward()  # row 2, column 3
    assert images.grad is not None
    seen = images.grad.abs().sum(dim=(0, 1)) > 0
    rows, columns = seen.any(dim=1).nonzero().squeeze(1), seen.any(dim=0).nonzero().squeeze(1)
    assert (rows[0] >= 2 * 8 - 7, rows[-1] < 3 * 8) == (True, True) and len(rows) == 15
    assert (columns[0] >= 3 * 8 - 7, columns[-1] < 4 * 8) == (True, True) and len(columns) == 15


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


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resnet5000"):
        ImageEncoder(ImageEncoderConfig(name="resnet5000"), "cnn", 48)
    with pytest.raises(UserError, match="is not a cnn"):
        ImageEncoder(VIT, "cnn", 48)
    stem = VIT.model_copy(update={"args": {**VIT.args, "stem_channels": [4, 8]}})
    with pytest.raises(UserError, match="patch_size is 12"):
        ImageEncoder(stem, "vit", 48)
    with pytest.raises(UserError, match=r"none\.safetensors"):
        ImageEncoder(CNN.model_copy(update={"pretrained": str(tmp_path / "none.safetensors")}), "cnn", 48)


def test_pretrained_weights_load_strictly_but_for_the_classifier(tmp_path: Path) -> None:
    state = {k: v.contiguous() for k, v in ImageEncoder(CNN, "cnn", 48).model.state_dict().items()}
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_file({**state, "fc.weight": torch.ones(2, 2)}, good)
    save_file({k: v for k, v in state.items() if "layer4" not in k}, bad)
    loaded = ImageEncoder(CNN.model_copy(update={"pretrained": str(good)}), "cnn", 48)
    assert torch.equal(loaded.model.state_dict()["conv1.weight"], state["conv1.weight"])
    with pytest.raises(UserError, match="does not fit"):
        ImageEncoder(CNN.model_copy(update={"pretrained": str(bad)}), "cnn", 48)
