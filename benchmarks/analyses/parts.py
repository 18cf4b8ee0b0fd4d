"""Does every part of a trained method use what it is said to use? Each loss term, when one of its inputs is replaced.

A term that is no worse on another patient's film does not look at the film, however low it is: such parts were found in every
method of this project that had them. Held-out pairs, weights as trained, no gradient. The page says for every row, term and
replacement how much the term rises, with an interval over batches and pre-training seeds; ``inert`` stands where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from tabulate import tabulate

from benchmarks.analyses.held_out import HeldOut, held_out, pair_batch
from mlip.methods import Entry, recipe_of
from mlip.seeding import generator, seed_everything

if TYPE_CHECKING:
    import torch

    from benchmarks.plan import Plan
    from mlip.contract import Batch, Method
    from mlip.fingerprints import Fingerprint
    from mlip.knowledge.entities import Knowledge

ANALYSIS = "parts"
ORDERS = 2000  # random orders that an agreement between trainings is held against
BATCHES = 5  # of the training's size, in every one of which each pair is another
FILM, ENTITIES, KNOWLEDGE = "another patient's film", "another report's entities", "all entities alike"


def examined_rows(plan: Plan) -> list[str]:
    """Names of the rows on the page: those that were trained, where the study asks for it."""
    if ANALYSIS not in plan.study.analyses:
        return []
    return [name for name, entry in plan.rows.items() if entry.trained]


def fingerprint(plan: Plan) -> Fingerprint:
    """What the page depends on."""
    seeds = plan.study.pretrain.seeds
    rows = [plan.rows[name] for name in examined_rows(plan)]
    settings = [plan.study.note, plan.study.title, plan.study.pretrain.batch_size, seeds, [e.title for e in rows]]
    pairs = [(entry, seed) for entry in rows for seed in seeds]
    return plan.fingerprints.looked_at(ANALYSIS, pairs, plan.study.pretrain.datasets, settings)


def is_current(plan: Plan) -> bool:
    """Whether the page is there and is the one that today's code and configuration make."""
    return bool(examined_rows(plan)) and plan.paths.parts.is_file() and plan.is_made(ANALYSIS, (), fingerprint(plan))


def link(plan: Plan) -> str:
    """The leaderboard's line on the page, or ""."""
    name, folder = plan.paths.parts.name, plan.study.study
    if not is_current(plan):
        return ""
    return f"Whether each part of each method uses its input: [{folder}/{name}]({folder}/{name})."


def write_page(plan: Plan, device: torch.device) -> None:
    """Write ``results/<study>/parts.md`` from the checkpoints of all seeds.

    Raises
    ------
    UserError : a checkpoint, store or split is missing.
    """
    from mlip.knowledge.entities import Knowledge
    from mlip.pretraining.checkpoints import load_method

    study, pairs = plan.study, held_out(plan.study)
    table, said, agree = [], [], []
    for name in examined_rows(plan):
        entry = plan.rows[name]
        knowledge = Knowledge.load(plan.paths.knowledge) if entry.reads_knowledge else None
        size = recipe_of(entry, study).batch_size
        found: list[dict[tuple[str, str], np.ndarray]] = []
        told: list[dict[str, float]] = []
        learnt: list[dict[str, np.ndarray]] = []
        for seed in study.pretrain.seeds:
            method = load_method(study, entry, seed).to(device)
            found.append(effects(plan, entry, method, knowledge, pairs, size))
            told.append(diagnostics(plan, method, knowledge, pairs, size))
            learnt.append({key: vector.cpu().numpy() for key, vector in method.learnt().items()})
        level = study.statistics.level
        for term, what in found[0]:
            rise = Rise.of(np.stack([f[term, what] for f in found]), level)
            table.append([entry.title, term, what, *rise.cells()])
        for key in told[0]:
            values = [t[key] for t in told]
            said.append([entry.title, key, ", ".join(f"{v:.3f}" for v in values)])
        for key in learnt[0] if len(learnt) > 1 else ():
            vectors = np.stack([vector[key] for vector in learnt])
            agree.append(
                [entry.title, key, *agreement(vectors, level, generator(study.seed, ANALYSIS, name, key)).cells()]
            )
    plan.paths.results.mkdir(parents=True, exist_ok=True)
    plan.paths.parts.write_text(_page(plan, pairs, table, said, agree), encoding="utf-8")


