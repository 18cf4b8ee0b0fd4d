"""Checks of a method's weights: how they begin, what is written, and what is read back."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_model, save_file, save_model
from torch import Tensor

from mlip.contract import Method
from mlip.run.contract.subject import Subject, same
from mlip.run.contract.text import TEXTS
from mlip.run.contract.world import image_encoder
from mlip.seeding import seed_everything


def check_method_builds(subject: Subject) -> None:
    """The class builds from encoders, tokenizer, knowledge, and the parameters and switches of ``method.yaml``."""
    method = subject.fresh()
    for name in ("image_encoder", "text_encoder", "tokenizer"):
        if not hasattr(method, name):
            raise subject.refusal(name, f"has no {name}", "call super().__init__(context) and keep what it sets")


def check_same_seed_gives_the_same_weights(subject: Subject) -> None:
    """Two builds from the same seed have the same weights."""
    one, again = subject.fresh().state_dict(), subject.fresh().state_dict()
    if moved := [name for name in one if name not in again or not torch.equal(one[name], again[name])]:
        raise subject.refusal(
            moved[0].split(".")[0],
            f"{moved[0]} begins with other weights each time",
            "draw initial weights from torch's global state, which the build seeds",
        )


def check_image_encoder_is_exported(subject: Subject) -> None:
    """``image_encoder.model`` has the tensors of the study's encoder, which the transfer tasks load strictly."""
    method = subject.fresh()
    of_checkpoint = subject.entry.manifest.start == "weights"  # whose network its own configuration describes
    fresh = subject.fresh().image_encoder if of_checkpoint else image_encoder(subject.entry, subject.study)
    with _refused(subject, "image_encoder", "keep self.image_encoder as given; put a network of your own beside it"):
        state = {key: value.contiguous() for key, value in method.image_encoder.model.state_dict().items()}
        with tempfile.TemporaryDirectory() as folder:
            save_file(state, Path(folder) / "encoder.safetensors")
        fresh.model.load_state_dict(state, strict=True)


def check_weights_load_strictly(subject: Subject) -> None:
    """What is written after a training step is read back strictly and gives the same features."""
    method = subject.fresh()
    if subject.entry.trained:
        method.train()
        seed_everything("contract-steps")
        method.losses(subject.batch(method))
    again = subject.fresh()
    before = _features(subject, method.eval())
    with (
        tempfile.TemporaryDirectory() as folder,
        _refused(subject, "__init__", "make every parameter and buffer in __init__, with shapes known there"),
    ):
        save_model(method, str(Path(folder) / "method.safetensors"))
        load_model(again, Path(folder) / "method.safetensors", strict=True)
    after = _features(subject, again.eval())
    if changed := [name for name in before if not same(before[name], after[name])]:
        raise subject.refusal(
            "__init__",
            f"{' and '.join(changed)} change when the weights are written and read back",
            "keep what training changes in parameters or in buffers (register_buffer)",
        )


@contextmanager
def _refused(subject: Subject, name: str, fix: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, AttributeError, ValueError) as error:
        words = " ".join(str(error).split())
        raise subject.refusal(name, words if len(words) < 200 else f"{words[:200]}...", fix) from error


def _features(subject: Subject, method: Method) -> dict[str, Tensor]:
    with torch.no_grad():
        if subject.entry.manifest.looked_up:
            return {name: value for name, value in method.named_buffers() if name.count(".") == 0}
        image = method.encode_image(subject.images)
        found = {"pooled": image.pooled, "the images' joint": image.joint}
        if {"zero_shot", "retrieval"} & set(subject.entry.capabilities):
            found["the texts' joint"] = method.encode_text(TEXTS).joint
    return found
