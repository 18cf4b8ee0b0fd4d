"""``make bench-gpu``: how fast the five methods train on this machine's GPU, and how much of what it can do they use.

ResNet-50 (``isbi24``: ViT-B/16) at 224 pixels and a BERT of base size, bf16-mixed, each with the image network as it is and
compiled. Prints samples per second, peak memory, the share of the device's bf16 peak (model FLOP utilisation) and the share
of a step that goes into making its batch. Without a GPU it says so and exits with 2.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment

from mlip.contract import Batch, Method, MethodContext
from mlip.data.pixels import augment, load, to_tensor
from mlip.encoders.image import ImageEncoder
from mlip.encoders.text import TextEncoder
from mlip.errors import UserError
from mlip.knowledge.entities import build_knowledge
from mlip.manifest import read_manifest
from mlip.methods import method_class, method_folders
from mlip.pretraining.cost import counted
from mlip.pretraining.gradients import Gradients
from mlip.seeding import generator, seed_everything, torch_generator
from mlip.study import ImageEncoderConfig, KnowledgeConfig, TextEncoderConfig
from mlip.text.reports import parse_report
from mlip.text.tokenisation import train_tokenizer

METHODS: dict[str, Literal["cnn", "vit"]] = {
    "convirt": "cnn", "gloria": "cnn", "mgca": "cnn", "cvpr24": "cnn", "isbi24": "vit"
}  # fmt: skip
# Dense bf16 operations per second by the makers' data sheets; the first name that the device's contains counts.
PEAKS = {
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12,
    "A10": 125e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip
SENTENCES = (
    "Heart size is at the upper limit of normal", "There is a small left pleural effusion", "No pneumothorax is seen",
    "A right internal jugular line ends in the superior vena cava", "Patchy opacity in the right lower lobe may be pneumonia",
    "The mediastinal and hilar contours are unremarkable", "Mild pulmonary vascular congestion", "No acute fracture",
    "Linear atelectasis at the left base", "The lungs are otherwise clear",
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """What is trained; the default is what papers train."""

    cnn: ImageEncoderConfig = field(default_factory=lambda: ImageEncoderConfig(name="resnet50"))
    vit: ImageEncoderConfig = field(default_factory=lambda: ImageEncoderConfig(name="vit_base_patch16_224"))
    text: TextEncoderConfig = field(
        default_factory=lambda: TextEncoderConfig(layers=12, dim=768, heads=12, max_tokens=112)
    )
    vocabulary: int = 28996
    side: int = 224
    batch: int = 144
    films: int = 4096
    warm: int = 5
    steps: int = 20


@dataclass(frozen=True)
class Measured:
    seconds: float  # of a step, without making its batch
    loading: float  # seconds of making a batch
    memory: int  # bytes


def build(name: str, sizes: Sizes) -> Method:
    """The method with its ``paper`` recipe's parameters, with random weights."""
    folder = method_folders()[name]
    manifest = read_manifest(folder)
    params = {key: spec.value for key, spec in manifest.parameters.items()} | manifest.recipes["paper"].params
    switches = {key: spec.default for key, spec in manifest.components.items()}
    tokenizer = train_tokenizer([f"{s} ." for s in SENTENCES], 400, sizes.text.max_tokens)
    knowledge = build_knowledge(KnowledgeConfig(epochs=1), 0) if "knowledge" in manifest.capabilities else None
    seed_everything("bench-gpu", name)
    image = ImageEncoder(getattr(sizes, METHODS[name]), METHODS[name], sizes.side)
    text = TextEncoder(sizes.text, sizes.vocabulary)
    return method_class(folder)(MethodContext(image, text, tokenizer, knowledge, params, switches))


