"""Checkpoints in the layout of the official codes, made here of random weights, give our methods what those codes compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18
from transformers import BertConfig, BertModel

from mlip.contract import Method, MethodContext
from mlip.encoders.image import ImageEncoder
from mlip.encoders.text import TextEncoder
from mlip.errors import UserError
from mlip.manifest import read_manifest
from mlip.methods import method_class, method_folders
from mlip.run.contract.world import reports
from mlip.study import ImageEncoderConfig, TextEncoderConfig, WeightsConfig
from mlip.text.tokenisation import Tokenizer, train_tokenizer

KEY = "methods.variants.mine.weights"
TEXT = TextEncoderConfig(layers=4, dim=32, heads=2, vocabulary=300, max_tokens=32, dropout=0.0)
SENTENCES = ["Small left pleural effusion.", "No pneumothorax is seen, the heart is enlarged."]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([r.text for r in reports()], TEXT.vocabulary, TEXT.max_tokens)


def ours(name: str, tokenizer: Tokenizer, **params: Any) -> Method:
    """The method at its own parameters, on a ResNet-18 and a small BERT, as a row of a checkpoint is built."""
    folder = method_folders()[name]
    manifest = read_manifest(folder)
    torch.manual_seed(1)
    values = {key: spec.value for key, spec in manifest.parameters.items()} | params
    switches = {key: spec.default for key, spec in manifest.components.items()}
    context = MethodContext(
        ImageEncoder(ImageEncoderConfig(name="resnet18"), "cnn", 64),
        TextEncoder(TEXT, tokenizer.vocabulary), tokenizer, None, values, switches, released=manifest.released,
    )  # fmt: skip
    return method_class(folder)(context)


def bert(tokenizer: Tokenizer, pooler: bool = False) -> BertModel:
    sizes = BertConfig(
        vocab_size=tokenizer.vocabulary, hidden_size=32, num_hidden_layers=4, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=32,
    )  # fmt: skip
    return BertModel(sizes, add_pooling_layer=pooler)


def features(model: nn.Module, images: Tensor) -> Tensor:
    """Pooled features [B, 512] of a torchvision ResNet without its classifier."""
    model.fc = nn.Identity()  # type: ignore[assignment]
    return model(images)


def moved(model: nn.Module) -> nn.Module:
    """Random weights everywhere, the statistics of batch norms too."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.add_(0.05 * torch.rand(value.shape, generator=draw))
    return model.eval()


def load(method: Method, state: dict[str, Any], folder: Path) -> Method:
    torch.save({"state_dict": state, "epoch": 1}, folder / "released.ckpt")
    method.load_weights(WeightsConfig(file=folder / "released.ckpt"), KEY)
    return method.eval()


