"""Training of a head on frozen features: drawn batches, AdamW, optional selection on validation images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils import deterministic as torch_deterministic

from benchmarks.tasks.shared.dense.protocol import DenseProtocol, at_fraction
from benchmarks.tasks.shared.task import EvalJob
from mlip.errors import UserError
from mlip.log import logger
from mlip.schedules import rate


def draw_batches(
    rows: np.ndarray, positive: np.ndarray, iterations: int, size: int, balanced: bool, rng: np.random.Generator
) -> list[np.ndarray]:
    """The training rows of every iteration.

    Images come in random passes without replacement. With ``balanced``, half of each batch comes from the positive
    images and half from the negative ones, each in passes of their own; where one kind is absent, from all images.

    Parameters
    ----------
    rows : [n] training rows.
    positive : [n] bool, whether the image has a target.
    size : images per batch, at most n.
    """
    size = min(size, len(rows))
    if balanced and size > 1 and positive.any() and not positive.all():
        half = size // 2
        ones = _passes(rows[positive], iterations * half, rng).reshape(iterations, half)
        zeros = _passes(rows[~positive], iterations * (size - half), rng).reshape(iterations, size - half)
        return list(np.concatenate([ones, zeros], axis=1))
    return list(_passes(rows, iterations * size, rng).reshape(iterations, size))


def _passes(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    repeats = -(-count // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(repeats)])[:count]


@dataclass(frozen=True)
class Fitted:
    """How a training went."""

    losses: list[float]  # of every iteration
    stopped: bool  # whether it ended by itself, before the maximum

    @property
    def columns(self) -> dict[str, int | bool]:
        """As columns of the predictions, so that heads that had not converged can be counted."""
        return {"iterations": len(self.losses), "stopped": self.stopped}


NOT_TRAINED = Fitted([], True)  # a control


def fit(
    model: nn.Module,
    loss_of: Callable[[np.ndarray], Tensor],
    batches: list[np.ndarray],
    protocol: DenseProtocol,
    fraction: int,
    spacing: int,
    validate: Callable[[], float] | None = None,
    prepare: Callable[[np.ndarray], None] | None = None,
) -> Fitted:
    """Train the parameters of ``model`` that have a gradient, on at most ``batches``.

    Parameters
    ----------
    loss_of : training rows of one iteration -> scalar loss.
    spacing : iterations between two validations.
    validate : a score of the model in eval mode, higher = better; used with ``selection: best_val`` only.
    prepare : told the training rows up to the next validation, so that their maps are computed many at once.

    Raises
    ------
    UserError : the loss is not finite.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        trained,
        lr=at_fraction(protocol.lr, fraction),
        weight_decay=protocol.weight_decay,
        betas=protocol.betas,
        fused=True,
    )
    rising = round(protocol.warmup * len(batches))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: rate(step, len(batches), rising, protocol.schedule)
    )
    keeper = (
        _Best(model, protocol.patience, protocol.min_gain)
        if protocol.selection == "best_val" and validate is not None
        else None
    )
    average = _Average(model, protocol.average) if protocol.average is not None else None
    history: list[float] = []
    stopped = False
    model.train()
    for step, rows in enumerate(batches):
        if prepare is not None and step % spacing == 0:
            prepare(np.concatenate(batches[step : step + spacing]))
        loss = loss_of(rows)
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"the loss is not finite at iteration {step}",
                where=f"protocol {protocol.name}",
                fix="lower lr or set clip",
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if protocol.clip is not None:
            nn.utils.clip_grad_norm_(trained, protocol.clip)
        optimiser.step()
        scheduler.step()
        history.append(value)
        if average is not None:
            average.update()
        if keeper is not None and validate is not None and ((step + 1) % spacing == 0 or step + 1 == len(batches)):
            model.eval()
            with average.in_place() if average is not None else nullcontext():
                enough = keeper.enough(validate())
            if enough:
                stopped = step + 1 < len(batches)
                break
            model.train()
    if keeper is not None:
        model.load_state_dict(keeper.state)
    elif average is not None:
        average.exchange()
    model.eval()
    return Fitted(history, stopped)


def report(job: EvalJob, fraction: int, draw: int, fitted: Fitted) -> None:
    """Into the job's log: how long a head was trained, and whether it ended by itself."""
    how = "ended by itself" if fitted.stopped else "reached the protocol's maximum"
    logger.info(
        "%s %s seed %d, %d %% draw %d: %d iterations, %s",
        job.dataset,
        job.method,
        job.seed,
        fraction,
        draw,
        len(fitted.losses),
        how,
    )


class _Average:
    """Exponential moving average of a model's weights and of its batch norms' statistics."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.current = [t for t in model.state_dict().values() if t.is_floating_point()]
        self.average = [t.clone() for t in self.current]
        self._move = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        self._move(self.average, self.current, 0)

    def exchange(self) -> None:
        """Put the average into the model, and what was there in the average's place."""
        for average, current in zip(self.average, self.current, strict=True):
            was = current.clone()
            current.copy_(average)
            average.copy_(was)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside the block."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()


class _Best:
    """Keeps the weights with the best validation score; the first of equal ones."""

    def __init__(self, model: nn.Module, patience: int | None, min_gain: float) -> None:
        self.model, self.patience, self.min_gain = model, patience, min_gain
        self.score, self.goal, self.waited = -math.inf, -math.inf, 0
        self.state = self._copy()

    def enough(self, score: float) -> bool:
        """Take note of a score; True when patience is over."""
        self.waited += 1
        if score > self.score:
            self.score, self.state = score, self._copy()
        if score > self.goal:
            self.goal, self.waited = score + self.min_gain, 0
        return self.patience is not None and self.waited >= self.patience

    def _copy(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self.model.state_dict().items()}


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Deterministic algorithms inside the block: enforced on a CPU, warned about on a GPU (bilinear upsampling has none).

    Without torch's filling of fresh memory, which guards against operators that read it and takes a tenth of the time.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch_deterministic  # its attribute is a property that type stubs do not know
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        memory.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