def batches(method: Method, sizes: Sizes, folder: Path) -> Callable[[int], Batch]:
    """Batches as a training makes them: films out of a memory map, augmented; reports, tokenised."""
    path = folder / "images.npy"
    store = np.lib.format.open_memmap(path, "w+", np.uint8, (sizes.films, sizes.side, sizes.side))
    store[:] = generator("bench-gpu").integers(0, 255, (1, sizes.side, sizes.side), dtype=np.uint8)
    knowledge = getattr(method, "knowledge", None)

    def make(step: int) -> Batch:
        rng, draw = generator("bench-gpu", step), torch_generator("bench-gpu", step)
        rows = rng.permutation(sizes.films)[: sizes.batch]
        images = augment(to_tensor(load(store, rows)), draw)
        raw = [" . ".join(rng.permutation(SENTENCES)[: rng.integers(4, len(SENTENCES))]) for _ in rows]
        reports = [parse_report(f"FINDINGS: {text} .") for text in raw]
        texts = [method.text_view(report, rng) for report in reports]
        linked = [knowledge.affirmed(text) if knowledge else [] for text in texts]
        patients = torch.arange(len(rows))
        return Batch.of(method, reports, texts, linked, images, patients, draw, step=step, epochs=2)

    return make


def measure(method: Method, make: Callable[[int], Batch], sizes: Sizes, fabric: Fabric) -> Measured:
    """Mean over ``sizes.steps`` optimiser steps after ``sizes.warm`` others."""
    method.train().to(fabric.device)
    gradients = Gradients(fabric, method)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-5, fused=True)

    def total(terms: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = method.loss_weights()
        return torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()

    def step(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = gradients.backward(batch, total)
        optimizer.step()
        loss.item()  # waits for the device

    for number in range(sizes.warm):
        step(make(number))
    if fabric.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    loading = computing = 0.0
    for number in range(sizes.warm, sizes.warm + sizes.steps):
        started = time.perf_counter()
        batch = make(number)
        made = time.perf_counter()
        step(batch)
        loading, computing = loading + made - started, computing + time.perf_counter() - made
    memory = torch.cuda.max_memory_allocated() if fabric.device.type == "cuda" else 0
    return Measured(computing / sizes.steps, loading / sizes.steps, memory)


def flops(method: Method, batch: Batch, fabric: Fabric) -> int:
    """Of a step of the network as it is; a compiled one does the same."""
    return counted(
        lambda: Gradients(fabric, method).backward(batch, lambda terms: torch.stack([*terms.values()]).sum())
    )


def compile_image(method: Method) -> None:
    """Compile what the methods call of the image network."""
    model: Any = method.image_encoder.model
    if method.image_encoder.kind == "vit":
        model.blocks.compile()
    else:
        model.forward_intermediates = torch.compile(model.forward_intermediates)


def main(sizes: Sizes | None = None) -> None:
    if not torch.cuda.is_available():
        print("this machine has no GPU that PyTorch can use: nothing was measured", file=sys.stderr)
        sys.exit(2)
    sizes, device = sizes or Sizes(), torch.cuda.get_device_name()
    peak = next((value for name, value in PEAKS.items() if name in device), None)
    if not torch.cuda.is_bf16_supported():
        raise UserError(f"{device} has no bf16", fix="measure on another GPU")
    print(f"{device}, batch {sizes.batch}, {sizes.side} px, bf16-mixed")
    print("| method | encoder | image network | samples/s | peak memory | FLOP utilisation | loader's share |")
    print("|---|---|---|---|---|---|---|")
    fabric = Fabric(accelerator="cuda", devices=[0], precision="bf16-mixed", plugins=[LightningEnvironment()])
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in METHODS.items():
            for how in ("eager", "compiled"):
                method = build(name, sizes).train().to(fabric.device)
                make = batches(method, sizes, Path(folder))
                work = flops(method, make(0), fabric)
                method.zero_grad(set_to_none=True)
                if how == "compiled":
                    compile_image(method)
                found = measure(method, make, sizes, fabric)
                share = f"{work / found.seconds / peak:.0%}" if peak else "peak unknown"
                rate = sizes.batch / (found.seconds + found.loading)
                loader = found.loading / (found.seconds + found.loading)
                encoder = getattr(sizes, kind).name
                print(
                    f"| {name} | {encoder} | {how} | {rate:.0f} | {found.memory / 2**30:.1f} GiB | {share} | {loader:.0%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
