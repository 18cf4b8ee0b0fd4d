"""Toy versions of the two reconstructed methods, built from their real ``method.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mlip.contract import Batch, Method, MethodContext
from mlip.encoders.image import ImageEncoder
from mlip.encoders.text import TextEncoder
from mlip.manifest import read_manifest
from mlip.methods import method_class
from mlip.paths import ROOT
from mlip.seeding import generator, torch_generator
from mlip.study import ImageEncoderConfig, TextEncoderConfig
from mlip.text.reports import parse_report
from mlip.text.tokenisation import train_tokenizer

SIZE = 48
REPORTS = [
    parse_report(raw)
    for raw in (
        "FINDINGS: There is a small left pleural effusion. The heart is normal in size. IMPRESSION: Small effusion.",
        "FINDINGS: Right lower lobe consolidation. No pneumothorax. IMPRESSION: Right lower lobe pneumonia.",
        "FINDINGS: The lungs are clear. There is no pneumothorax or effusion. IMPRESSION: No acute process.",
        "FINDINGS: Moderate cardiomegaly. Mild pulmonary edema. IMPRESSION: Cardiomegaly with mild edema.",
        "FINDINGS: Large right pneumothorax. A chest tube is in place. IMPRESSION: Right pneumothorax.",
        "IMPRESSION: Linear atelectasis at the left base.",
    )
]
ENTITIES = [[0, 1], [2, -1], [-1, -1], [3, 4], [5, -1], [0, -1]]
CNN = ImageEncoderConfig(name="resnet", args={"layers": [1, 1, 1, 1], "channels": [8, 12, 16, 24]})
VIT = ImageEncoderConfig(name="vit", args={"patch_size": 12, "embed_dim": 32, "depth": 2, "num_heads": 2})
TEXT = TextEncoderConfig(layers=2, dim=32, heads=2, vocabulary=300, max_tokens=48)
WORDS = ("effusion", "pneumonia", "edema", "cardiomegaly", "pneumothorax", "atelectasis")


@dataclass
class WordKnowledgeBase:
    """Just what a method uses of :class:`mlip.knowledge.Knowledge`: vectors, and linking by the word itself."""

    embeddings: torch.Tensor

    def affirmed(self, text: str) -> list[int]:
        return [i for i, word in enumerate(WORDS) if word in text.lower()]


def build(
    name: str, kind: str = "cnn", components: dict[str, bool] | None = None, params: dict[str, Any] | None = None
) -> Method:
    """The method of ``mlip/<name>`` with toy encoders, its ``smoke`` recipe and the given overrides."""
    folder = ROOT / "mlip" / name
    manifest = read_manifest(folder)
    values = {key: spec.value for key, spec in manifest.parameters.items()} | manifest.recipes["smoke"].params
    switches = {key: spec.default for key, spec in manifest.components.items()}
    torch.manual_seed(0)
    tokenizer = train_tokenizer([r.text for r in REPORTS], TEXT.vocabulary, TEXT.max_tokens)
    context = MethodContext(
        ImageEncoder(CNN if kind == "cnn" else VIT, kind, SIZE),
        TextEncoder(TEXT, tokenizer.vocabulary),
        tokenizer,
        WordKnowledgeBase(torch.randn(40, 16)),
        values | (params or {}),
        switches | (components or {}),
    )
    return method_class(folder)(context)


def make_batch(method: Method, step: int = 0) -> Batch:
    """Six pairs; everything depends on ``step`` only."""
    rng = generator("test-text", step)
    texts = [method.text_view(report, rng) for report in REPORTS]
    return Batch(
        images=torch.rand(len(texts), 3, SIZE, SIZE, generator=torch_generator("test-images", step)) * 2 - 1,
        texts=texts,
        tokens=method.tokenizer(texts),
        reports=REPORTS,
        patients=torch.arange(len(texts)),
        entities=torch.tensor(ENTITIES),
        epoch=0,
        step=step,
        epochs=1,
        generator=torch_generator("test-method", step),
    )


def total(method: Method, terms: dict[str, torch.Tensor]) -> torch.Tensor:
    """The training loss, as ``mlip.pretraining.loop`` forms it."""
    weights = method.loss_weights()
    return torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
