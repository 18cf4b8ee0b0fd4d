"""Pretrained BERT folders load whole or not at all: transformers itself fills gaps with random numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertForPreTraining, BertModel

from mlip.encoders.bert_weights import check_bert, load_bert
from mlip.errors import UserError

SIZES = BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=20)  # fmt: skip
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(1)
    return BertModel(SIZES).state_dict()


def folder(path: Path, state: Any, how: str = "safetensors") -> Path:
    SIZES.save_pretrained(path)
    if how == "safetensors":
        copies = {k: v.clone().contiguous() for k, v in state.items()}
        save_file(copies, path / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(state, path / "pytorch_model.bin")
    return path


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda s: {prefix + k: v for k, v in s.items()}


def gamma(s: State) -> State:
    return {k.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for k, v in s.items()}


FITTING: dict[str, Callable[[State], State]] = {
    "plain": lambda s: s,
    "bert": prefixed("bert."),
    "module": prefixed("module."),
    "module.bert": prefixed("module.bert."),
    "two towers": lambda s: {**prefixed("text_model.")(s), "vision_model.conv.weight": torch.ones(3)},
    "old layer norms": gamma,
    "heads of other tasks": lambda s: {**prefixed("bert.")(s), "cls.predictions.bias": torch.ones(60)},
    "position ids": lambda s: {**s, "embeddings.position_ids": torch.arange(20)[None]},
}


@pytest.mark.parametrize("how", ["safetensors", "bin"])
@pytest.mark.parametrize("case", FITTING)
def test_every_tensor_of_a_fitting_folder_is_loaded(case: str, how: str, state: State, tmp_path: Path) -> None:
    path = folder(tmp_path / "bert", FITTING[case](state), how)
    assert check_bert(path)["hidden_size"] == 16
    loaded = load_bert(str(path)).state_dict()
    assert all(torch.equal(v, state[k]) for k, v in loaded.items()), "not one random number"


def test_the_pretraining_class_of_transformers(tmp_path: Path) -> None:
    model = BertForPreTraining(SIZES)
    model.save_pretrained(tmp_path)
    loaded = load_bert(str(tmp_path)).state_dict()
    assert all(torch.equal(v, model.bert.state_dict()[k]) for k, v in loaded.items())


LAYER = "encoder.layer.2.attention.self.query.weight"
MISFITS: dict[str, tuple[Callable[[State], State], str]] = {
    "a layer lacks": (
        lambda s: {k: v for k, v in s.items() if "layer.1." not in k},
        r"16 missing \(encoder\.layer\.1\.attention\.output\.LayerNorm\.bias, .*\.\.\.\)",
    ),
    "a prefixed layer lacks": (
        lambda s: prefixed("bert.")({k: v for k, v in s.items() if "layer.1." not in k}),
        "16 missing",
    ),
    "one bias lacks": (
        lambda s: {k: v for k, v in s.items() if k != "encoder.layer.0.output.dense.bias"},
        r"1 missing \(encoder\.layer\.0\.output\.dense\.bias\)",
    ),
    "a layer too many": (lambda s: {**s, LAYER: torch.ones(16, 16)}, rf"1 unexpected \({LAYER}\)"),
    "a prefixed layer too many": (lambda s: prefixed("bert.")({**s, LAYER: torch.ones(16, 16)}), "1 unexpected"),
    "other width": (
        lambda s: {**s, "embeddings.word_embeddings.weight": torch.ones(59, 16)},
        r"1 of another shape \(embeddings\.word_embeddings\.weight\)",
    ),
    "another model's names": (lambda s: {k.replace("encoder", "transformer"): v for k, v in s.items()}, "32 missing"),
}


@pytest.mark.parametrize("look", [check_bert, lambda p: load_bert(str(p))], ids=["check", "run"])
@pytest.mark.parametrize("case", MISFITS)
def test_misfits_name_folder_tensors_and_count(case: str, look: Callable, state: State, tmp_path: Path) -> None:
    change, problem = MISFITS[case]
    path = folder(tmp_path / "bert", change(state))
    with pytest.raises(UserError, match=problem) as refused:
        look(path)
    text = str(refused.value)
    assert str(path) in text and "encoders.text.pretrained" in text and len(text.splitlines()) == 1


def test_what_a_hub_gives_is_judged_too(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub name has no folder to look into first: the judgement is made on what transformers reports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlip.encoders.bert_weights.check_bert", lambda path: {})
    for case, (change, problem) in MISFITS.items():
        folder(tmp_path / case, change(state))
        with pytest.raises(UserError, match=problem):
            load_bert(str(tmp_path / case))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(("content", "problem"), [(b"", "is empty"), (b"version https://git-lfs", "is a text"), (b"\x93\x00" * 90, "cannot be read")])  # fmt: skip
def test_damaged_weights(name: str, content: bytes, problem: str, tmp_path: Path) -> None:
    SIZES.save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*{problem}"):
        load_bert(str(tmp_path))


def test_a_training_checkpoint_is_no_pretrained_folder(state: State, tmp_path: Path) -> None:
    """transformers does not look inside, and would start at random."""
    path = folder(tmp_path / "bert", {"state_dict": dict(state), "epoch": 3}, "bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: holds no tensor by name, only state_dict, epoch"):
        load_bert(str(path))


def test_damaged_folders(state: State, tmp_path: Path) -> None:
    SIZES.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        load_bert(str(tmp_path))
    index = {"weight_map": {k: "model-00001-of-00002.safetensors" for k in state}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UserError, match=r"lacks model-00001-of-00002\.safetensors"):
        load_bert(str(tmp_path))
    (tmp_path / "model.safetensors.index.json").unlink()
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="no dictionary of tensors"):
        load_bert(str(tmp_path))
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json: describes no BERT"):
        load_bert(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}), encoding="utf-8")
    with pytest.raises(UserError, match="is a roberta, not a BERT"):
        load_bert(str(tmp_path))
