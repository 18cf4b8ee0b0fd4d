"""False negatives (the seed's Figure 1): different patients with equal findings, whom plain InfoNCE pushes apart.

Two looks at each trained row, on held-out pairs. How close it puts such patients: cosines of image i with report j. And
what its loss does to them from where they are: how fast one step of gradient descent on the joint embeddings would raise
the cosine of a pair, for the row's own terms and, on the same embeddings, for plain InfoNCE. The findings are the data
set's labels; they are used here only and never enter a training.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tabulate import tabulate

from benchmarks.scores.statistics import interval, multiplicities
from benchmarks.scores.weighted import BLOCK, Ranked
from benchmarks.tasks.shared.features import BATCH, encode_images
from mlip.data.splits import part_rows, read_splits
from mlip.data.store import open_store
from mlip.errors import UserError
from mlip.methods import recipe_of
from mlip.paths import StudyPaths
from mlip.seeding import generator, torch_generator
from mlip.study import Study
from mlip.text.reports import Report, parse_report

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from benchmarks.plan import Plan
    from mlip.contract import Batch, Method
    from mlip.fingerprints import Fingerprint
    from mlip.knowledge.entities import Knowledge

ANALYSIS, CAPABILITY = "false_negatives", "retrieval"
NO_FINDING = {"No Finding", "Support Devices"}  # labels that say nothing of a disease
LIMIT = 256  # held-out pairs; every measure looks at their square
BATCHES = 20  # in which the losses are evaluated
TEMPERATURE = 0.07  # of plain InfoNCE, the yardstick: CLIP's and MGCA's
GROUPS = ("the true pair", "equal findings", "other findings")


def compared_rows(plan: Plan) -> list[str]:
    """Names of the rows on the page: those with a joint space, where the study asks for it and has labels."""
    labelled = any(plan.sources[name].reader.labels for name in plan.study.pretrain.datasets)
    if ANALYSIS not in plan.study.analyses or not labelled:
        return []
    return [name for name, entry in plan.rows.items() if CAPABILITY in entry.manifest.capabilities]


def fingerprint(plan: Plan) -> Fingerprint:
    """What the page depends on."""
    seed, rows = plan.study.pretrain.seeds[0], [plan.rows[name] for name in compared_rows(plan)]
    settings = [plan.study.note, plan.study.title, plan.study.pretrain.batch_size, [entry.title for entry in rows]]
    return plan.fingerprints.looked_at(ANALYSIS, [(e, seed) for e in rows], plan.study.pretrain.datasets, settings)


def write_page(plan: Plan, device: torch.device) -> None:
    """Write ``results/<study>/false_negatives.md`` from the checkpoints of the first seed.

    Raises
    ------
    UserError : a checkpoint, store or split is missing, or no two held-out patients have equal findings.
    """
    from mlip.knowledge.entities import Knowledge
    from mlip.pretraining.checkpoints import load_method

    study, paths, rows = plan.study, plan.paths, plan.rows
    seed = study.pretrain.seeds[0]
    pairs = held_out(study)
    groups = pair_groups(pairs.findings, pairs.patients)
    if not groups[1].any():
        raise UserError(
            f"no two held-out patients of {study.pretrain.datasets} have equal findings",
            where=paths.splits(study.pretrain.datasets[0]),
            fix="take false_negatives out of `analyses`, or use more films",
        )
    near, moved = [], []
    for name in compared_rows(plan):
        entry = rows[name]
        method = load_method(study, entry, seed).to(device)
        knowledge = Knowledge.load(paths.knowledge) if entry.reads_knowledge else None
        image, text = embed(method, pairs, device)
        similarity = (image @ text.T).double().cpu().numpy()
        near.append([entry.title, *_near(study, similarity, groups, pairs)])
        size = recipe_of(entry, study).batch_size if entry.manifest.trained else study.pretrain.batch_size or 48
        pulls = mean_pulls(study, method, knowledge, pairs, groups, (image, text), size)
        moved += [[entry.title, term, *_pull_cells(values)] for term, values in pulls.items()]
    paths.results.mkdir(parents=True, exist_ok=True)
    paths.false_negatives.write_text(_page(study, seed, pairs, groups, near, moved), encoding="utf-8")


def is_current(plan: Plan) -> bool:
    """Whether the page is there and is the one that today's code and configuration make."""
    path = plan.paths.false_negatives
    return bool(compared_rows(plan)) and path.is_file() and plan.is_made(ANALYSIS, (), fingerprint(plan))


