"""Mixed precision: the encoders compute in bfloat16, what compares pairs in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from mlip.contract import Method
from mlip.pretraining.gradients import Gradients
from mlip.run.contract.world import tiny_batch
from tests.methods import build, total

METHODS = {"convirt": "cnn", "gloria": "cnn", "mgca": "cnn", "cvpr24": "cnn", "isbi24": "vit"}


class Watch(TorchFunctionMode):
    """The dtypes of all floating-point tensors that torch's functions are given, by function; not in ``Method.networks``."""

    def __init__(self) -> None:
        self.seen: dict[str, set[torch.dtype]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _pytree.tree_leaves((args, kwargs))
        dtypes = {x.dtype for x in given if isinstance(x, Tensor) and x.is_floating_point()}
        if not torch.is_autocast_enabled("cpu"):
            self.seen.setdefault(getattr(func, "__name__", str(func)), set()).update(dtypes)
        return func(*args, **(kwargs or {}))


def _watched(method: Method) -> Watch:
    """Let ``objective`` be watched."""
    watch, objective = Watch(), method.objective

    def watching(representations: dict[str, Tensor], batch: Any) -> dict[str, Tensor]:
        with watch:
            return objective(representations, batch)

    method.objective = watching  # type: ignore[method-assign]
    return watch


def _activations(method: Method) -> list[torch.dtype]:
    image: Any = method.image_encoder.model
    text: Any = method.text_encoder.model
    block = image.blocks[0].attn.qkv if method.image_encoder.kind == "vit" else image.layer1[0].conv1
    seen: list[torch.dtype] = []
    for module in (block, text.encoder.layer[0].attention.self.query):
        module.register_forward_hook(lambda _m, _x, out: seen.append(out.dtype))
    return seen


@pytest.mark.parametrize("precision,inside", [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
@pytest.mark.parametrize("name", METHODS)
def test_encoders_take_the_precision_and_objectives_do_not(name: str, precision: Any, inside: torch.dtype) -> None:
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision, plugins=[LightningEnvironment()])
    method = build(name, METHODS[name]).train()
    watch, seen = _watched(method), _activations(method)
    gradients = Gradients(fabric, method)
    loss, terms = gradients.backward(tiny_batch(method), lambda found: total(method, found))
    in_training = list(seen)
    assert {*in_training} == {inside} and torch.isfinite(loss)
    assert all(p.grad is None or p.grad.dtype is torch.float32 for p in method.parameters())
    gradients.terms(tiny_batch(method))  # the validation
    assert {*seen[len(in_training) :]} == {inside}
    assert watch.seen[functional.cross_entropy.__name__] == {torch.float32}
    halves = {f for f, dtypes in watch.seen.items() if dtypes & {torch.bfloat16, torch.float16}}
    assert halves <= {"to"}  # what a network of the objective gave is made float32
    assert {term.dtype for term in terms.values()} == {torch.float32}
    if name == "mgca":  # whose token alignment is computed pair by pair, with the encoders
        with fabric.autocast():
            found = method.represent(tiny_batch(method))
        assert found["cta_words"].dtype is found["cta_patches"].dtype is torch.float32
        assert found["image"].dtype is inside
