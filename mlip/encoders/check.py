"""Whether a study's encoders can be built at all, told before the run: nothing is downloaded and nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from mlip.encoders.bert_weights import check_bert
from mlip.encoders.image import STRIDES, ImageEncoder
from mlip.encoders.text import require_heads, require_positions
from mlip.errors import UserError
from mlip.study import NORMALISATIONS
from mlip.text.tokenisation import pretrained_source

if TYPE_CHECKING:
    from mlip.study import ImageEncoderConfig, Study, TextEncoderConfig


def check_encoders(
    study: Study, starts: Sequence[tuple[ImageEncoderConfig, Literal["cnn", "vit"], str]], stages: bool = False
) -> None:
    """Build the encoders of the study's rows on the device ``meta``, with the names and shapes of their weights files.

    What only a hub can tell is not asked: of ``pretrained: hub`` it is checked that timm lists weights, a hub name of a
    text encoder is taken as it is.

    Parameters
    ----------
    starts : the image encoders that rows start from: configuration, kind, and the key that names it.
    stages : whether a task builds on a CNN's four stages (detection, segmentation).

    Raises
    ------
    UserError : the first encoder that cannot be built; names its key (``encoders.cnn``), ``encoders.text``, or the weights
        file, and the fix.
    """
    for config, kind, key in starts:
        if ":" in config.name:  # `hf-hub:owner/model`
            continue
        with torch.device("meta"):
            encoder = ImageEncoder(config, kind, study.input_side, hub=False, where=key)
        if stages and kind == "cnn":
            require_stages(encoder, study.image_size)
    _check_text(study.encoders.text)


def check_stages(config: ImageEncoderConfig, kind: Literal["cnn", "vit"], study: Study, where: str) -> None:
    """Raise UserError where the image encoder of a row's checkpoint gives detection and segmentation no maps."""
    with torch.device("meta"):
        encoder = ImageEncoder(config, kind, study.input_side, hub=False, grey=NORMALISATIONS["half"], where=where)
    if kind == "cnn":
        require_stages(encoder, study.image_size)


def require_stages(encoder: ImageEncoder, image_size: int) -> None:
    """Raise UserError unless a CNN has the stages that dense tasks build on, and images of ``image_size`` fit them."""
    encoder.require_stages()
    side = encoder.map_side(image_size)
    if side % STRIDES[-1]:
        raise UserError(
            f"images of {side} pixels are no multiple of {STRIDES[-1]}, the stride of the CNN; detection and segmentation "
            "need it",
            where=encoder.where,
            fix="choose an image_size or input_size that is one, e.g. 96 or 224",
        )


def _check_text(config: TextEncoderConfig) -> None:
    if not config.pretrained:
        require_heads(config)
        return
    source = pretrained_source(config.pretrained)
    if Path(source).is_dir():
        found = check_bert(Path(source))
        require_positions(source, int(found.get("max_position_embeddings", 512)), config.max_tokens)
