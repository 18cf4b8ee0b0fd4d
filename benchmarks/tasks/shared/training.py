"""Training of what comes after an encoder, and of the encoder itself where a protocol says so: batches, optimiser, selection."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils import deterministic as torch_deterministic

from benchmarks.tasks.shared.state import State
from benchmarks.tasks.shared.task import EvalJob
from mlip.errors import UserError
from mlip.log import logger
from mlip.schedules import rate
from mlip.seeding import seed_everything


@dataclass(frozen=True)
class Recipe:
    """The numbers of one training. ``protocol`` names where they stand, for errors."""

    protocol: str
    lr: float
    weight_decay: float
    spacing: int  # iterations between two readings of the validation
    schedule: Literal["constant", "cosine", "linear"]
    warmup: int = 0  # iterations with a linearly rising rate
    optimiser: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9  # of sgd
    clip: float | None = None  # largest norm of the gradient
    average: float | None = None  # decay per iteration of the moving average of the weights that is read and tested
    selection: Literal["last", "best_val"] = "last"
    patience: int | None = None  # readings without improvement before stopping
    min_gain: float = 0.0


class Shuffled(Sequence[np.ndarray]):
    """The training rows of every iteration: random passes without replacement, each made when it is asked for.

    Parameters
    ----------
    rows : [n] training rows.
    size : images per batch, at most n.
    """

    def __init__(
        self, rows: np.ndarray, iterations: int, size: int, generator: Callable[..., np.random.Generator]
    ) -> None:
        self.rows, self.iterations, self.size = rows, iterations, min(size, len(rows))
        self.generator = generator
        self._passes: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.iterations

    def __getitem__(self, step: Any) -> Any:
        if isinstance(step, slice):
            return [self[k] for k in range(*step.indices(len(self)))]
        if not 0 <= step < self.iterations:
            raise IndexError(step)
        places = np.arange(step * self.size, (step + 1) * self.size)
        return np.array([self._pass(p // len(self.rows))[p % len(self.rows)] for p in places], dtype=np.int64)

    def _pass(self, number: int) -> np.ndarray:
        if number not in self._passes:
            self._passes = {k: v for k, v in self._passes.items() if k == number - 1}  # a batch may straddle two
            self._passes[number] = self.generator(number).permutation(self.rows)
        return self._passes[number]


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
    seen: int  # different films in its batches
    labelled: int  # films that it was allowed to see

    @property
    def columns(self) -> dict[str, int | bool]:
        """As columns of the predictions, so that trainings that had not converged can be counted."""
        return {"iterations": len(self.losses), "stopped": self.stopped, **self.films}

    @property
    def films(self) -> dict[str, int | bool]:
        """Whether the labels that a fraction allows were used."""
        return {"seen": self.seen, "labelled": self.labelled}


NOT_TRAINED = Fitted([], True, 0, 0)  # a control


def fit(
    model: nn.Module,
    loss_of: Callable[[np.ndarray], Tensor],
    batches: Sequence[np.ndarray],
    recipe: Recipe,
    labelled: int,
    validate: Callable[[], float] | None = None,
    prepare: Callable[[np.ndarray], None] | None = None,
    *,
    groups: list[dict[str, Any]] | None = None,
    seeds: tuple[object, ...] = (),
    state: State | None = None,
) -> Fitted:
    """Train the parameters of ``model`` that have a gradient, on at most ``batches``.

    Parameters
    ----------
    loss_of : training rows of one iteration -> scalar loss.
    labelled : how many different films the batches are drawn from.
    validate : a score of the model in eval mode, higher = better; used with ``selection: best_val`` only.
    prepare : told the training rows up to the next validation, so that their maps are computed many at once.
    groups : the optimiser's parameter groups; None: one of all parameters that have a gradient.
    seeds : names of the random choices inside an iteration (augmentation, dropout), which are seeded by its number so that
        a training that goes on after a kill is the same; (): there are none.
    state : where a training that is not done is kept; None: it begins anew.

    Raises
    ------
    UserError : the loss is not finite.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = _optimiser(groups or [{"params": trained}], recipe)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: rate(step, len(batches), recipe.warmup, recipe.schedule)
    )
    keeper = (
        _Best(model, recipe.patience, recipe.min_gain)
        if recipe.selection == "best_val" and validate is not None
        else None
    )
    average = _Average(model, recipe.average) if recipe.average is not None else None
    history: list[float] = []
    seen: set[int] = set()
    stopped, first, spacing = False, 0, recipe.spacing
    parts: dict[str, Any] = {
        "model": model,
        "optimiser": optimiser,
        "scheduler": scheduler,
        "best": keeper,
        "average": average,
    }
    if state is not None and (kept := state.load()) is not None:
        history, first, seen = kept["history"], kept["step"], set(kept["seen"])
        for name, part in parts.items():
            if part is not None:
                part.load_state_dict(kept[name])
        logger.info("%s: continues at iteration %d of %d", recipe.protocol, first, len(batches))
    model.train()
    for step in range(first, len(batches)):
        rows = batches[step]
        if prepare is not None and step % spacing == 0:
            prepare(np.concatenate(batches[step : step + spacing]))
        if seeds:
            seed_everything(*seeds, step)
        loss = loss_of(rows)
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"the loss is not finite at iteration {step}",
                where=f"protocol {recipe.protocol}",
                fix="lower lr or set clip",
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(trained, recipe.clip)
        optimiser.step()
        scheduler.step()
        history.append(value)
        seen.update(rows.tolist())
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
        if state is not None and state.due():
            whole = {name: part.state_dict() for name, part in parts.items() if part is not None}
            state.save({"step": step + 1, "history": history, "seen": sorted(seen), **whole})
    if keeper is not None:
        model.load_state_dict(keeper.state)
    elif average is not None:
        average.exchange()
    model.eval()
    return Fitted(history, stopped, len(seen), labelled)


