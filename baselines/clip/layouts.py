"""Which layout a checkpoint of a dual encoder has, and the network that it describes: built here, loaded in ``model.py``.

Folders of transformers (``config.json`` of a CLIPModel), folders of open_clip (``open_clip_config.json``), and state dicts in
OpenAI's names (as CheXzero's file). Nothing is asked of a hub.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from baselines.clip.towers import (
    ImageTower,
    ResNetTower,
    TextTower,
    TimmTower,
    TransformersTower,
    VisionTransformerTower,
)
from mlip.encoders.foreign import load_whole, read_foreign
from mlip.encoders.weights import first_line
from mlip.errors import UserError
from mlip.study import NORMALISATIONS, GreyConfig, WeightsConfig

OPEN_CLIP = "open_clip_config.json"
FILES = (
    "model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors",
    "pytorch_model.bin", "open_clip_pytorch_model.bin",
)  # fmt: skip
OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")  # numbers beside the tensors of OpenAI's files


@dataclass
class Dual:
    """A dual encoder as its checkpoint describes it, not loaded."""

    model: nn.Module  # both sides under the names of the checkpoint
    image: ImageTower  # these two share its tensors
    text: TextTower
    path: Path  # of the weights file
    split: bool = False  # whether the image side was taken out of ``model``, as its child ``visual``

    def load(self, weights: WeightsConfig, key: str, meta: bool = False) -> None:
        """Load all tensors of both sides; ``meta``: look whether they fit. Raises UserError where they do not."""
        state = read_foreign(weights, key, meta, self.path)
        state = {
            n: v for n, v in state.items() if n not in OPENAI_SIZES and not n.endswith((".position_ids", "attn_mask"))
        }
        if self.split:
            self.model.visual = self.image.model
        try:
            load_whole(self.model, state, self.path, key)
        finally:
            if self.split:
                self.model.visual = nn.Identity()


def describe(weights: WeightsConfig, key: str) -> Dual:
    """Build the network of a checkpoint.

    Raises
    ------
    UserError : it has none of the three layouts, lacks a file, or needs one from a hub.
    """
    for name in ("architecture", "input_size"):
        if getattr(weights, name) is not None:
            raise UserError(f"gives {name}, which its own configuration says", where=key, fix=f"leave {name} out")
    folder = weights.folder.expanduser() if weights.folder else None
    if folder is None:
        return _openai(weights, key)
    if (folder / OPEN_CLIP).is_file():
        return _open_clip(folder, weights, key)
    if (folder / "config.json").is_file():
        return _transformers(folder, weights, key)
    raise UserError(f"holds neither config.json nor {OPEN_CLIP}", where=folder, fix=f"correct {key}.folder")


def _transformers(folder: Path, weights: WeightsConfig, key: str) -> Dual:
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    raw = _json(folder / "config.json")
    if raw.get("model_type") != "clip":
        raise UserError(
            f"is of the type {raw.get('model_type')!r}, not 'clip'",
            where=folder / "config.json",
            fix="give a CLIPModel",
        )
    with _explained(folder / "config.json", "describes no CLIPModel", f"copy the folder of {key} anew"):
        config: Any = CLIPConfig.from_dict(raw)
        model: Any = CLIPModel(config)
    with _explained(folder, "has no tokenizer", "add tokenizer.json and tokenizer_config.json of this very model"):
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) > config.text_config.vocab_size:
        problem = f"its tokenizer has {len(tokenizer)} pieces, its network embeds {config.text_config.vocab_size}"
        raise UserError(problem, where=folder, fix="use the tokenizer of this very model")

    def tokenise(texts: Sequence[str]) -> dict[str, Tensor]:
        length = config.text_config.max_position_embeddings
        found = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        return {name: found[name] for name in ("input_ids", "attention_mask")}

    text = nn.ModuleDict({"model": model.text_model, "projection": model.text_projection})
    grey = weights.grey or _grey(_json(folder / "preprocessor_config.json"), "image_mean", "image_std", folder, key)
    image = TransformersTower(model.vision_model, model.visual_projection, config.vision_config.image_size, grey, key)
    return Dual(model, image, TextTower(text, _embed_transformers, tokenise), _weights_file(folder, key))


def _embed_transformers(text: Any, tokens: dict[str, Tensor]) -> Tensor:
    out: Tensor = text["projection"](text["model"](**tokens).pooler_output)
    return out


def _open_clip(folder: Path, weights: WeightsConfig, key: str) -> Dual:
    import open_clip

    raw = _json(folder / OPEN_CLIP)
    config = raw.get("model_cfg")
    if not isinstance(config, dict):
        raise UserError("has no model_cfg", where=folder / OPEN_CLIP, fix=f"copy the folder of {key} anew")
    text = dict(config.get("text_cfg", {}))
    if name := text.get("hf_model_name"):
        text |= {"hf_model_name": str(_text_config(folder, name, key)), "hf_model_pretrained": False}
    with _explained(folder, "has no tokenizer", "add tokenizer.json and tokenizer_config.json of its text encoder"):
        tokenizer: Any = open_clip.get_tokenizer(f"local-dir:{folder}")
    grey = weights.grey or _grey(raw.get("preprocess_cfg", {}), "mean", "std", folder / OPEN_CLIP, key)
    return _of_config({**config, "text_cfg": text}, tokenizer, grey, _weights_file(folder, key), key)


def _text_config(folder: Path, name: str, key: str) -> Path:
    """The folder with the ``config.json`` of a text tower that open_clip knows by a name on the hub."""
    for place in (Path(name), folder / name, folder / Path(name).name, folder):
        if (place / "config.json").is_file():
            return place
    raise UserError(
        f"its text encoder is {name}, of which the config.json is not on this machine",
        where=folder / OPEN_CLIP,
        fix=f"put the config.json of {name} (no weights) into {folder / Path(name).name}",
    )


def _openai(weights: WeightsConfig, key: str) -> Dual:
    import open_clip

    state = read_foreign(weights, key, meta=True)
    try:
        config = _sizes(state)
    except (KeyError, IndexError, ValueError):
        raise UserError(
            "has not the tensors of OpenAI's CLIP (visual.conv1.weight, token_embedding.weight, ...)",
            where=weights.path,
            fix=f"name its prefix in {key}.prefix, or give the folder of transformers or open_clip in {key}.folder",
        ) from None
    tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    return _of_config(config, tokenizer, weights.grey or NORMALISATIONS["clip"], weights.path, key)


def _sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    """open_clip's configuration of a state dict in OpenAI's names: heads are 64 wide, as in all of theirs."""
    shape = {name: tuple(value.shape) for name, value in state.items()}
    width = shape["ln_final.weight"][0]
    text = {
        "context_length": shape["positional_embedding"][0], "vocab_size": shape["token_embedding.weight"][0],
        "width": width, "heads": max(1, width // 64), "layers": _numbered(shape, "transformer.resblocks.", 2),
    }  # fmt: skip
    if "visual.proj" in shape:
        patch = shape["visual.conv1.weight"][-1]
        vision: dict[str, Any] = {
            "layers": _numbered(shape, "visual.transformer.resblocks.", 3), "width": shape["visual.conv1.weight"][0],
            "patch_size": patch, "image_size": patch * round((shape["visual.positional_embedding"][0] - 1) ** 0.5),
        }  # fmt: skip
    else:
        cells = shape["visual.attnpool.positional_embedding"][0] - 1
        vision = {
            "layers": [_numbered(shape, f"visual.layer{k}.", 2) for k in (1, 2, 3, 4)],
            "width": shape["visual.layer1.0.conv1.weight"][0], "image_size": 32 * round(cells**0.5),
        }  # fmt: skip
    return {"embed_dim": shape["text_projection"][1], "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}


def _numbered(names: dict[str, Any], prefix: str, place: int) -> int:
    """How many numbers stand at a place of the names under a prefix."""
    return len({n.split(".")[place] for n in names if n.startswith(prefix)})


def _of_config(config: dict[str, Any], tokenizer: Any, grey: GreyConfig, path: Path, key: str) -> Dual:
    """The model of an open_clip configuration."""
    import open_clip
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from timm.models.vision_transformer import VisionTransformer

    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    custom = bool(config.get("custom_text") or config["text_cfg"].get("hf_model_name") or vision.get("timm_model_name"))
    rest = {k: v for k, v in config.items() if k not in ("custom_text", "vision_cfg", "multimodal_cfg")}
    with _explained(path, "open_clip cannot build its network", f"copy {OPEN_CLIP} anew"):
        kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        model: Any = kind(**{**rest, "vision_cfg": vision})
    visual = model.visual
    tower: type[ImageTower] = VisionTransformerTower
    if isinstance(visual, TimmModel):
        tower = TimmTower
    elif isinstance(visual, ModifiedResNet):
        tower = ResNetTower
    elif visual.attn_pool is not None:
        problem = "its image side ends in an attentional pooling, which this project does not read"
        raise UserError(problem, where=path, fix="take another model, or its image encoder alone: method: weights")
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    image = tower(visual, nn.Identity(), size, grey, key)
    has_patches = tower is VisionTransformerTower or isinstance(getattr(visual, "trunk", None), VisionTransformer)
    image.kind = "vit" if has_patches else "cnn"

    def tokenise(texts: Sequence[str]) -> dict[str, Tensor]:
        return {"text": tokenizer(list(texts))}

    model.visual = nn.Identity()  # the text side alone, so that no tensor is saved twice; `load` joins the two
    return Dual(model, image, TextTower(model, _embed_open_clip, tokenise), path, split=True)


def _embed_open_clip(model: Any, tokens: dict[str, Tensor]) -> Tensor:
    out: Tensor = model.encode_text(**tokens)
    return out


@contextmanager
def _explained(where: Path, problem: str, fix: str) -> Iterator[None]:
    """Builders and tokenizers of libraries raise anything on a configuration that is wrong."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{problem} ({first_line(error)})", where=where, fix=fix) from None


def _weights_file(folder: Path, key: str) -> Path:
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if not found:
        raise UserError(f"holds none of {', '.join(FILES)}", where=folder, fix=f"give a complete folder in {key}")
    return found[0]


def _grey(config: dict[str, Any], mean: str, std: str, where: Path, key: str) -> GreyConfig:
    if mean not in config or std not in config:
        raise UserError(f"does not say {mean} and {std}", where=where, fix=f"say them in {key}.normalise")
    return GreyConfig(mean=tuple(config[mean]), std=tuple(config[std]))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError("is not there", where=path, fix="copy the folder of the checkpoint anew") from None
    except ValueError as error:
        raise UserError(f"is no valid JSON ({first_line(error)})", where=path, fix="copy it anew") from None
    if not isinstance(found, dict):
        raise UserError("holds no keys", where=path, fix="copy it anew")
    return found
