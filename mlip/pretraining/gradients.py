"""Losses and gradients of a whole batch, however it is cut: over several processes, and into chunks on each of them.

A method's ``represent`` sees some rows, its ``objective`` all of them. With chunks (GradCache, Gao et al. 2021) the
representations are first computed without a graph; the gradient of the objective in them is then led back through each chunk,
computed once more with the same random numbers. Batch norms see what one process has at once (their statistics are shared
between GPUs), and move once per chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mlip.contract import Batch, Method
from mlip.errors import UserError
from mlip.pretraining.gathering import average, average_gradients, gather, joined
from mlip.pretraining.processes import ALONE, Ranks
from mlip.seeding import seed_everything, seed_for

Terms = dict[str, Tensor]


class Gradients:
    """The losses of a method on whole batches, and their gradients in its parameters.

    Parameters
    ----------
    negatives : ``global``: the objective sees the rows of all processes. ``local``: each process' own ones, and gradients are
        averaged (MGCA's official training).
    chunk : rows of a process that are kept with their graph at once; None: all.
    checkpointing : activations are computed again in the backward pass, which must not move batch norms a second time.

    Raises
    ------
    UserError : the batch is to be cut, and the method defines ``losses`` alone.
    """

    def __init__(
        self,
        fabric: Fabric,
        method: Method,
        ranks: Ranks = ALONE,
        negatives: Literal["global", "local"] = "global",
        chunk: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        self.fabric, self.method, self.ranks, self.chunk = fabric, method, ranks, chunk
        self.local, self.checkpointing = negatives == "local" and ranks.count > 1, checkpointing
        if (ranks.count > 1 or chunk is not None) and not method.splits():
            how = f"{ranks.count} processes" if ranks.count > 1 else "chunks"
            raise UserError(
                f"{type(method).__name__} defines losses() as a whole, which cannot be cut over {how}",
                where=type(method).__module__,
                fix="define represent() and objective() instead (docs/adding-a-baseline.md), or set pretrain.devices to 1 and "
                "pretrain.chunk to null",
            )

    def backward(self, batch: Batch, total: Callable[[Terms], Tensor]) -> tuple[Tensor, Terms]:
        """Gradients of ``total(terms)`` in ``grad`` of the parameters, added to what is there; the loss and its terms.

        ``batch`` is the whole batch, the same in every process.
        """
        if self.ranks.count == 1 and not self._chunked(len(batch)):
            batch = batch.to(self.fabric.device)
            with self.fabric.autocast():
                terms = self.method.losses(batch)
            loss = total(terms)
            self._back(loss)
            return loss, terms
        part = self._own(batch)
        pieces = self._pieces(part)
        if len(pieces) == 1:
            loss, terms = self._of_all(self._represent(part), part, batch, total)
            self._back(loss)
        else:
            loss, terms = self._in_chunks(pieces, part, batch, total)
        if self.ranks.count > 1:
            average_gradients(self.method, self.ranks)
        if self.local:
            names = list(terms)
            means = average(torch.stack([loss, *(terms[name] for name in names)]), self.ranks)
            loss, terms = means[0], dict(zip(names, means[1:], strict=True))
        return loss, terms

    @torch.no_grad()
    def terms(self, batch: Batch) -> Terms:
        """The terms of a whole batch, computed by this process alone, in pieces that it could also train on."""
        size = -(-len(batch) // self.ranks.count)
        if self.local:
            shares = [self._alone(batch, first, size) for first in range(0, len(batch), size)]
            found = [self._whole(share, size) for share in shares]
            return {name: torch.stack([terms[name] for terms in found]).mean() for name in found[0]}
        return self._whole(batch, size)

    def _whole(self, batch: Batch, size: int) -> Terms:
        batch = batch.to(self.fabric.device)
        size = min(size, self.chunk or size)
        if size >= len(batch):
            with self.fabric.autocast():
                return self.method.losses(batch)
        start, parts = batch.generator.get_state(), []
        for first in range(0, len(batch), size):
            batch.generator.set_state(start)
            parts.append(self._represent(batch.rows(first, min(size, len(batch) - first))))
        with self.fabric.autocast():
            return self.method.terms(joined(parts), batch)

    # ---- the parts of a step ----------------------------------------------------------------------------------------

    def _own(self, batch: Batch) -> Batch:
        """This process' rows, on its device."""
        size = len(batch) // self.ranks.count
        return batch.rows(self.ranks.rank * size, size).to(self.fabric.device)

    def _chunked(self, rows: int) -> bool:
        return self.chunk is not None and self.chunk < rows // self.ranks.count

    def _pieces(self, part: Batch) -> list[Batch]:
        """As few as ``chunk`` allows, of about equal size: a batch norm cannot work on a single row that is left over."""
        count = -(-len(part) // (self.chunk or len(part)))
        sizes = [len(chunk) for chunk in np.array_split(np.arange(len(part)), count)]
        return [part.rows(sum(sizes[:k]), size) for k, size in enumerate(sizes)]

    def _represent(self, part: Batch) -> dict[str, Tensor]:
        with self.fabric.autocast():
            return self.method.represent(part)

    def _of_all(
        self, own: dict[str, Tensor], part: Batch, batch: Batch, total: Callable[[Terms], Tensor]
    ) -> tuple[Tensor, Terms]:
        """The loss and its terms from the representations of this process' rows."""
        if self.local:
            seen = self._alone(part, 0, len(part))
            seen.generator = torch.Generator().manual_seed(
                seed_for("local", batch.generator.initial_seed(), self.ranks.rank)
            )
        else:
            own = gather(own, self.ranks) if self.ranks.count > 1 else own
            seen = batch.without_images().to(self.fabric.device)
            if self.ranks.count > 1:  # dropout within the objective must be the same for all
                seed_everything("objective", batch.generator.initial_seed())
        with self.fabric.autocast():
            terms = self.method.terms(own, seen)
        return total(terms), terms

    @staticmethod
    def _alone(batch: Batch, first: int, size: int) -> Batch:
        """Some rows as if they were a batch of their own, as wide as they are in the whole one."""
        return replace(batch.rows(first, min(size, len(batch) - first)), first=0, whole=None)

    def _in_chunks(
        self, pieces: list[Batch], part: Batch, batch: Batch, total: Callable[[Terms], Tensor]
    ) -> tuple[Tensor, Terms]:
        start = batch.generator.get_state()
        states, parts = [], []
        with torch.no_grad(), still_statistics(self.method):
            for piece in pieces:
                states.append(_random_state(self.fabric.device))
                batch.generator.set_state(start)
                parts.append(self._represent(piece))
        after = batch.generator.get_state()
        own = joined(parts)
        leaves = {name: x.requires_grad_() for name, x in own.items() if x.is_floating_point()}
        loss, terms = self._of_all(own, part, batch, total)
        self._back(loss)
        row = 0
        for piece, state in zip(pieces, states, strict=True):
            _set_random_state(self.fabric.device, state)
            batch.generator.set_state(start)
            again = self._represent(piece)
            asked = [name for name in leaves if again[name].requires_grad and leaves[name].grad is not None]
            with self._recomputing():
                torch.autograd.backward(
                    [again[name] for name in asked], [_like(leaves[name].grad, again[name], row) for name in asked]
                )
            row += len(piece)
        batch.generator.set_state(after)
        return loss, terms

    def _back(self, loss: Tensor) -> None:
        with self._recomputing():
            self.fabric.backward(loss)

    @contextmanager
    def _recomputing(self) -> Iterator[None]:
        if not self.checkpointing:
            yield
            return
        with still_statistics(self.method):
            yield


@contextmanager
def still_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms normalise as before and leave their running mean and variance as they are."""
    moving = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]
    before = [(m.momentum, None if m.num_batches_tracked is None else m.num_batches_tracked.clone()) for m in moving]
    for norm in moving:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(moving, before, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)


def share_statistics(method: Method, ranks: Ranks, device: torch.device) -> None:
    """Let batch norms see the rows of all GPUs. PyTorch has no such layer for CPUs: there each process has its own."""
    if ranks.count > 1 and device.type == "cuda":
        convert_sync_batchnorm(method)


def checkpoint_activations(method: Method) -> None:
    """Let both encoders compute their activations again in the backward pass instead of keeping them.

    Raises
    ------
    UserError : the image encoder's model cannot.
    """
    image, text = method.image_encoder, method.text_encoder
    try:
        image.model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        raise UserError(
            f"{image.config.name!r} cannot compute its activations again", where="pretrain.activation_checkpointing",
            fix="set it to false, or take another encoder",
        ) from None  # fmt: skip
    text.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]


def _like(gradient: Tensor | None, x: Tensor, row: int) -> Tensor:
    """The rows of the joined gradient that belong to ``x``, without what was padded."""
    assert gradient is not None
    part = gradient[row : row + len(x)]
    for axis, size in enumerate(x.shape[1:], start=1):
        part = part.narrow(axis, 0, size)
    return part


def _random_state(device: torch.device) -> Any:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: Any) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
