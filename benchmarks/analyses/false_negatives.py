"""False negatives (the seed's Figure 1): different patients with equal findings, whom plain InfoNCE pushes apart.

Two looks at each trained row, on held-out pairs. How close it puts such patients: cosines of image i with report j. And
what its loss does to them from where they are: how fast one step of gradient descent on the joint embeddings would raise
the cosine of a pair, for the row's own terms and, on the same embeddings, for plain InfoNCE. The findings are the data
set's labels; they are used here only and never enter a training.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tabulate import tabulate

from benchmarks.analyses.held_out import NO_FINDING, HeldOut, held_out, pair_batch
from benchmarks.scores import statistics
from benchmarks.scores.weighted import BLOCK, Ranked
from benchmarks.tasks.shared.features import BATCH, encode_images
from mlip.errors import UserError
from mlip.methods import recipe_of, without_a_part
from mlip.seeding import generator
from mlip.study import Study

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from benchmarks.plan import Plan
    from mlip.contract import Method
    from mlip.fingerprints import Fingerprint
    from mlip.knowledge.entities import Knowledge

ANALYSIS, CAPABILITY = "false_negatives", "retrieval"
BATCHES = 20  # in which the losses are evaluated
TEMPERATURE = 0.07  # of plain InfoNCE, the yardstick: CLIP's and MGCA's
COLUMNS = ["row", "against", "difference", "low", "high", "p", "sd_row", "sd_against"]
GROUPS = ("the true pair", "equal findings", "other findings")


def compared_rows(plan: Plan) -> list[str]:
    """Names of the rows on the page: those with a joint space, where the study asks for it and has labels."""
    labelled = any(plan.sources[name].reader.labels for name in plan.study.pretrain.datasets)
    if ANALYSIS not in plan.study.analyses or not labelled:
        return []
    return [
        name for name, entry in plan.rows.items() if CAPABILITY in entry.capabilities and not entry.manifest.looked_up
    ]


def variants(plan: Plan) -> list[tuple[str, str]]:
    """(full method, the same without a part) of the compared rows."""
    return without_a_part({name: plan.rows[name] for name in compared_rows(plan)})


def fingerprint(plan: Plan) -> Fingerprint:
    """What the page depends on."""
    study, rows = plan.study, [plan.rows[name] for name in compared_rows(plan)]
    settings = [study.note, study.title, study.pretrain.batch_size, study.pretrain.seeds, [e.title for e in rows]]
    pairs = [(entry, seed) for entry in rows for seed in entry.seeds(study)]
    return plan.fingerprints.looked_at(ANALYSIS, pairs, study.pretrain.datasets, settings)


def write_page(plan: Plan, device: torch.device) -> None:
    """Write ``results/<study>/false_negatives.md`` and ``.csv`` (the differences) from the checkpoints of all seeds.

    Raises
    ------
    UserError : a checkpoint, store or split is missing, or no two held-out patients have equal findings.
    """
    from mlip.knowledge.entities import Knowledge
    from mlip.pretraining.checkpoints import load_method

    study, paths, rows = plan.study, plan.paths, plan.rows
    pairs = held_out(study)
    groups = pair_groups(pairs.findings, pairs.patients)
    if not groups[1].any():
        raise UserError(
            f"no two held-out patients of {study.pretrain.datasets} have equal findings",
            where=paths.splits(study.pretrain.datasets[0]),
            fix="take false_negatives out of `analyses`, or use more films",
        )
    patients = int(pairs.patients.max()) + 1
    rng = generator(study.seed, ANALYSIS, "bootstrap")
    drawn = statistics.multiplicities(patients, study.statistics.bootstrap, rng)[pairs.patients].T  # [R, N]
    near, moved, found = [], [], dict[str, statistics.Estimate]()
    for name in compared_rows(plan):
        entry = rows[name]
        knowledge = Knowledge.load(paths.knowledge) if entry.reads_knowledge else None
        size = recipe_of(entry, study).batch_size if entry.trained else study.pretrain.batch_size or 48
        close, resampled, pulls = [], [], []
        for seed in entry.seeds(study):
            method = load_method(study, entry, seed).to(device)
            image, text = embed(method, pairs, device)
            similarity = (image @ text.T).double().cpu().numpy()
            close.append(closeness(similarity, groups))
            resampled.append(_auroc(similarity, groups, drawn))
            pulls.append(mean_pulls(study, method, knowledge, pairs, groups, (image, text), size))
        found[name] = statistics.estimate(
            np.array([[c["auroc"]] for c in close]),
            np.stack(resampled)[:, None],
            patients,
            seeded=entry.seeded,
            drawn=False,
        )
        low, high = statistics.confidence(found[name], study.statistics.level)
        means = [f"{np.mean([c[group] for c in close]):.3f}" for group in GROUPS]
        near.append([entry.title, *means, _text(found[name].value, low, high)])
        for term in pulls[0]:
            moved.append([entry.title, term, *_pull_cells(list(np.mean([p[term] for p in pulls], axis=0)))])
    differences = _differences(plan, found)
    paths.results.mkdir(parents=True, exist_ok=True)
    differences.round(6).to_csv(paths.false_negatives.with_suffix(".csv"), index=False)
    paths.false_negatives.write_text(_page(plan, pairs, groups, near, moved, differences), encoding="utf-8")


def _differences(plan: Plan, found: dict[str, statistics.Estimate]) -> pd.DataFrame:
    """AUROC of the full method minus that of the same without a part: row, against, difference, low, high, p, sd_row, sd_against."""
    pool = statistics.Pool.of(e for name, e in found.items() if plan.rows[name].trained)
    records = []
    for full, without in variants(plan):
        one = statistics.difference(found[full], found[without], pool)
        spread = [float(found[n].seeds.std(ddof=1)) if len(found[n].seeds) > 1 else np.nan for n in (full, without)]
        records.append([full, without, one.value, *one.interval(plan.study.statistics.level), one.p, *spread])
    return pd.DataFrame(records, columns=COLUMNS)


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


def _text(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


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


def _pull_cells(values: list[float]) -> list[str]:
    """The three means, and where equal findings stand between others (0) and the true pair (1)."""
    true, equal, other = values
    room = true - other
    return [*(f"{v:+.3f}" for v in values), f"{(equal - other) / room:+.2f}" if room > 0.05 else "no pull"]


# --- page -------------------------------------------------------------------------------------------------------------


def _said(low: float, high: float) -> str:
    if np.isnan(low):
        return "one training: cannot be told"
    return "not told from 0" if low <= 0 <= high else "closer" if low > 0 else "farther"


def _page(
    plan: Plan,
    pairs: HeldOut,
    groups: np.ndarray,
    near: list[list[str]],
    moved: list[list[str]],
    differences: pd.DataFrame,
) -> str:
    study, rows = plan.study, plan.rows
    seeds = ", ".join(map(str, study.pretrain.seeds))
    count = [int(g.sum()) for g in groups]
    level = f"{100 * study.statistics.level:g} %"
    about = [
        f"- {count[0]} held-out image-report pairs (validation and test, one per study) of "
        f"{len(np.unique(pairs.patients))} patients; seeds {seeds}. Findings: the data set's labels that are present; "
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
        "apart. Cosines of different rows have different spreads and are not compared; the AUROC is. Means over the seeds. Interval: "
        f"variance over patients ({study.statistics.bootstrap} resamples) and over seeds, added.",
    ]
    if len(differences):
        lines = [
            [
                rows[d["row"]].title,
                rows[d["against"]].title,
                _text(d["difference"], d["low"], d["high"], "+"),
                _said(d["low"], d["high"]),
            ]
            for d in differences.to_dict("records")
        ]
        closer += [
            "## What the parts bring to it",
            tabulate(
                lines,
                headers=["row", "without a part", f"AUROC × 100, difference [{level}]", ""],
                tablefmt="github",
                disable_numparse=True,
            ),
            "Above 0: with the part, equal findings are closer. Paired in patients; the spread between trainings is pooled over the rows. Not "
            "adjusted for the number of lines.",
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
        f"pushed apart; mean over {BATCHES} batches of the training's size, and over the seeds, without interval. Plain InfoNCE (both "
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