def link(plan: Plan) -> str:
    """The leaderboard's line on the page, or ""."""
    name, folder = plan.paths.false_negatives.name, plan.study.study
    if not is_current(plan):
        return ""
    return f"How the rows treat different patients with equal findings: [{folder}/{name}]({folder}/{name})."


# --- pairs ------------------------------------------------------------------------------------------------------------


@dataclass
class HeldOut:
    """Pairs that no training saw: one film and report per study of the validation and test parts."""

    images: np.ndarray  # uint8 [N, S, S]
    reports: list[Report]
    findings: list[frozenset[str]]
    patients: np.ndarray  # int64 [N], equal numbers are the same patient


def held_out(study: Study) -> HeldOut:
    """At most :data:`LIMIT` pairs over the study's pre-training data sets, drawn with a fixed seed."""
    paths, found = StudyPaths(study), []
    for name in study.pretrain.datasets:
        store, splits = open_store(paths.data(name)), read_splits(paths.splits(name))
        rows = np.sort(np.concatenate([part_rows(splits, part) for part in ("val", "test")]))
        labels = [label for label in store.labels if label not in NO_FINDING]
        for row in rows[~store.records["study_id"].iloc[rows].duplicated().to_numpy()]:
            record = store.records.iloc[row]
            report = parse_report(record["report"])
            if not report.empty:
                seen = frozenset(label for label in labels if record[f"label.{label}"] == 1)
                found.append((store.images, row, report, seen, f"{name}/{record['patient_id']}"))
    if len(found) > LIMIT:
        rng = generator(study.seed, ANALYSIS, "pairs")
        found = [found[i] for i in np.sort(rng.choice(len(found), LIMIT, replace=False))]
    if not found:
        raise UserError(
            "no held-out film has a report", where=paths.splits(study.pretrain.datasets[0]), fix="see splits"
        )
    patients = pd.factorize(np.array([patient for *_, patient in found]))[0]
    images = np.stack([store[row] for store, row, *_ in found])
    return HeldOut(images, [r for *_, r, _, _ in found], [f for *_, f, _ in found], patients)


def pair_groups(findings: Sequence[Set[str]], patients: np.ndarray) -> np.ndarray:
    """bool [3, N, N] in the order of :data:`GROUPS`: image i with report i; another patient with the very same, non-empty
    set of findings; another patient with other findings. Two reports without finding are in no group.
    """
    names = [tuple(sorted(f)) for f in findings]
    codes = pd.factorize(np.array([" | ".join(n) for n in names], dtype=object))[0]
    some = np.array([bool(n) for n in names])[:, None]
    same_set = codes[:, None] == codes[None, :]
    other_patient = patients[:, None] != patients[None, :]
    return np.stack([np.eye(len(names), dtype=bool), same_set & some & other_patient, ~same_set & other_patient])


def embed(method: Method, pairs: HeldOut, device: torch.device) -> tuple[Tensor, Tensor]:
    """Joint embeddings of the films and of their whole reports, [N, E] each, of unit length."""
    import torch
    from torch.nn import functional

    texts = [report.text for report in pairs.reports]
    films = encode_images(method, pairs.images, np.arange(len(texts)), device, "held-out pairs")
    with torch.no_grad():
        image = torch.cat([features.joint for _, features in films])
        text = torch.cat(
            [method.encode_text(texts[start : start + BATCH]).joint for start in range(0, len(texts), BATCH)]
        )
        return functional.normalize(image.clone(), dim=-1), functional.normalize(text, dim=-1)


