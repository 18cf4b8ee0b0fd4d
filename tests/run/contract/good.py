"""A small method that does everything right, from which each bad one differs in one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mlip.contract import Batch, ImageFeatures, Method, MethodContext, TextFeatures
from mlip.encoders.text import pool_text
from mlip.losses.contrastive import info_nce
from mlip.manifest import Manifest
from mlip.run.contract.subject import Subject
from mlip.run.contract.suite import CHECKS, Setting, toy_entry
from mlip.text.reports import Report
from mlip.text.tokenisation import TokenBatch

EVERYTHING = ["zero_shot", "retrieval", "local_alignment", "maps"]
RECIPE = {"epochs": 1, "batch_size": 8, "lr": 1e-3, "weight_decay": 0.05}


class Good(Method):
    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        self.image_head = nn.Linear(self.image_encoder.dim, 16)
        self.text_head = nn.Linear(self.text_encoder.dim, 16)
        self.patch_head = nn.Linear(self.image_encoder.grid_dim, 16)
        self.dropout = nn.Dropout(0.1)

    def text_view(self, report: Report, rng: np.random.Generator) -> str:
        return report.sentences[rng.integers(len(report.sentences))]

    def text(self, tokens: TokenBatch) -> Tensor:
        return self.text_head(pool_text(self.text_encoder(tokens), tokens, "words"))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        image = self.image_encoder(batch.images)
        text = self.text(batch.tokens)
        joint = self.dropout(self.image_head(image.pooled))
        noise = torch.randn(joint.shape, generator=batch.generator).to(joint.device)
        local = self.patch_head(image.grid).mean(dim=(1, 2))
        return self.pair_terms(joint + 0.1 * noise, text, batch) | {"local": info_nce(local, text, 0.1)}

    def loss_weights(self) -> dict[str, float]:
        return {"local": 0.5}

    def pair_terms(self, image: Tensor, text: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"contrast": info_nce(image, text, 0.1)}

    def encode_image(self, images: Tensor) -> ImageFeatures:
        out = self.image_encoder(images)
        return ImageFeatures(out.pooled, out.grid, functional.normalize(self.image_head(out.pooled), dim=-1))

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        tokens = self.tokenizer(texts).to(self.device)
        joint = functional.normalize(self.text(tokens), dim=-1)
        return TextFeatures(joint, joint.unsqueeze(1), torch.zeros(len(texts), 1, dtype=torch.bool))

    def maps(self, images: Tensor, prompt: str) -> dict[str, Tensor]:
        patches = functional.normalize(self.patch_head(self.image_encoder(images).grid), dim=-1)
        return {"cosine": patches @ functional.normalize(self.text(self.tokenizer([prompt]))[0], dim=0)}


def manifest(**changes: Any) -> Manifest:
    """The method.yaml of a trained method with every capability but knowledge."""
    values: dict[str, Any] = {
        "id": "toy",
        "title": "Toy",
        "paper": "none",
        "citation": "none",
        "year": 2026,
        "status": "external",
        "encoders": {"supports": ["cnn"], "prefers": "cnn"},
        "capabilities": EVERYTHING,
        "recipes": {"smoke": RECIPE, "small": RECIPE},
    }
    return Manifest.model_validate(values | changes)


def subject(kind: type[Method], encoder: str = "cnn", folder: Path | None = None, **changes: Any) -> Subject:
    """The class under examination as if it lay in this folder."""
    return Subject(toy_entry(manifest(**changes), folder or Path(__file__).parent, encoder), kind)  # type: ignore[arg-type]


def mistakes(kind: type[Method], encoder: str = "cnn", folder: Path | None = None, **changes: Any) -> dict[str, str]:
    """What the whole suite says against a class, by check; the README of the folder is not asked for."""
    setting = Setting(encoder, subject(kind, encoder, folder, **changes))
    found = {check.__name__: setting.run(check).mistake for check in CHECKS if check in setting.checks}
    found.pop("check_readme_is_there")
    return {name: str(mistake) for name, mistake in found.items() if mistake is not None}
