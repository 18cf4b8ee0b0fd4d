"""The check before the run: every encoder of a study that cannot be built is named with its key, without building it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from mlip.encoders import check
from mlip.encoders.image import ImageEncoder
from mlip.errors import UserError
from mlip.study import Study, load_study
from tests.conftest import ROOT

BOTH = ("cnn", "vit")


def check_encoders(config: Study, kinds: Sequence[Literal["cnn", "vit"]], stages: bool = False) -> None:
    """Of a study whose rows start from its own encoders."""
    check.check_encoders(config, [(config.encoders.image(k), k, f"encoders.{k}") for k in kinds], stages)


def study(**encoders: dict[str, Any]) -> Study:
    """The twin study with other encoders."""
    config = load_study(ROOT / "config" / "twin.yaml")
    raw = config.encoders.model_dump() | encoders
    return config.model_copy(update={"encoders": type(config.encoders).model_validate(raw)})


@pytest.mark.parametrize("name", ["ablation", "efficiency", "open", "paper", "smoke", "twin"])
def test_our_studies_pass_quickly_and_draw_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def downloads(*_: object, **__: object) -> None:
        raise AssertionError("the check asks a hub")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", downloads)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", downloads)
    config = load_study(ROOT / "config" / f"{name}.yaml")
    torch.manual_seed(0)
    start = time.process_time()
    check_encoders(config, BOTH, stages=True)
    seconds = time.process_time() - start
    after = torch.rand(1)
    torch.manual_seed(0)
    assert seconds < 4 and torch.equal(torch.rand(1), after)


@pytest.mark.parametrize(
    ("encoders", "problem"),
    [
        ({"cnn": {"name": "resnet51"}}, "encoders.cnn: timm knows no model 'resnet51'.*did you mean .*resnet50"),
        ({"cnn": {"name": "deit_tiny_patch16_224"}}, "encoders.cnn: 'deit_tiny_patch16_224' is not a cnn.*encoders.vit"),
        ({"vit": {"name": "densenet121"}}, "encoders.vit: 'densenet121' is not a vit"),
        ({"cnn": {"name": "resnet18", "pretrained": "no/where.pth"}}, "no/where.pth: .*encoders.cnn.pretrained"),
        ({"cnn": {"name": "resnet18", "args": {"depth": 9}}}, "encoders.cnn: timm cannot build 'resnet18'.*depth"),
        ({"vit": {"name": "vit_tiny_patch16_224", "input_size": 100}}, "encoders.vit: images of 100 pixels.*patch size 16"),
        ({"vit": {"name": "vit_small_patch14_dinov2"}}, "encoders.vit: images of 64 pixels.*patch size 14"),
        ({"cnn": {"name": "resnet18", "args": {"output_stride": 8}}}, "encoders.cnn: .*no stage of stride 16"),
        ({"cnn": {"name": "resnet18", "args": {"output_stride": 16}}}, "encoders.cnn: .*no stage of stride 32"),
        ({"cnn": {"name": "resnet", "pretrained": "hub"}}, "encoders.cnn.pretrained: there are no weights of 'resnet'"),
        ({"cnn": {"name": "resnet50.xyz", "pretrained": "hub"}}, "encoders.cnn: .*xyz.*tag"),
        ({"text": {"dim": 100, "heads": 3}}, "encoders.text: dim 100 is no multiple of heads 3"),
        ({"text": {"pretrained": "./no/bert"}}, "no/bert: holds no config.json.*encoders.text.pretrained"),
    ],
)  # fmt: skip
def test_faults_are_named(encoders: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem) as refused:
        check_encoders(study(**encoders), BOTH, stages=True)
    assert refused.value.fix and len(str(refused.value).splitlines()) == 1


def test_only_the_kinds_in_use_are_looked_at() -> None:
    broken = study(vit={"name": "no_such_vit"})
    check_encoders(broken, ["cnn"])
    with pytest.raises(UserError, match="no_such_vit"):
        check_encoders(broken, ["vit"])


def test_stages_are_asked_only_where_a_task_needs_them() -> None:
    dilated = study(cnn={"name": "resnet18", "args": {"output_stride": 16}})
    check_encoders(dilated, ["cnn"])
    with pytest.raises(UserError, match="stride 32"):
        check_encoders(dilated, ["cnn"], stages=True)
    odd = study().model_copy(update={"image_size": 72})
    check_encoders(odd, ["cnn"])
    with pytest.raises(UserError, match="72 pixels are no multiple of 32"):
        check_encoders(odd, ["cnn"], stages=True)


def test_weights_that_do_not_fit_are_seen_before_the_run(tmp_path: Path) -> None:
    config = study()
    state = {k: v.contiguous() for k, v in ImageEncoder(config.encoders.cnn, "cnn", 64).model.state_dict().items()}
    cnn = config.encoders.cnn.model_dump() | {"pretrained": str(tmp_path / "w.safetensors")}
    save_file(state, tmp_path / "w.safetensors")
    check_encoders(study(cnn=cnn), ["cnn"])
    save_file({k: v for k, v in state.items() if k != "conv_stem.weight"}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"w\.safetensors: .*1 missing \(conv_stem\.weight\)"):
        check_encoders(study(cnn=cnn), ["cnn"])


def test_a_pretrained_text_folder_is_looked_into(tmp_path: Path) -> None:
    BertModel(BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=40)).save_pretrained(tmp_path)  # fmt: skip
    check_encoders(study(text={"pretrained": str(tmp_path), "max_tokens": 40}), [])
    with pytest.raises(UserError, match="has 40 positions, max_tokens is 41"):
        check_encoders(study(text={"pretrained": str(tmp_path), "max_tokens": 41}), [])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds neither"):
        check_encoders(study(text={"pretrained": str(tmp_path), "max_tokens": 40}), [])
