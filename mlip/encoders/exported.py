"""Encoders that ``mlip export`` wrote: weights and a configuration that rebuilds them, in timm's hub layout where timm can."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from pydantic import Field, ValidationError
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import Tensor, nn

from mlip.encoders.image import ImageEncoder, ImageOutput
from mlip.encoders.weights import load_strict
from mlip.errors import UserError
from mlip.study import ImageEncoderConfig, Strict, describe

Pooling = Literal["encoder", "patches", "both"]  # the encoder's own, the mean of the grid, the mean of the two
# What timm's own record of an architecture says of timm's weights, and not of these.
OF_OTHER_WEIGHTS = ("tag", "license", "description", "origin_url", "paper_name", "paper_ids", "notes")
WEIGHTS, CONFIG = "model.safetensors", "config.json"
# What timm calls the networks that we build from sizes; the sizes go into its ``model_args``.
TIMM_NAMES = {"resnet": "resnet18", "vit": "vit_base_patch16_224"}


class ExportedEncoder(Strict):
    """What rebuilds an image encoder: the part ``mlip`` of an exported ``config.json``."""

    kind: Literal["cnn", "vit"]
    image_size: int = Field(gt=0, description="side in pixels of the images that it was trained on")
    pooling: Pooling
    encoder: ImageEncoderConfig


class MeasuredEncoder(ImageEncoder):
    """An image encoder whose ``pooled`` is what the study's tables measured of the method."""

    pooling: Pooling = "encoder"

    def forward(self, images: Tensor, need_attention: bool = False) -> ImageOutput:
        out: ImageOutput = super().forward(images, need_attention)
        return replace(out, pooled=pool(out, self.pooling))


def pool(out: ImageOutput, pooling: Pooling) -> Tensor:
    """[B, D] of an encoder's output."""
    if pooling == "encoder":
        return out.pooled
    patches = out.grid.flatten(1, 2).mean(dim=1)
    return patches if pooling == "patches" else (patches + out.pooled) / 2


def timm_knows(config: ImageEncoderConfig, pooling: Pooling = "encoder") -> bool:
    """Whether timm can build the network from a name and plain arguments: all but a ``vit`` on a stem, a ``cnn`` that ends with
    its last stage, or one with two poolings."""
    return config.stem is None and config.pooled == "classifier" and pooling != "both"


def write_exported(encoder: ImageEncoder, image_size: int, folder: Path, pooling: Pooling = "encoder") -> None:
    """Write ``model.safetensors`` and ``config.json`` of an encoder on the CPU into a folder that is there."""
    about = ExportedEncoder(
        kind=encoder.kind, image_size=image_size, pooling=pooling, encoder=encoder.config.without_weights()
    ).model_dump(mode="json")
    if not timm_knows(encoder.config, pooling):
        state = {name: value.contiguous() for name, value in encoder.model.state_dict().items()}
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps({"num_features": encoder.dim, "mlip": about}, indent=2)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        return
    side = encoder.input_size
    seen = {"input_size": (3, side, side), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear", "crop_pct": 1.0}  # fmt: skip
    model = _of_timm(encoder, pooling).to(
        memory_format=torch.contiguous_format
    )  # safetensors writes no channels-last tensors
    said = {"mlip": about, "pretrained_cfg": dict.fromkeys(OF_OTHER_WEIGHTS)}
    save_for_hf(model, str(folder), model_config=said, safe_serialization=True, data_config=seen)


def _of_timm(encoder: ImageEncoder, pooling: Pooling) -> nn.Module:
    """The network as timm's factory made it, which notes in it how; one of our own sizes, or of another pooling than timm's
    own, is built again by the factory."""
    name, args = encoder.config.name, dict(encoder.config.args)
    if name not in TIMM_NAMES and pooling == "encoder":
        return deepcopy(encoder.model)
    if encoder.kind == "vit":
        args["img_size"] = encoder.input_size
    if pooling == "patches":  # the last norm stays before the pooling
        args |= {"global_pool": "avg", "fc_norm": False}
    model = timm.create_model(TIMM_NAMES.get(name, name), num_classes=0, **args)
    model.load_state_dict(encoder.model.state_dict(), strict=True)
    return model


def load_exported(folder: str | Path) -> MeasuredEncoder:
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
    encoder = MeasuredEncoder(about.encoder, about.kind, about.image_size, hub=False)
    encoder.pooling = about.pooling
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
