"""A pretrained BERT's weights, loaded strictly: transformers itself fills what a file lacks with random numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlip.encoders.weights import first_line, misfit, read_state
from mlip.errors import UserError
from mlip.text.tokenisation import no_pretrained

KEY = "encoders.text.pretrained"
ANCHOR = "embeddings.word_embeddings.weight"  # every BERT has it; what stands before it is the file's prefix
BODY = re.compile(r"(embeddings|encoder)\.")  # what is left over here matters; poolers and heads of other tasks do not
# by transformers' order of preference
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def load_bert(source: str) -> nn.Module:
    """The BERT without pooler of a folder or hub name, whatever prefix (``bert.``, ``module.bert.``) its tensors carry.

    Raises
    ------
    UserError : it cannot be found or read, is no BERT, or does not fit its own ``config.json`` tensor by tensor.
    """
    from transformers import AutoConfig
    from transformers.models.bert import BertModel

    if Path(source).is_dir():
        check_bert(Path(source))
    keys: dict[str, Any] = {
        "add_pooling_layer": False,
        "attn_implementation": "sdpa",
        "dtype": torch.float32,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # it tells which, instead of refusing without naming one
    }
    try:
        found = AutoConfig.from_pretrained(source)
        require_bert(source, found.model_type)
        loaded: Any = BertModel.from_pretrained(source, **keys)
        model, info = loaded
        prefix = _prefix(info["unexpected_keys"])
        if prefix:
            mapping = {f"^{re.escape(prefix)}": ""}
            loaded = BertModel.from_pretrained(source, key_mapping=mapping, **keys)
            model, info = loaded
    except UserError:
        raise
    except Exception as error:  # damaged files raise anything, from EOFError to KeyError
        raise no_pretrained(source, error) from None
    wrong = [item if isinstance(item, str) else item[0] for item in info["mismatched_keys"]]
    _demand_fit(source, info["missing_keys"], info["unexpected_keys"], wrong)
    return model  # type: ignore[no-any-return]


def check_bert(folder: Path) -> dict[str, Any]:
    """Whether a folder's tensors fit its ``config.json``, by names and shapes alone, as :func:`load_bert` will ask.

    Returns
    -------
    config : what ``config.json`` holds.

    Raises
    ------
    UserError : as :func:`load_bert`.
    """
    from transformers.models.bert import BertConfig, BertModel

    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        require_bert(str(folder), str(config.get("model_type", "bert")))
        with torch.device("meta"):
            wanted = BertModel(BertConfig.from_dict(config), add_pooling_layer=False).state_dict()
    except UserError:
        raise
    except Exception as error:  # any value may be wrong
        raise UserError(
            f"describes no BERT ({first_line(error)})", where=path, fix=f"copy the folder of {KEY} anew"
        ) from None
    state = _named_as_bert(_read(folder))
    missing = [n for n in wanted if n not in state]
    unexpected = [n for n in state if n not in wanted and not n.endswith("position_ids")]
    wrong = [n for n, v in wanted.items() if n in state and state[n].shape != v.shape]
    _demand_fit(str(folder), missing, unexpected, wrong)
    return dict(config)


def require_bert(source: str, model_type: str) -> None:
    if model_type != "bert":
        raise UserError(f"is a {model_type}, not a BERT", where=source, fix=f"give a BERT in {KEY}")


def _demand_fit(source: str, missing: Collection[str], unexpected: Collection[str], wrong: Collection[str]) -> None:
    left = [n for n in unexpected if BODY.match(n.removeprefix("bert."))]
    if missing or left or wrong:
        raise misfit(source, KEY, {"missing": missing, "unexpected": left, "of another shape": wrong})


def _prefix(names: Collection[str]) -> str:
    """What stands before the names of the BERT in a file, where transformers did not see it by itself; "" if nothing."""
    found = [n.removesuffix(ANCHOR) for n in names if n.endswith(f".{ANCHOR}")]
    return min(found, key=len) if found else ""


def _read(folder: Path) -> dict[str, Tensor]:
    name = next((f for f in FILES if (folder / f).is_file()), None)
    if name is None:
        raise UserError(
            f"holds neither {FILES[0]} nor {FILES[2]}", where=folder, fix=f"give a complete folder in {KEY}"
        )
    if not name.endswith(".json"):
        return read_state(folder / name, KEY, meta=True, wrapped=False)
    try:
        shards = sorted(set(json.loads((folder / name).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"lists no weights files ({first_line(error)})", where=folder / name, fix=f"copy the folder of {KEY} anew"
        ) from None
    absent = [s for s in shards if not (folder / s).is_file()]
    if absent:
        raise UserError(f"lacks {absent[0]}, which {name} names", where=folder, fix=f"copy the folder of {KEY} anew")
    return {n: v for shard in shards for n, v in read_state(folder / shard, KEY, meta=True, wrapped=False).items()}


def _named_as_bert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without their prefix, and old names of layer norms (gamma, beta) as transformers reads them."""
    prefix = _prefix(state)
    short = {n.removeprefix(prefix): v for n, v in state.items()}
    return {
        n.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): v
        for n, v in short.items()
    }