@dataclass(frozen=True)
class Rise:
    """How much a term rises, in nats (or its own unit), with an interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray, level: float) -> Rise:
        """Of [seeds, batches] differences: the variances of batch means (batches are the same for all seeds) and of seed
        means add up, degrees of freedom by Welch and Satterthwaite."""
        seeds, batches = values.shape
        parts = [(values.mean(axis=0).var(ddof=1) / batches, batches - 1)] if batches > 1 else []
        parts += [(values.mean(axis=1).var(ddof=1) / seeds, seeds - 1)] if seeds > 1 else []
        variance = sum(v for v, _ in parts)
        if not variance > 0:
            return cls(*(float(values.mean()),) * 3)
        freedom = variance**2 / sum(v**2 / df for v, df in parts)
        half = float(stats.t.ppf((1 + level) / 2, freedom) * variance**0.5)
        mean = float(values.mean())
        return cls(mean, mean - half, mean + half)

    @property
    def inert(self) -> bool:
        return not self.low > 0

    def cells(self) -> list[str]:
        return [f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]", "inert" if self.inert else "used"]


@dataclass(frozen=True)
class Agreement:
    """Mean correlation of all pairs of trainings, and the band in which it lies when positions are in random order."""

    value: float
    low: float
    high: float

    def cells(self) -> list[str]:
        said = "agree" if self.value > self.high else "not told from random order"
        return [f"{self.value:+.2f}", f"[{self.low:+.2f}, {self.high:+.2f}]", said]


def agreement(vectors: np.ndarray, level: float, rng: np.random.Generator) -> Agreement:
    """Of [seeds, positions]: whether trainings learn the same. Permutation test (one position's place is as good as another's).

    NaN where a training learnt nothing (all positions alike).
    """

    def mean_correlation(x: np.ndarray) -> float:
        return float(np.corrcoef(x)[np.triu_indices(len(x), 1)].mean())

    with np.errstate(invalid="ignore", divide="ignore"):
        shuffled = [mean_correlation(rng.permuted(vectors, axis=1)) for _ in range(ORDERS)]
        low, high = np.quantile(shuffled, [(1 - level) / 2, (1 + level) / 2])
        return Agreement(mean_correlation(vectors), float(low), float(high))


def effects(
    plan: Plan, entry: Entry, method: Method, knowledge: Knowledge | None, pairs: HeldOut, size: int
) -> dict[tuple[str, str], np.ndarray]:
    """(term, replacement) -> [batches] term with the replaced input minus term with its own."""
    method.eval()
    found: dict[tuple[str, str], list[float]] = {}
    for number in range(BATCHES):
        batch = _batch(plan, method, knowledge, pairs, size, number)
        base = _terms(plan, method, batch, number)
        for what, changed, context in replacements(entry, method, batch):
            with context():
                terms = _terms(plan, method, changed, number)
            for term, value in terms.items():
                found.setdefault((term, what), []).append(value - base[term])
    return {key: np.array(values) for key, values in sorted(found.items())}


def replacements(entry: Entry, method: Method, batch: Batch) -> Iterator[tuple[str, Batch, Callable]]:
    """Name, changed batch, and a context in which the method is changed: the inputs that some part claims to use."""
    other = _others(batch.patients)
    yield FILM, replace(batch, images=batch.images[other]), nullcontext
    if entry.reads_knowledge:
        yield ENTITIES, replace(batch, entities=batch.entities[other]), nullcontext
        yield KNOWLEDGE, batch, lambda: _alike(method)


def diagnostics(plan: Plan, method: Method, knowledge: Knowledge | None, pairs: HeldOut, size: int) -> dict[str, float]:
    """What :meth:`Method.diagnostics` says, mean over the batches."""
    import torch

    told: dict[str, list[float]] = {}
    with torch.no_grad():
        for number in range(BATCHES):
            for key, value in method.diagnostics(_batch(plan, method, knowledge, pairs, size, number)).items():
                told.setdefault(key, []).append(value)
    return {key: float(np.mean(values)) for key, values in told.items()}


def _batch(plan: Plan, method: Method, knowledge: Knowledge | None, pairs: HeldOut, size: int, number: int) -> Batch:
    """A batch as in the last epoch of a training, the same pairs for all rows and seeds."""
    order = generator(plan.study.seed, ANALYSIS, "pairs").permutation(len(pairs.reports))
    size = min(size, len(order))
    index = np.take(order, np.arange(number * size, (number + 1) * size), mode="wrap")
    return replace(pair_batch(plan.study, method, knowledge, pairs, index, number), epoch=1, epochs=2)


def _terms(plan: Plan, method: Method, batch: Batch, number: int) -> dict[str, float]:
    import torch

    seed_everything(plan.study.seed, ANALYSIS, number)  # the same noise, masks and draws with and without a replacement
    batch.generator.manual_seed(batch.generator.initial_seed())
    with torch.no_grad():
        return {name: term.item() for name, term in method.losses(batch).items()}


def _others(patients: torch.Tensor) -> torch.Tensor:
    """For each pair the place of another patient's: the batch turned by the first step that moves all but the fewest."""
    import torch

    places = torch.arange(len(patients), device=patients.device)
    turned = [places.roll(step) for step in range(1, len(patients))]
    return min(turned, key=lambda t: int((patients[t] == patients).sum()))


