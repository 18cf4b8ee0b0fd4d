"""A toy training, and losses at given seeds, for the checks of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from timm.layers import DropPath, PatchDropout
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mlip.contract import Method
from mlip.run.contract.subject import EPOCHS, Subject
from mlip.seeding import seed_everything


@dataclass(frozen=True)
class Training:
    """What three optimiser steps have shown."""

    terms: frozenset[str]  # the names that `losses` returned
    trained: list[str]  # parameters with requires_grad
    silent: list[str]  # those that never had a gradient; of matrices: one that is not zero everywhere
    broken: list[str]  # those with a gradient, or afterwards a value, that is not finite


@lru_cache(maxsize=64)
def toy_training(subject: Subject) -> Training:
    """Three steps of AdamW, one per epoch, as the training loop takes them.

    A vector may have zero gradients by construction (a bias before a batch norm), and a residual branch that starts at
    zero passes none in the first step.
    """
    method = subject.fresh().train()
    seed_everything("contract-steps")
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3) if trained else None
    silent, broken, names = set(trained), set(), set()
    for step in range(EPOCHS):
        batch = subject.batch(method, step)
        terms, weights = method.losses(batch), method.loss_weights()
        names |= set(terms)
        total = torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
        if optimizer is None or not total.requires_grad:
            continue
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        for name, p in trained.items():
            if p.grad is not None:
                if p.ndim < 2 or bool((p.grad != 0).any()):
                    silent.discard(name)
                if not bool(torch.isfinite(p.grad).all()):
                    broken.add(name)
        if broken:  # the weights would be NaN, and with them every later gradient
            break
        method.on_backward(batch)
        optimizer.step()
    broken |= {name for name, p in trained.items() if not bool(torch.isfinite(p).all())}
    return Training(frozenset(names), list(trained), [n for n in trained if n in silent], sorted(broken))


def losses_at(subject: Subject, seed: int, dropout: bool = True) -> dict[str, Tensor]:
    """The losses of the first batch in train mode while the global generators stand at ``seed``."""
    method = subject.fresh().train()
    batch = subject.batch(method)
    seed_everything("contract-global", seed)
    with torch.no_grad():
        if dropout:
            return method.losses(batch)
        with _without_dropout(method):
            return method.losses(batch)


class _NoDropout(TorchFunctionMode):
    """Dropout passes its input through, wherever it is called from: the training loop seeds it by step, so it may draw."""

    PLAIN = (
        functional.dropout,
        functional.dropout1d,
        functional.dropout2d,
        functional.dropout3d,
        functional.alpha_dropout,
        functional.feature_alpha_dropout,
        torch.dropout,
        torch.feature_dropout,
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self.PLAIN:
            return args[0] if args else kwargs["input"]
        if func is functional.scaled_dot_product_attention:
            args, kwargs = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args, {**kwargs}
            if "dropout_p" in kwargs:
                kwargs["dropout_p"] = 0.0
        elif func is functional.multi_head_attention_forward:
            kwargs["training"] = False
        return func(*args, **kwargs)


@contextmanager
def _without_dropout(method: Method) -> Iterator[None]:
    for module in method.modules():
        if isinstance(module, DropPath | PatchDropout | nn.modules.dropout._DropoutNd):
            module.eval()
    with _NoDropout():
        yield