# --- how close they are -----------------------------------------------------------------------------------------------


def closeness(similarity: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Mean cosine of each group, and ``auroc``: how often a pair with equal findings is closer than one with others.

    Parameters
    ----------
    similarity : [N, N], image i with report j. groups : see :func:`pair_groups`.
    """
    means = {name: float(similarity[group].mean()) for name, group in zip(GROUPS, groups, strict=True)}
    return means | {"auroc": float(_auroc(similarity, groups, np.ones((1, len(similarity))))[0])}


def _auroc(similarity: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R] AUROC of equal against other findings, pair (i, j) weighing ``weights[r, i] * weights[r, j]``."""
    i, j = np.nonzero(groups[1] | groups[2])
    ranked = Ranked.of(groups[1][i, j], similarity[i, j], np.arange(len(i)))
    formula = ranked.statistic(
        lambda s: 1 - (s.own * (s.above() + s.fp())).sum(axis=0, dtype=float) / (2 * s.n_positive * s.n_negative)
    )
    step = max(1, BLOCK // len(i))  # resamples at once: a weight per combination and resample
    parts = [weights[k : k + step] for k in range(0, len(weights), step)]
    return np.concatenate([formula((part[:, i] * part[:, j]).T.astype(np.float32)) for part in parts])


def _near(study: Study, similarity: np.ndarray, groups: np.ndarray, pairs: HeldOut) -> list[str]:
    values = closeness(similarity, groups)
    rng = generator(study.seed, ANALYSIS, "bootstrap")
    drawn = multiplicities(int(pairs.patients.max()) + 1, study.statistics.bootstrap, rng)[pairs.patients]  # [N, R]
    low, high = interval(_auroc(similarity, groups, drawn.T), study.statistics.level)
    cells = [f"{values[name]:.3f}" for name in GROUPS]
    return [*cells, f"{100 * values['auroc']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"]


# --- what the loss does -----------------------------------------------------------------------------------------------


def pull(term: Tensor, image: Tensor, text: Tensor) -> Tensor:
    """B times the rate at which gradient descent on the embeddings raises each cosine: [B, B], negative = pushed apart.

    ``-(g_i . t_j + v_i . h_j)`` with g, h the gradients of the term in v, t, along the unit sphere.

    Parameters
    ----------
    term : a scalar function of ``image`` and ``text``, [B, E] leaves of unit length.
    """
    import torch

    steps = []
    for x, gradient in zip(
        (image, text), torch.autograd.grad(term, (image, text), retain_graph=True, materialize_grads=True), strict=True
    ):
        steps.append(gradient - (gradient * x).sum(dim=1, keepdim=True) * x)
    return -len(image) * (steps[0] @ text.T + image @ steps[1].T).detach()


def mean_pulls(
    study: Study,
    method: Method,
    knowledge: Knowledge | None,
    pairs: HeldOut,
    groups: np.ndarray,
    joint: tuple[Tensor, Tensor],
    size: int,
) -> dict[str, list[float]]:
    """Mean :func:`pull` on each group over :data:`BATCHES` batches of the training's size, by term.

    The first is plain InfoNCE on the same embeddings; then the row's own terms, weighted as in training, and their sum.
    """
    from mlip.losses.contrastive import instance_loss

    totals: dict[str, np.ndarray] = {}
    counts = np.zeros(3)
    weights = method.loss_weights()
    for number in range(BATCHES):
        rng = generator(study.seed, ANALYSIS, "batch", number)
        index = rng.choice(len(pairs.reports), min(size, len(pairs.reports)), replace=False)
        batch = pair_batch(study, method, knowledge, pairs, index, number)
        image, text = (x[index].detach().clone().requires_grad_() for x in joint)
        terms = {"plain InfoNCE": instance_loss(image, text, TEMPERATURE)}
        own = {name: weights.get(name, 1.0) * term for name, term in method.pair_terms(image, text, batch).items()}
        terms |= own
        if len(own) > 1:
            terms["sum of its terms"] = sum(own.values(), image.new_zeros(()))
        chosen = groups[:, index][:, :, index]
        counts += chosen.sum(axis=(1, 2))
        for name, term in terms.items():
            values = pull(term, image, text).double().cpu().numpy()
            totals[name] = totals.get(name, 0) + (chosen * values).sum(axis=(1, 2))
    return {name: list(total / np.where(counts > 0, counts, np.nan)) for name, total in totals.items()}


def pair_batch(
    study: Study, method: Method, knowledge: Knowledge | None, pairs: HeldOut, index: np.ndarray, number: int
) -> Batch:
    """The pairs at ``index`` as a training batch, whole reports, films not augmented."""
    import torch

    from mlip.contract import Batch
    from mlip.data.pixels import to_tensor

    reports = [pairs.reports[i] for i in index]
    texts = [report.text for report in reports]
    linked = [knowledge.affirmed(text) if knowledge else [] for text in texts]
    images, patients = to_tensor(pairs.images[index]), torch.from_numpy(pairs.patients[index])
    draw = torch_generator(study.seed, ANALYSIS, "method", number)
    return Batch.of(method, reports, texts, linked, images, patients, draw, step=number).to(method.device)


def _pull_cells(values: list[float]) -> list[str]:
    """The three means, and where equal findings stand between others (0) and the true pair (1)."""
    true, equal, other = values
    room = true - other
    return [*(f"{v:+.3f}" for v in values), f"{(equal - other) / room:+.2f}" if room > 0.05 else "no pull"]


# --- page -------------------------------------------------------------------------------------------------------------


def _page(
    study: Study, seed: int, pairs: HeldOut, groups: np.ndarray, near: list[list[str]], moved: list[list[str]]
) -> str:
    count = [int(g.sum()) for g in groups]
    level = f"{100 * study.statistics.level:g} %"
    about = [
        f"- {count[0]} held-out image-report pairs (validation and test, one per study) of "
        f"{len(np.unique(pairs.patients))} patients; seed {seed}. Findings: the data set's labels that are present; "
        f"{', '.join(sorted(NO_FINDING))} count as none.",
        f"- Image i with report j: {count[1]} combinations of different patients with equal findings (false negatives of "
        f"a contrast over pairs), {count[2]} with other findings.",
    ]
    closer = [
        "## How close they are",
        tabulate(
            near,
            headers=["row", *(f"cosine, {g}" for g in GROUPS), f"AUROC × 100 [{level}]"],
            tablefmt="github",
            disable_numparse=True,
        ),
        "AUROC: how often a combination with equal findings has a higher cosine than one with other findings; 50 = not told "
        "apart. Cosines of different rows have different spreads and are not compared; the AUROC is. Interval: bootstrap "
        f"over patients, {study.statistics.bootstrap} resamples.",
    ]
    pulled = [
        "## What the loss does to them",
        tabulate(
            moved,
            headers=["row", "term", *(f"pull, {g}" for g in GROUPS), "equal findings between other (0) and true (1)"],
            tablefmt="github",
            disable_numparse=True,
        ),
        "Pull: B times the rate at which a step of gradient descent on the joint embeddings raises the cosine, negative = "
        f"pushed apart; mean over {BATCHES} batches of the training's size, without interval. Plain InfoNCE (both "
        f"directions, temperature {TEMPERATURE}) is evaluated on the same embeddings as the row's own terms: the "
        "difference is what the terms do, not what the training has made of the embeddings. A step for one pair moves others with it, the more so the narrower the cone that all embeddings lie in; that is part of the number. Last column: above 0, equal "
        "findings are treated better than others; below 0, worse, because they are closer and so harder. Terms that see "
        "more than the joint embeddings (local alignment, matching, masking) are not here.",
    ]
    return (
        "\n\n".join(
            [
                study.note,
                f"# Different patients with equal findings: {study.title}",
                "\n".join(about),
                *closer,
                *pulled,
            ]
        )
        + "\n"
    )