@contextmanager
def _alike(method: Method) -> Iterator[None]:
    kept = {name: value.clone() for name, value in method.state_dict().items()}
    method.forget_knowledge()
    try:
        yield
    finally:
        method.load_state_dict(kept)


def _page(plan: Plan, pairs: HeldOut, table: list[list[str]], said: list[list[str]], agree: list[list[str]]) -> str:
    study = plan.study
    level = f"{100 * study.statistics.level:g} %"
    about = [
        f"- {BATCHES} batches of the training's size out of {len(pairs.reports)} held-out pairs (validation and test), the same "
        f"for all rows; seeds {', '.join(map(str, study.pretrain.seeds))}.",
        f"- Rise: the term with the replaced input minus the term with its own, unweighted; {level} interval over batches and "
        "seeds (variances added, degrees of freedom by Welch and Satterthwaite). `inert`: the interval does not lie above 0.",
        "- A replacement that a term does not claim to use is listed all the same: it must then be inert (a contrast of film "
        "and report alone does not read entities). A term that predicts the film itself (`reconstruction`) gets another target with "
        "another film, so this page cannot say whether it uses it.",
    ]
    parts = [study.note, f"# {study.title}: what the parts use", "\n".join(about)]
    parts.append(
        tabulate(
            table,
            headers=["row", "term", "replaced by", f"rise [{level}]", ""],
            tablefmt="github",
            disable_numparse=True,
        )
    )
    if said:
        parts += [
            "## What no loss shows",
            tabulate(said, headers=["row", "measure", "by seed"], tablefmt="github", disable_numparse=True),
        ]
    if agree:
        parts += [
            "## Do trainings with other seeds learn the same?",
            f"Mean correlation of the trainings' vectors, pair by pair, and where {level} of it lies when their positions are in random order ({ORDERS:,} draws).",
            tabulate(
                agree,
                headers=["row", "what is learnt", "correlation", "in random order", ""],
                tablefmt="github",
                disable_numparse=True,
            ),
        ]
    return "\n\n".join(parts) + "\n"
