"""Linear classifiers on frozen features: penalised logistic regression (ours), and AdamW as in the MGCA code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from mlip.seeding import seed_for

_GRADIENT = 1e-6  # largest slope left, in scaled weights: probabilities are then within .01 of the exact ones
_PATIENCE = 2  # strengths in a row that may be worse than the best


class Logistic(BaseModel):
    """Logistic regression minimising mean log loss + strength/2 * ||w||^2 (intercept free) by L-BFGS."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["logistic"]
    strengths: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, description="the grid, same for all methods")
    fallback: float = Field(gt=0, description="strength where a class has too few patients to hold any out")
    folds: int = Field(ge=2)
    single_fold_above: int = Field(gt=0, description="with more training rows, one fold is held out once")
    max_iter: int = Field(1000, gt=0)


class AdamW(BaseModel):
    """A linear layer trained by AdamW on raw features, stopped early on the validation loss."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["adamw"]
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    batch_size: int = Field(gt=0)
    epochs: int = Field(gt=0)
    patience: int = Field(gt=0)


def standardise(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Zero mean and unit deviation per feature on ``train`` [n, D]; the others are moved by the same numbers."""
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    deviation[deviation < 1e-8] = 1.0
    return [(x - mean) / deviation for x in (train, *others)]


def principal_axes(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Coordinates [., r] of all rows along the principal axes of ``train`` [n, D], r <= min(n, D).

    The penalised optimum lies in the row space of ``train`` (representer theorem) and the penalty knows no direction, so
    predictions are unchanged; where n < D the fits are smaller, and along these axes they need few steps. Axes of less
    than 1e-12 of the largest variance are rounding and are left out.
    """
    from scipy.linalg import eigh

    count, width = train.shape
    # The smaller of the two products: a third of the time of a singular value decomposition at 1400 x 1280.
    variance, axes = eigh(train @ train.T if count < width else train.T @ train)
    kept = variance > 1e-12 * max(float(variance[-1]), 1e-300)
    axes = axes[:, kept]
    if count < width:
        axes = train.T @ (axes / np.sqrt(variance[kept]))
    return [x @ axes for x in (train, *others)]


def patient_folds(y: np.ndarray, patients: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray | None:
    """Fold number of each row [n]: patients stay whole, and each fold gets its share of every class's patients.

    A patient counts for the rarest class among the rows. None where some class has fewer than two patients.
    """
    counts = np.bincount(y)
    # By first appearance, not sorted: identifiers are salted hashes, and a fold must not depend on the salt.
    index, names = pd.factorize(patients)
    rarity = np.argsort(np.argsort(counts, kind="stable"), kind="stable")  # 0 = rarest class
    group = np.full(len(names), len(counts))
    np.minimum.at(group, index, rarity[y])
    sizes = np.bincount(group, minlength=len(counts))
    folds = min(folds, int(sizes.min()))
    if folds < 2:
        return None
    order = rng.permutation(len(names))
    order = order[np.argsort(group[order], kind="stable")]
    fold = np.empty(len(names), dtype=np.int64)
    fold[order] = np.arange(len(names)) % folds
    return fold[index]


@dataclass(frozen=True)
class Linear:
    """A fitted classifier: one output for two classes, else one per class."""

    weights: np.ndarray  # [r, outputs]
    intercept: np.ndarray  # [outputs]

    def log_probabilities(self, x: np.ndarray) -> np.ndarray:
        """[n, r] -> [n, classes]."""
        from scipy.special import log_expit, log_softmax

        logits = x @ self.weights + self.intercept
        if logits.shape[1] == 1:
            return log_expit(np.hstack([-logits, logits]))
        return log_softmax(logits, axis=1)

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """[n, r] -> [n, classes], each row sums to 1."""
        return np.exp(self.log_probabilities(x))


def logistic_path(x: np.ndarray, y: np.ndarray, strengths: Sequence[float], max_iter: int) -> Iterator[Linear]:
    """The minimum of mean log loss + strength/2 * ||w||^2 (intercept free) for each strength, from strong to weak.

    ``x`` [n, r] along principal axes, ``y`` [n] class numbers 0..K-1, each present. Two classes have one output, several a
    symmetric softmax, as in scikit-learn's ``LogisticRegression``, whose L-BFGS stops far from the minimum of a weak penalty.
    Here weights are scaled axis by axis by the root of the curvature, which takes few steps; each strength starts from the
    one before.

    Raises
    ------
    RuntimeError : a fit does not converge within ``max_iter`` steps.
    """
    from scipy.optimize import minimize
    from scipy.special import expit, softmax

    count, classes = len(y), int(y.max()) + 1
    two = classes == 2
    answers = (y[:, None] == (np.array([1]) if two else np.arange(classes))).astype(np.float64)
    curvature = (1 - 1 / classes) / classes * np.einsum("nr,nr->r", x, x)[:, None] / count
    model = Linear(np.zeros((x.shape[1], answers.shape[1])), np.zeros(answers.shape[1]))
    for strength in strengths:
        scale = np.sqrt(curvature + strength)

        def objective(
            parameters: np.ndarray, strength: float = strength, scale: np.ndarray = scale
        ) -> tuple[float, np.ndarray]:
            scaled = parameters.reshape(-1, answers.shape[1])
            weights = scaled[:-1] / scale
            logits = x @ weights + scaled[-1]
            if two:
                total, p = np.logaddexp(0, logits).sum(), expit(logits)
            else:
                peak = logits.max(axis=1, keepdims=True)
                total, p = (peak[:, 0] + np.log(np.exp(logits - peak).sum(axis=1))).sum(), softmax(logits, axis=1)
            value = (total - (answers * logits).sum()) / count + strength / 2 * (weights**2).sum()
            residual = (p - answers) / count
            slope = np.vstack([(x.T @ residual + strength * weights) / scale, residual.sum(axis=0)])
            return float(value), slope.ravel()

        start = np.vstack([model.weights * scale, model.intercept]).ravel()
        options = {"maxiter": max_iter, "maxfun": 10 * max_iter, "gtol": _GRADIENT, "ftol": 0.0}
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        if not found.success:
            raise RuntimeError(f"a logistic regression of strength {strength:g} did not converge: {found.message}")
        scaled = found.x.reshape(-1, answers.shape[1])
        model = Linear(scaled[:-1] / scale, scaled[-1])
        yield model


def choose_strength(
    x: np.ndarray, y: np.ndarray, patients: np.ndarray, settings: Logistic, rng: np.random.Generator
) -> float:
    """The strength of least log loss over folds of the training rows themselves, by patient; of equal ones the strongest.

    The grid is gone through from strong to weak until two strengths in a row are worse than the best one so far: weaker
    ones only fit the training rows more closely, and cost most.
    """
    grid = sorted(settings.strengths, reverse=True)
    folds = patient_folds(y, patients, settings.folds, rng)
    if folds is None:
        return settings.fallback
    held_out = [folds == f for f in range(1 if len(y) > settings.single_fold_above else int(folds.max()) + 1)]
    if any(len(np.unique(y[~held])) < len(np.unique(y)) for held in held_out):
        return settings.fallback  # all rows of a class sit with patients of a rarer one
    paths = [logistic_path(x[~held], y[~held], grid, settings.max_iter) for held in held_out]
    losses: list[float] = []
    for models in zip(*paths, strict=True):
        losses.append(sum(_loss(m, x[held], y[held]) for m, held in zip(models, held_out, strict=True)))
        if len(losses) > int(np.argmin(losses)) + _PATIENCE:
            break
    return grid[int(np.argmin(losses))]


def _loss(model: Linear, x: np.ndarray, y: np.ndarray) -> float:
    return float(-model.log_probabilities(x)[np.arange(len(y)), y].sum())


def adamw_probe(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    test: np.ndarray,
    settings: AdamW,
    classes: int,
    *names: object,
) -> np.ndarray:
    """Probabilities of the test rows [n, outputs] from the weights of least validation loss.

    MGCA ``ssl_finetuner.py``: cross-entropy where ``y`` is [n] class numbers, else binary cross-entropy over ``y``
    [n, labels]; AdamW with its default betas, no schedule. ``names`` seed the layer and the order of the batches.
    """
    import torch
    from torch.nn import functional

    several = train[1].ndim == 1
    dtype = torch.int64 if several else torch.float32
    (x, y), (xv, yv) = (
        (torch.as_tensor(a, dtype=torch.float32), torch.as_tensor(b, dtype=dtype)) for a, b in (train, validation)
    )
    loss_of = functional.cross_entropy if several else functional.binary_cross_entropy_with_logits
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(*names))
        head = torch.nn.Linear(x.shape[1], classes)
        optimiser = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        # The last incomplete batch is dropped, as in the lineage, unless that would leave nothing to train on.
        full = max(len(x) // settings.batch_size, 1)
        best, best_weights, waited = float("inf"), {k: v.clone() for k, v in head.state_dict().items()}, 0
        for _ in range(settings.epochs):
            order = torch.randperm(len(x))
            for index in order.split(settings.batch_size)[:full]:
                optimiser.zero_grad()
                loss_of(head(x[index]), y[index]).backward()
                optimiser.step()
            with torch.no_grad():
                held_out = float(loss_of(head(xv), yv))
            if held_out < best:
                best, best_weights, waited = held_out, {k: v.clone() for k, v in head.state_dict().items()}, 0
            else:
                waited += 1
                if waited >= settings.patience:
                    break
        head.load_state_dict(best_weights)
        with torch.no_grad():
            logits = head(torch.as_tensor(test, dtype=torch.float32))
            return (logits.softmax(dim=1) if several else logits.sigmoid()).double().numpy()