def parameter_groups(
    encoder: Any, rest: Sequence[nn.Module], weight_decay: float, layer_decay: float | None
) -> list[dict[str, Any]]:
    """The optimiser's groups of an encoder that is trained and of what stands on it: no decay of vectors (biases, norms).

    With ``layer_decay`` the rate of each layer of the encoder is that share of the next one's (timm's order of the layers);
    what stands on the encoder has the whole rate.

    Raises
    ------
    UserError : the encoder is no model of timm's, so that nobody says what its layers are.
    """
    groups = [
        {"params": [p for module in rest for p in module.parameters() if (p.ndim > 1) == matrix], "weight_decay": decay}
        for matrix, decay in ((True, weight_decay), (False, 0.0))
    ]
    if layer_decay is None:
        made = param_groups_weight_decay(encoder, weight_decay)
    elif hasattr(getattr(encoder, "model", None), "group_matcher"):
        made = param_groups_layer_decay(encoder.model, weight_decay, layer_decay=layer_decay)
    else:
        raise UserError(
            f"layer_decay needs the order of the layers, which {type(encoder).__name__} does not say",
            where="protocol",
            fix="use an encoder of timm's, or a protocol without layer_decay",
        )
    groups += [{k: g[k] for k in ("params", "weight_decay", "lr_scale") if k in g} for g in made]
    return [g for g in groups if g["params"]]


def _optimiser(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    """Rates of the groups are shares of the recipe's where they say so (``lr_scale``)."""
    groups = [{**g, "lr": recipe.lr * g["lr_scale"]} if "lr_scale" in g else g for g in groups]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, betas=recipe.betas, fused=True)


def report(job: EvalJob, fraction: int, draw: int, fitted: Fitted, keys: str = "iterations or epochs") -> None:
    """Into the job's log: how long a training was, whether it ended by itself, and whether its labels were used.

    ``keys``: of the protocol, that say how long it may be.
    """
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
    if fitted.seen < fitted.labelled:
        logger.warning(
            "%s %s, %d %% draw %d: %d of %d labelled films were seen; if that is not what validation said, raise %s of protocol %s",
            job.dataset,
            job.method,
            fraction,
            draw,
            fitted.seen,
            fitted.labelled,
            keys,
            job.protocol_name,
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

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        for average, value in zip(self.average, kept["average"], strict=True):
            average.copy_(value)


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

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "goal": self.goal, "waited": self.waited, "state": self.state}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        self.score, self.goal, self.waited, self.state = (kept[k] for k in ("score", "goal", "waited", "state"))


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
