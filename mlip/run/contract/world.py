"""Toy encoders, reports and batches on which a method is examined in seconds."""

from __future__ import annotations

import copy
import tempfile
from functools import cache
from pathlib import Path

import torch

from mlip.contract import Batch, Method, MethodContext
from mlip.encoders.image import ImageEncoder
from mlip.encoders.text import TextEncoder
from mlip.knowledge.entities import Knowledge, build_knowledge
from mlip.methods import Entry, method_class
from mlip.seeding import generator, seed_everything, torch_generator
from mlip.study import NORMALISATIONS, ImageEncoderConfig, KnowledgeConfig, Study, TextEncoderConfig
from mlip.text.reports import Report, parse_report
from mlip.text.tokenisation import Tokenizer, train_tokenizer

SIZE = 48  # pixels a side, where a method declares no size of its own
REPORTS = [
    "FINDINGS: There is a small left pleural effusion. The heart is normal in size. IMPRESSION: Small left pleural effusion.",
    "FINDINGS: Right lower lobe consolidation. No pneumothorax. IMPRESSION: Right lower lobe pneumonia.",
    "FINDINGS: The lungs are clear. There is no pneumothorax or effusion. IMPRESSION: No acute process.",
    "FINDINGS: Moderate cardiomegaly. Mild pulmonary edema. IMPRESSION: Cardiomegaly with mild edema.",
    "FINDINGS: Large right pneumothorax. A chest tube is in place. IMPRESSION: Right pneumothorax.",
    "FINDINGS: Linear atelectasis at the left base. Otherwise clear. IMPRESSION: Left basilar atelectasis.",
    "IMPRESSION: Possible nodule in the right upper lobe. Recommend follow-up.",
    "FINDINGS: Bilateral effusions, unchanged. IMPRESSION: Stable bilateral pleural effusions.",
]
ENTITIES: list[list[int]] = [[0, 1], [2], [], [3, 4], [5], [1], [], [0]]


def image_size(entry: Entry, study: Study | None = None) -> int:
    """Side of the toy images: that of a row's checkpoint, or of its study; of a method ``encoders.input_size`` where
    ``method.yaml`` declares one, else :data:`SIZE`.
    """
    own = entry.weights.input_size if entry.weights else None
    return own or (study.input_side if study else None) or entry.manifest.encoders.input_size or SIZE


def image_encoder(entry: Entry, study: Study | None = None) -> ImageEncoder:
    """A tiny ResNet, or a tiny ViT of 4 x 4 patches, for images of :func:`image_size`; of a study's row its own."""
    size = image_size(entry, study)
    if study is not None and entry.weights is not None:
        grey = entry.weights.grey or NORMALISATIONS["half"]
        return ImageEncoder(entry.image_config(study), entry.encoder, size, grey=grey, where=entry.weights_key)
    config = (
        ImageEncoderConfig(name="resnet", args={"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]})
        if entry.encoder == "cnn"
        else ImageEncoderConfig(name="vit", args={"patch_size": size // 4, "embed_dim": 32, "depth": 2, "num_heads": 2})
    )
    return ImageEncoder(config, entry.encoder, size)


def tiny_method(entry: Entry, kind: type[Method] | None = None, study: Study | None = None) -> Method:
    """The method with toy encoders, as the contract suite and the tests build it; always with the same weights.

    Parameters
    ----------
    kind : the method's class where it is not to be read from the entry's folder.
    study : of a row with a checkpoint, which is then built and loaded as in this study. A method that is nothing but a
        checkpoint is given its own example otherwise.
    """
    kind = kind or method_class(entry.folder)
    seed_everything("contract", entry.name)
    text = TextEncoderConfig(layers=2, dim=32, heads=2, vocabulary=300, max_tokens=48)
    tokenizer = _tokenizer(text.vocabulary, text.max_tokens)
    if study is not None and (pretrained := study.encoders.text.pretrained):
        text = study.encoders.text
        tokenizer = Tokenizer.pretrained(pretrained, text.max_tokens)
    context = MethodContext(
        image_encoder(entry, study),
        TextEncoder(text, tokenizer.vocabulary),
        tokenizer,
        tiny_knowledge() if "knowledge" in entry.manifest.capabilities else None,
        dict(entry.params),
        dict(entry.components),
    )
    if study is None and entry.manifest.start != "weights":
        return kind(context)
    with tempfile.TemporaryDirectory() as folder:
        weights = entry.weights or kind.example_weights(entry.encoder, Path(folder))
        context.weights, context.key, context.hashed = weights, entry.weights_key, lambda raw: [raw]
        context.released = entry.manifest.released
        method = kind(context)
        if weights is not None:
            method.load_weights(weights, entry.weights_key)
        return method


def tiny_knowledge() -> Knowledge:
    """The chest graph with embeddings of width 16 after one epoch; built once, and each caller has its own vectors."""
    knowledge = copy.copy(_knowledge())
    knowledge.embeddings = knowledge.embeddings.clone()
    return knowledge


@cache
def _knowledge() -> Knowledge:
    return build_knowledge(KnowledgeConfig(dim=16, epochs=1), 0)


@cache
def _tokenizer(vocabulary: int, max_tokens: int) -> Tokenizer:
    return train_tokenizer([r.text for r in reports()], vocabulary, max_tokens)


def reports() -> list[Report]:
    return [parse_report(raw) for raw in REPORTS]


def tiny_batch(method: Method, step: int = 0, size: int = SIZE) -> Batch:
    """Eight made-up pairs; the same for the same step."""
    parsed, rng = reports(), generator("contract-text", step)
    texts = [method.text_view(report, rng) for report in parsed]
    draw = torch_generator("contract-images", step)
    images = torch.rand(len(parsed), 3, size, size, generator=draw) * 2 - 1
    patients = torch.arange(len(parsed))
    return Batch.of(
        method, parsed, texts, ENTITIES, images, patients, torch_generator("contract-method", step), step=step
    )
