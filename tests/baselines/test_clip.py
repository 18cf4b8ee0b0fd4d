"""Dual encoders of others: both sides give what the library that wrote them gives, and nothing is loaded in part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from benchmarks.tasks.shared.dense.features import MethodMaps
from mlip.contract import Method
from mlip.encoders.image import normalised
from mlip.errors import UserError
from mlip.manifest import read_manifest
from mlip.methods import Entry, method_class, method_folders
from mlip.run.contract.world import tiny_method
from mlip.study import NORMALISATIONS, GreyConfig, WeightsConfig
from tests.checkpoints import SIDE, biomedclip_folder, openai_model, transformers_folder

FOLDER = method_folders()["clip"]
TEXTS = ["There is a left pleural effusion.", "", "No pneumothorax " * 20]


def row(weights: WeightsConfig, kind: Any = "vit") -> Method:
    """The row as a study builds it, in eval mode."""
    method_class(FOLDER).check_weights(weights, kind, SIDE, "key")
    entry = Entry("mine", read_manifest(FOLDER), FOLDER, kind, {}, {}, "Mine", weights=weights)
    return tiny_method(entry).eval()


def films(side: int = SIDE) -> torch.Tensor:
    return torch.rand(3, 1, side, side, generator=torch.Generator().manual_seed(1)).expand(-1, 3, -1, -1) * 2 - 1


def unit(x: torch.Tensor) -> torch.Tensor:
    return functional.normalize(x.detach(), dim=-1)


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = transformers_folder(tmp_path)
    method = row(WeightsConfig(folder=tmp_path))
    grey = GreyConfig(mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))
    tokens = AutoTokenizer.from_pretrained(tmp_path)(
        TEXTS, padding=True, truncation=True, max_length=24, return_tensors="pt"
    )
    with torch.no_grad():
        wanted: Any = model.get_image_features(pixel_values=normalised(films(), grey))
        text: Any = model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
        found = method.encode_image(films())
        torch.testing.assert_close(found.joint, unit(wanted.pooler_output))
        torch.testing.assert_close(method.encode_text(TEXTS).joint, unit(text.pooler_output))
        vision: Any = model.vision_model(pixel_values=normalised(films(), grey))
        torch.testing.assert_close(found.pooled, vision.pooler_output)
        patches = model.vision_model.post_layernorm(vision.last_hidden_state[:, 1:])
        torch.testing.assert_close(found.grid.flatten(1, 2), patches)
        other = row(WeightsConfig(folder=tmp_path, normalise="imagenet")).encode_image(films())
    assert not torch.allclose(other.joint, found.joint, atol=1e-3)
    assert tokens["input_ids"].shape[1] == 24  # the third text was cut to the checkpoint's own length


def test_a_file_in_openais_names_and_its_maps(tmp_path: Path) -> None:
    model = openai_model()
    torch.save(model.state_dict() | {"input_resolution": torch.tensor(32)}, tmp_path / "chexzero.pt")
    method = row(WeightsConfig(file=tmp_path / "chexzero.pt"))
    with torch.no_grad():
        wanted = model.encode_image(normalised(films(), NORMALISATIONS["clip"]))
        torch.testing.assert_close(method.encode_image(films()).joint, unit(wanted))
        tokens = open_clip.SimpleTokenizer(context_length=20)(TEXTS)
        torch.testing.assert_close(method.encode_text(TEXTS).joint, unit(model.encode_text(tokens)))
    maps = MethodMaps(method, 48, FOLDER)  # films of 48 pixels, seen at 32: dense tasks follow the row's own size
    assert (maps.kind, maps.side, maps.shapes) == ("grid", SIDE, [(64, 4, 4)])


def test_a_clip_resnet_is_a_pyramid(tmp_path: Path) -> None:
    model = openai_model(cnn=True)
    save_file({n: v.contiguous() for n, v in model.state_dict().items()}, tmp_path / "rn.safetensors")
    weights = WeightsConfig(file=tmp_path / "rn.safetensors")
    with pytest.raises(UserError, match=r"its image side is a cnn\. Fix: set encoder: cnn"):
        row(weights, "vit")
    method = row(weights, "cnn")
    with torch.no_grad():
        wanted = model.encode_image(normalised(films(64), NORMALISATIONS["clip"]))
        torch.testing.assert_close(method.encode_image(films(64)).joint, unit(wanted))
    maps = MethodMaps(method, 64, FOLDER)
    assert (maps.kind, maps.strides) == ("pyramid", [4, 8, 16, 32])


def test_a_folder_of_open_clip_with_a_bert_of_the_hub(tmp_path: Path) -> None:
    model = biomedclip_folder(tmp_path)
    method = row(WeightsConfig(folder=tmp_path))
    grey = GreyConfig(mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
    with torch.no_grad():
        torch.testing.assert_close(
            method.encode_image(films(224)).joint, unit(model.encode_image(normalised(films(224), grey)))
        )
        tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
        assert tokens.shape[1] == 12
        torch.testing.assert_close(method.encode_text(TEXTS).joint, unit(model.encode_text(tokens)))
    assert method.encode_image(films(224)).pooled.shape == (3, 192)


def test_no_tensor_is_saved_twice_and_the_encoder_is_the_checkpoints(tmp_path: Path) -> None:
    biomedclip_folder(tmp_path)
    method = row(WeightsConfig(folder=tmp_path))
    pointers = [p.data_ptr() for p in method.state_dict().values() if p.numel()]
    assert len(pointers) == len(set(pointers))
    assert any(n.startswith("trunk.blocks.0.attn") for n in method.image_encoder.model.state_dict())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("tensor", r"1 missing \(visual_projection\.weight\); 1 unexpected \(visual\.projection\)"),
        ("type", r"config\.json: is of the type 'siglip', not 'clip'"),
        ("tokenizer", "has no tokenizer"),
        ("grey", r"preprocessor_config\.json: is not there"),
        ("nothing", r"holds neither config\.json nor open_clip_config\.json"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_before_anything_runs(tmp_path: Path, spoil: str, words: str) -> None:
    transformers_folder(tmp_path)
    if spoil == "tensor":
        state = load_file(tmp_path / "model.safetensors")
        state["visual.projection"] = state.pop("visual_projection.weight")
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    if spoil == "type":
        config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) | {"model_type": "siglip"}
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in {"tokenizer": ["tokenizer.json"], "grey": ["preprocessor_config.json"], "nothing": ["config.json"]}.get(
        spoil, []
    ):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=words):
        row(WeightsConfig(folder=tmp_path))


def test_what_only_the_hub_has_is_named(tmp_path: Path) -> None:
    biomedclip_folder(tmp_path, with_text_config=False)
    with pytest.raises(UserError, match=r"its text encoder is somebody/A-BERT.*put the config\.json.*A-BERT"):
        row(WeightsConfig(folder=tmp_path))
