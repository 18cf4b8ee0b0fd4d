"""Linear classifiers on frozen features: penalised logistic regression (ours), and AdamW as in the MGCA code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from mlip.seeding import seed_for

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression


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


def span(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Coordinates in the row space of ``train`` where it has fewer rows than columns.

    The penalised optimum lies in that space (representer theorem), so predictions are unchanged and fits are cheap.
    """
    if train.shape[0] >= train.shape[1]:
        return [train, *others]
    basis = np.linalg.svd(train, full_matrices=False)[2].T
    return [x @ basis for x in (train, *others)]


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


def fit_logistic(x: np.ndarray, y: np.ndarray, strengths: Sequence[float], max_iter: int) -> list[LogisticRegression]:
    """One fitted model per strength, each started from the one before it (go from strong to weak)."""
    from sklearn import config_context  # half of the time that looking at the tasks would take
    from sklearn.linear_model import LogisticRegression

    models = []
    with config_context(assume_finite=True, skip_parameter_validation=True):
        previous = None
        for strength in strengths:
            model = LogisticRegression(C=1 / (strength * len(y)), max_iter=max_iter, warm_start=previous is not None)
            if previous is not None:
                model.classes_, model.coef_, model.intercept_ = previous.classes_, previous.coef_, previous.intercept_
            models.append(model.fit(x, y))
            previous = model
    return models


def log_losses(models: Sequence[LogisticRegression], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Summed log loss of each model on held-out rows. Classes are 0..K-1, all seen in training."""
    with np.errstate(divide="ignore"):
        return np.array([-m.predict_log_proba(x)[np.arange(len(y)), y].clip(min=-30).sum() for m in models])


def choose_strength(
    x: np.ndarray,
    y: np.ndarray,
    patients: np.ndarray,
    settings: Logistic,
    rng: np.random.Generator,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> float:
    """The strength of least held-out log loss; of equal ones the strongest.

    Held out are the ``validation`` rows where given, else folds of the training rows themselves, by patient.
    """
    grid = sorted(settings.strengths, reverse=True)
    if len(grid) == 1:
        return grid[0]
    if validation is not None:
        return grid[int(np.argmin(log_losses(fit_logistic(x, y, grid, settings.max_iter), *validation)))]
    folds = patient_folds(y, patients, settings.folds, rng)
    if folds is None:
        return settings.fallback
    total = np.zeros(len(grid))
    for fold in range(1 if len(y) > settings.single_fold_above else int(folds.max()) + 1):
        kept, held = folds != fold, folds == fold
        if len(np.unique(y[kept])) < len(np.unique(y)):
            return settings.fallback  # all rows of a class sit with patients of a rarer one
        total += log_losses(fit_logistic(x[kept], y[kept], grid, settings.max_iter), x[held], y[held])
    return grid[int(np.argmin(total))]


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
