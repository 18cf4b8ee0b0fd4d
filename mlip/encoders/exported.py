"""Encoders that ``mlip export`` wrote: weights and a configuration that rebuilds them, in timm's hub layout where timm can."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from pydantic import Field, ValidationError
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

from mlip.encoders.image import ImageEncoder
from mlip.encoders.weights import load_strict
from mlip.errors import UserError
from mlip.study import ImageEncoderConfig, Strict, describe

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# What timm calls the networks that we build from sizes; the sizes go into its ``model_args``.
TIMM_NAMES = {"resnet": "resnet18", "vit": "vit_base_patch16_224"}


class ExportedEncoder(Strict):
    """What rebuilds an image encoder: the part ``mlip`` of an exported ``config.json``."""

    kind: Literal["cnn", "vit"]
    image_size: int = Field(gt=0, description="side in pixels of the images that it was trained on")
    encoder: ImageEncoderConfig


def timm_knows(config: ImageEncoderConfig) -> bool:
    """Whether timm can build the network from a name and plain arguments: all but a ``vit`` on a stem."""
    return config.stem is None


def write_exported(encoder: ImageEncoder, image_size: int, folder: Path) -> None:
    """Write ``model.safetensors`` and ``config.json`` of an encoder on the CPU into a folder that is there."""
    config = encoder.config.without_weights()
    about = ExportedEncoder(kind=encoder.kind, image_size=image_size, encoder=config).model_dump(mode="json")
    if not timm_knows(config):
        state = {name: value.contiguous() for name, value in encoder.model.state_dict().items()}
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps({"num_features": encoder.dim, "mlip": about}, indent=2)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        return
    side = encoder.input_size
    seen = {"input_size": (3, side, side), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear", "crop_pct": 1.0}  # fmt: skip
    model = _of_timm(encoder).to(memory_format=torch.contiguous_format)  # safetensors writes no channels-last tensors
    save_for_hf(model, str(folder), model_config={"mlip": about}, safe_serialization=True, data_config=seen)


def _of_timm(encoder: ImageEncoder) -> nn.Module:
    """The network as timm's factory made it, which notes in it how; one of our own sizes is built again by the factory."""
    name, args = encoder.config.name, dict(encoder.config.args)
    if name not in TIMM_NAMES:
        return deepcopy(encoder.model)
    if name == "vit":
        args["img_size"] = encoder.input_size
    model = timm.create_model(TIMM_NAMES[name], num_classes=0, **args)
    model.load_state_dict(encoder.model.state_dict(), strict=True)
    return model


def load_exported(folder: str | Path) -> ImageEncoder:
    """The encoder of a folder that ``mlip export`` wrote, in eval mode on the CPU; pooled, grid and stages as in the study.

    Raises
    ------
    UserError : a file is missing or damaged, or the weights do not fit tensor by tensor.
    """
    path = Path(folder) / CONFIG
    fix = "export it again (docs/sharing.md)"
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))["mlip"]
        about = ExportedEncoder.model_validate(found)
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror})", where=path, fix="give a folder of `mlip export`"
        ) from None
    except ValidationError as error:
        raise UserError(describe(error), where=path, fix=fix) from None
    except (ValueError, KeyError, TypeError):
        raise UserError("has no part `mlip`", where=path, fix=fix) from None
    encoder = ImageEncoder(about.encoder, about.kind, about.image_size, hub=False)
    load_strict(encoder.model, Path(folder) / WEIGHTS, f"{folder}/{WEIGHTS}")
    return encoder.eval()


@torch.no_grad()
def pooled_apart(encoder: ImageEncoder, other: nn.Module) -> float:
    """Largest difference between an encoder's pooled features and what another model puts out on an image of noise, as a
    share of the largest feature. Computed with 64 bits: with 32, other kernels round deep networks by more than 1e-6."""
    side, draw = encoder.input_size, torch.Generator().manual_seed(0)
    images = torch.rand(1, 1, side, side, generator=draw, dtype=torch.float64).mul(2).sub(1).expand(-1, 3, -1, -1)
    ours, theirs = deepcopy(encoder).double()(images).pooled, deepcopy(other).double()(images)
    return float((ours - theirs).abs().max() / ours.abs().max())