class Mgca(nn.Module):
    """The parts of the official module, in its names."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()

        def embedding(dim: int, layer: Any) -> nn.Module:
            last = nn.BatchNorm1d(128, affine=False)
            head = nn.Sequential(layer(dim, 2048), nn.BatchNorm1d(2048), nn.ReLU(), layer(2048, 128), last)
            return nn.ModuleDict({"head": head})

        def conv(a: int, b: int) -> nn.Module:
            return nn.Conv1d(a, b, kernel_size=1)

        image, text = resnet18(), bert(tokenizer)
        image.fc = nn.Identity()  # type: ignore[assignment]
        self.img_encoder_q = nn.ModuleDict(
            {"model": image, "global_embed": embedding(512, nn.Linear), "local_embed": embedding(256, conv)}
        )
        self.text_encoder_q = nn.ModuleDict(
            {"model": text, "global_embed": embedding(32, nn.Linear), "local_embed": embedding(32, conv)}
        )
        self.patch_local_atten_layer = nn.MultiheadAttention(128, 1, batch_first=True)
        self.word_local_atten_layer = nn.MultiheadAttention(128, 1, batch_first=True)
        self.prototype_layer = nn.Linear(128, 500, bias=False)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1


@torch.no_grad()
def test_mgca(tmp_path: Path, tokenizer: Tokenizer, images: Tensor) -> None:
    theirs: Any = moved(Mgca(tokenizer))
    method: Any = load(ours("mgca", tokenizer), theirs.state_dict(), tmp_path)
    pooled = features(theirs.img_encoder_q["model"], images)
    found = method.encode_image(images)
    torch.testing.assert_close(found.joint, functional.normalize(theirs.img_encoder_q["global_embed"]["head"](pooled)))
    patches = found.grid.flatten(1, 2)
    local = theirs.img_encoder_q["local_embed"]["head"](patches.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(method.head_p(patches), local)
    tokens = tokenizer(SENTENCES)
    cls = theirs.text_encoder_q["model"](tokens.input_ids, tokens.attention_mask).last_hidden_state[:, 0]
    wanted = functional.normalize(theirs.text_encoder_q["global_embed"]["head"](cls))
    torch.testing.assert_close(method.encode_text(SENTENCES).joint, wanted)
    assert torch.equal(method.prototypes.weight, theirs.prototype_layer.weight)


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["gloria.", ""])
def test_gloria(tmp_path: Path, tokenizer: Tokenizer, images: Tensor, prefix: str) -> None:
    image: Any = resnet18()
    image.fc = nn.Identity()
    parts = {
        "img_encoder": nn.ModuleDict({
            "model": image, "global_embedder": nn.Linear(512, 32), "local_embedder": nn.Conv2d(256, 32, 1, bias=False),
        }),
        "text_encoder": nn.ModuleDict({"model": bert(tokenizer, pooler=True)}),
    }  # fmt: skip
    theirs: Any = moved(nn.ModuleDict(parts))
    method: Any = load(ours("gloria", tokenizer), {f"{prefix}{n}": v for n, v in theirs.state_dict().items()}, tmp_path)
    wanted = theirs["img_encoder"]["global_embedder"](features(image, images))
    found = method.encode_image(images)
    torch.testing.assert_close(found.joint, functional.normalize(wanted))
    grid = method.image_encoder(images).grid
    local = theirs["img_encoder"]["local_embedder"](grid.permute(0, 3, 1, 2))
    torch.testing.assert_close(method.head_local(grid).permute(0, 3, 1, 2), local)
    tokens = tokenizer(SENTENCES)
    hidden = theirs["text_encoder"]["model"](tokens.input_ids, tokens.attention_mask).last_hidden_state
    torch.testing.assert_close(method.text_encoder(tokens).hidden, hidden)


@torch.no_grad()
def test_convirt(tmp_path: Path, tokenizer: Tokenizer, images: Tensor) -> None:
    theirs: Any = moved(
        nn.ModuleDict({
            "res_features": nn.Sequential(*list(resnet18().children())[:-1]),
            "res_l1": nn.Linear(512, 512), "res_l2": nn.Linear(512, 512),
            "bert_model": bert(tokenizer, pooler=True), "bert_l1": nn.Linear(32, 32), "bert_l2": nn.Linear(32, 512),
        })
    )  # fmt: skip
    method = load(ours("convirt", tokenizer, frozen_layers=0, text_pooling="mean"), theirs.state_dict(), tmp_path)
    h = theirs["res_features"](images).flatten(1)
    wanted = theirs["res_l2"](functional.relu(theirs["res_l1"](h)))
    torch.testing.assert_close(method.encode_image(images).joint, functional.normalize(wanted))
    tokens = tokenizer(SENTENCES)
    hidden = theirs["bert_model"](tokens.input_ids, tokens.attention_mask).last_hidden_state
    mask = tokens.attention_mask[:, :, None]
    mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
    text = theirs["bert_l2"](functional.relu(theirs["bert_l1"](mean)))
    torch.testing.assert_close(method.encode_text(SENTENCES).joint, functional.normalize(text))


def test_a_tensor_less_is_named_and_a_method_without_a_map_says_so(tmp_path: Path, tokenizer: Tokenizer) -> None:
    state = Mgca(tokenizer).state_dict()
    del state["prototype_layer.weight"]
    with pytest.raises(UserError, match=r"1 missing \(prototypes\.weight\)"):
        load(ours("mgca", tokenizer), state, tmp_path)
    with pytest.raises(UserError, match=r"does not say how others name its tensors.*released"):
        load(ours("imagenet", tokenizer), state, tmp_path)
