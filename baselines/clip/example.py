"""A tiny dual encoder of random weights in OpenAI's layout, for ``mlip check-baseline``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import open_clip
from safetensors.torch import save_file

from mlip.study import WeightsConfig


def write_example(kind: Literal["cnn", "vit"], folder: Path) -> WeightsConfig:
    """One block of width 64 on each side; the vocabulary is the tokenizer's."""
    vision = (
        {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}
        if kind == "cnn"
        else {"layers": 1, "width": 64, "patch_size": 16, "image_size": 64}
    )
    text = {"context_length": 48, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    model = open_clip.CLIP(32, vision_cfg=vision, text_cfg=text, quick_gelu=True)  # type: ignore[arg-type]
    path = folder / "example.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return WeightsConfig(file=path)
