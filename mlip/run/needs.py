"""What each job of a study needs: cores, memory, time, GPUs. The rules ask for it, and the doctor adds it up.

Estimates from the study's sizes, not measurements of it. Where a constant comes from stands beside it; docs/scaling.md says
it again for readers. None of it is a parameter of a rule, so that no change here repeats anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.analyses.maps import questions
from benchmarks.tasks.fine_tuning.protocol import FineTuningProtocol, Training
from benchmarks.tasks.shared.dense.protocol import DenseProtocol, at_fraction, entry_at
from mlip.errors import UserError
from mlip.methods import Entry, recipe_of
from mlip.study import ImageEncoderConfig, Study

if TYPE_CHECKING:
    from benchmarks.plan import Block, Plan
    from mlip.data.records import Reader

GPUS = "MLIP_GPUS"  # how many GPUs the jobs of a run may hold at a time; the jobs of a cluster read it
MANY_GPUS = 1024  # a cluster's own limits count
MANY_CORES = 16  # of a job on a cluster that is done in several processes
PRETRAIN = "pretrain"
ON_GPU = (PRETRAIN, "features", "evaluate", "maps", "false_negatives", "parts")

# Rates. Of a core: MEASURED, GLoRIA of the twin study, 207 steps of 17.3 GFLOP in 119 s on a core of an AMD EPYC (its card.json).
# Of a GPU: ASSUMED, a fifth of the peak of an A100 in bfloat16, or half of its peak in float32.
CORE_GFLOPS = 30.0
GPU_GFLOPS = {"32-true": 10e3, "other": 60e3}
# Heads, losses and optimiser beside the encoders: MLIP (CVPR 2024) took 1.7 times as long as ConVIRT (results/twin/cost.md).
AROUND = 2.0
SMALL_NETS = 50.0  # so many times less than by its rate a GPU gains on heads of a few channels: ASSUMED
PASSES = 3.0  # a step is a forward pass and a backward pass of twice its operations
OUTLINED = 0.1  # of a data set's films: in the test part, with an outline (assumed)
DECODED = 10.0  # films a second and core: ASSUMED for JPEG and DICOM files of 2,500 x 3,000 pixels
WRITTEN = 30.0  # virtual films a second and core at 224 px, half of what docs/twin.md measures of two cores
TRAINING_PART = 0.7  # of a data set's films, about that of all published divisions
LIMIT = 3.0  # a job is given so many times its estimate
LEAST, MOST = 10, 24 * 60  # minutes; what does not fit into a day goes on at its next attempt
UNKNOWN_FILMS = 250_000  # MIMIC-CXR has 243,334 frontal ones, the largest release that a reader knows

# Memory in MB. A job of a small study takes up to 1.5 GB with the Snakemake that starts it (docs/slurm-run.md); a CUDA context 3 GB
# of the host beside it (assumed).
PROCESS, CUDA = 2_000, 3_000
DECODER = 400  # a process that decodes films of 3,000 x 3,000 pixels in 64 bits
PER_RECORD = 0.01  # a row of records with its report, as Python objects (assumed)
MAPS = 4_300  # of feature maps that detection and segmentation keep (CACHE_BYTES of benchmarks/tasks/shared/dense/features.py)
ROOM = 1.5  # for what is not counted

# GFLOP of a forward pass at 224 px, a multiplication and an addition being two: twice the published multiply-adds. Weights in
# millions. An architecture that is not listed counts as the largest one of the papers.
KNOWN = {
    "resnet18": (3.6, 11.7), "resnet34": (7.3, 21.8), "resnet50": (8.2, 25.6), "resnet101": (15.7, 44.5), "densenet121": (5.7, 8.0),
    "tf_efficientnet_lite0": (0.8, 4.7), "vit_small_patch16_224": (9.2, 22.1), "vit_base_patch16_224": (35.2, 86.6),
}  # fmt: skip
LARGEST = "vit_base_patch16_224"
VOCABULARY = 30_000  # of a BERT that is loaded


@dataclass(frozen=True)
class Need:
    """Of one job: cores, memory of the host in MB, the expected hours, the limit in minutes, GPUs."""

    threads: int
    mem_mb: int
    hours: float
    runtime: int
    gpu: int = 0


def gpus_of(device: str, limit: int | None, local: bool) -> int:
    """How many GPUs the jobs of a run may hold at a time; 0: none is asked for.

    Parameters
    ----------
    device : of the study. ``cpu`` asks for none.
    limit : what Snakemake was told by ``--resources gpu=N``, on the command line or in a profile.
    local : whether the jobs run on this machine, whose devices can be counted.
    """
    if device == "cpu":
        return 0
    if limit is not None:
        return limit
    if given := os.environ.get(GPUS):
        if not given.isdigit():
            raise UserError(f"{GPUS} is {given!r}", fix="set it to how many GPUs the jobs may hold at a time")
        return int(given)
    if local:
        return gpus_here() * int(os.environ.get("MLIP_GPU_JOBS", "1"))
    return MANY_GPUS if device == "cuda" else 0


def gpus_here(devices: Path = Path("/dev")) -> int:
    """GPUs of this machine that this process may use, without importing torch."""
    count = sum(p.name.removeprefix("nvidia").isdigit() for p in devices.glob("nvidia*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return count if visible is None else min(count, len([v for v in visible.split(",") if v.strip() not in ("", "-1")]))


class Needs:
    """What the jobs of a study need.

    Parameters
    ----------
    plan : the study.
    gpus : how many GPUs may be held at a time (:func:`gpus_of`).
    cores : of a job that is done in several processes.
    """

    def __init__(self, plan: Plan, gpus: int, cores: int) -> None:
        self.plan, self.study, self.gpus, self.cores = plan, plan.study, gpus, cores

    def of(self, stage: str, *names: str) -> Need:
        """Of one job, by its rule and the rule's wildcards in the order of the command line."""
        return getattr(self, f"_{stage}")(*names)

    def asked(self, stage: str, *wildcards: str) -> dict[str, Callable[..., int | None]]:
        """The ``resources`` of a rule. A job that starts anew at each attempt is given more each time.

        A training goes on: it has as many minutes each time, and twice the memory from its second attempt on, no more, since
        one that meets its time limit again and again would in the end ask for more than a node has.
        """

        def limit(value: Callable[[Need], int | None], most: int | None) -> Callable[..., int | None]:
            def ask(found: Any, attempt: int) -> int | None:
                one = value(self.of(stage, *[found[name] for name in wildcards]))
                return one * min(attempt, most or attempt) if one else one

            return ask

        asked = {
            "mem_mb": limit(lambda need: need.mem_mb, 2 if stage == PRETRAIN else None),
            "runtime": limit(lambda need: need.runtime, 1 if stage == PRETRAIN else None),
        }
        # Without a GPU the key is left out: executors of some clusters take 0 for a wish.
        if self.gpus and stage in ON_GPU:
            asked["gpu"] = limit(lambda need: need.gpu or None, 1)
        return asked

    def threads(self, stage: str, *wildcards: str) -> Callable[[Any], int]:
        """The ``threads`` of a rule."""
        return lambda found: self.of(stage, *[found[name] for name in wildcards]).threads

    # --- data ---------------------------------------------------------------------------------------------------------

    def _anatomy(self) -> Need:
        """39 s of two cores for 40 chests at 224 px (docs/twin.md)."""
        twin = self.study.twin
        seconds = 2.0 * twin.anatomies * (twin.size / 224) ** 2 if twin else 0.0
        return self._need(self.cores, PROCESS + 600 * self.cores, seconds / self.cores)

    def _twin(self, hospital: str) -> Need:
        twin = self.study.twin
        assert twin is not None
        seconds = twin.datasets[hospital].images * (twin.size / 224) ** 2 / WRITTEN
        return self._need(self.cores, PROCESS + 600 * self.cores, seconds / self.cores)

    def _store(self, dataset: str) -> Need:
        films = self.films(dataset)
        # A few films are decoded sooner by one process than a pool of them starts.
        threads = self.cores if films > 2_000 else 1
        return self._need(threads, PROCESS + DECODER * threads + PER_RECORD * films, films / DECODED / threads)

    def _splits(self, dataset: str) -> Need:
        films = self.films(dataset)
        return self._need(1, PROCESS + PER_RECORD * films, 60 + films * 1e-3)

    def _audit(self) -> Need:
        films = sum(map(self.films, self.study.datasets))
        return self._need(1, PROCESS + 2 * PER_RECORD * films, 60 + films * 5e-3)

    # --- before and in training ---------------------------------------------------------------------------------------

    def _tokenizer(self) -> Need:
        return self._need(1, PROCESS + PER_RECORD * self.corpus, 60 + self.corpus * 1e-3)

    def _knowledge(self) -> Need:
        """An epoch over the ontology takes 0.1 s at 64 dimensions on one core."""
        config = self.study.knowledge
        return self._need(1, PROCESS + 20 * config.dim, 60 + config.epochs * 0.1 * config.dim / 64)

    def _pretrain(self, row: str, seed: str = "0") -> Need:
        entry, study, gpu = self.plan.row(row), self.study, self._gpus(self.study.pretrain.devices)
        if not entry.trained:
            return self._need(1, PROCESS + ROOM * self.weights(entry) * 4, 60, min(gpu, 1))
        recipe = recipe_of(entry, study)
        pairs = self.corpus * entry.pairs / 100
        operations = PASSES * AROUND * self.gflops(entry) * pairs * recipe.epochs
        seconds = operations / (self.gpu_gflops(entry) * gpu if gpu else CORE_GFLOPS * study.pretrain.threads)
        # Weights, gradients and both moments of AdamW, and a state that is written while they are held.
        states = 4 * 4 * self.weights(entry) + 3 * 4 * self.weights(entry)
        host = CUDA + states if gpu else states + recipe.batch_size * self.activations(entry)
        records = PER_RECORD * self.corpus
        return self._need(study.pretrain.threads, max(gpu, 1) * PROCESS + records + ROOM * host, seconds + 60, gpu)

    def _features(self, row: str, seed: str, dataset: str) -> Need:
        entry, films, gpu = self.plan.row(row), self.films(dataset), self._gpus(1)
        # The vectors of 2,048 numbers are held twice while they are written.
        memory = PROCESS + CUDA * (gpu > 0) + ROOM * 8 * self.weights(entry) + 2 * 4 * 2_048 * films / 1e6
        return self._need(1, memory, 60 + self._forward(entry, films, gpu), gpu)

    # --- transfer -----------------------------------------------------------------------------------------------------

    def _evaluate(self, task: str, protocol: str, dataset: str, row: str, seed: str = "0") -> Need:
        block, films = self.plan.block(task, protocol, dataset), self.films(dataset)
        control = row in block.task.controls
        gpu = 0 if control or block.task.needs == "features" else self._gpus(1)
        heads = sum(map(len, block.plan.values()))
        memory = PROCESS + PER_RECORD * films + (CUDA if gpu else 0)
        if control:
            return self._need(1, memory, 60 + films * 1e-3)
        entry = self.plan.row(row)
        if block.task.needs == "features":
            # Standardised copies of features of 2,048 numbers in float64; a grid of eleven strengths for each draw.
            return self._need(1, memory + 3 * 8 * films * 2_048 / 1e6, 60 + heads * films * 1e-3)
        seconds = self._forward(entry, films, gpu)
        if trained := self._trained(block, films):
            image = image_gflops(entry.image_config(self.study), self.study.input_side)
            rate = GPU_GFLOPS["32-true"] if gpu else CORE_GFLOPS  # its 32 bit
            # A state lies beside the weights; a batch of the largest protocol has 96 films.
            seconds += PASSES * AROUND * image * trained / rate
            memory += 7 * 4 * self.weights(entry) + (0 if gpu else 96 * self.activations(entry))
        elif block.task.needs_maps:
            scale = (_side(entry, self.study) / 64) ** 2
            # The twin's heads took 8 s each at 64 px on one core (results/twin/cells.csv: 31 s, four heads); maps stay in memory.
            seconds += heads * 8.0 * scale / (GPU_GFLOPS["32-true"] / CORE_GFLOPS / SMALL_NETS if gpu else 1)
            memory += min(films * 0.25 * scale, MAPS)
        # One core also beside a GPU: by another number of threads the last digits of what is summed on cores differ.
        return self._need(1, memory + ROOM * 8 * self.weights(entry), 60 + seconds, gpu)

    def _maps(self, row: str) -> Need:
        gpu, entry = self._gpus(1), self.plan.row(row)
        trainings = len(entry.seeds(self.study))
        asked = dict.fromkeys(question.dataset for question in questions(self.plan))
        forward = sum(self._forward(entry, int(OUTLINED * self.films(dataset)), gpu) for dataset in asked)
        memory = PROCESS + CUDA * (gpu > 0) + trainings * ROOM * 8 * self.weights(entry)
        return self._need(1, memory, 300 + trainings * forward, gpu)

    def _false_negatives(self) -> Need:
        gpu = self._gpus(1)
        return self._need(1, 2 * PROCESS + CUDA * (gpu > 0) + PER_RECORD * self.corpus, 600, gpu)

    def _parts(self) -> Need:
        return self._false_negatives()

    def _tables(self) -> Need:
        """Resamples of patients: every cell holds its test films."""
        cells = len(self.plan.evaluations)
        films = max(map(self.films, self.study.datasets), default=0)
        seconds = 60 + cells * (1 + films * self.study.statistics.bootstrap * 1e-8) / self.cores
        return self._need(self.cores, 2 * PROCESS + self.cores * PER_RECORD * films, seconds)

    # --- sizes --------------------------------------------------------------------------------------------------------

    def films(self, dataset: str) -> int:
        """Films of a data set: those of its virtual hospital, or of the complete release; else as many as MIMIC-CXR has."""
        config = self.study.datasets[dataset]
        if config.twin and self.study.twin:
            return self.study.twin.datasets[config.twin].images
        return self._released.get(dataset, UNKNOWN_FILMS)

    @cached_property
    def _released(self) -> dict[str, int]:
        """By data set, what the release holds that lies there, or the largest of its reader where none does; of a release
        without a known number, and of films of one's own, as many as the longest table has lines.
        """
        found = {}
        for name, source in self.plan.sources.items():
            reader, options, root = source.reader, source.options, self.study.datasets[name].root
            counts = [_complete(reader, version, options) for version in reader.versions]
            try:
                if root.is_dir():
                    counts = [_complete(reader, reader.verify(root, options), options)]
                    counts = counts if counts[0] else [_lines(path) for path in reader.tables(root, options)]
            except (UserError, OSError):
                continue  # the check of the study says it
            if films := max(counts, default=0):
                found[name] = films
        return found

    @cached_property
    def corpus(self) -> int:
        """Films that are trained on, at most."""
        return sum(self.films(name) for name in self.study.pretrain.datasets)

    def gpu_gflops(self, entry: Entry) -> float:
        return GPU_GFLOPS.get(self._precision(entry), GPU_GFLOPS["other"])

    def _precision(self, entry: Entry) -> str:
        own = self.study.pretrain.precision
        return (recipe_of(entry, self.study).precision or "bf16-mixed") if own == "auto" else own

    def gflops(self, entry: Entry) -> float:
        """GFLOP of a forward pass of a pair: film and report."""
        return image_gflops(entry.image_config(self.study), self.study.input_side) + text_gflops(self.study)

    def weights(self, entry: Entry) -> float:
        """Weights of both encoders in millions, heads by ``ROOM``."""
        text = self.study.encoders.text
        vocabulary = VOCABULARY if text.pretrained else text.vocabulary
        return (
            image_weights(entry.image_config(self.study))
            + (12 * text.layers * text.dim**2 + vocabulary * text.dim) / 1e6
        )

    def activations(self, entry: Entry) -> float:
        """MB that a pair's gradient needs: 15 for each GFLOP of a CNN in float32, 4 for each of a transformer."""
        image = image_gflops(entry.image_config(self.study), self.study.input_side)
        return (15 if entry.encoder == "cnn" else 4) * image + 4 * text_gflops(self.study) + 2

    def gpu_memory(self, entry: Entry) -> float:
        """MB of a GPU that a training holds: weights, gradients and moments, and the activations of its batch."""
        recipe, half = recipe_of(entry, self.study), self._precision(entry) != "32-true"
        batch = recipe.batch_size / self.study.pretrain.devices * self.activations(entry)
        return ROOM * (4 * 4 * self.weights(entry) + (batch / 2 if half else batch))

    def _forward(self, entry: Entry, films: int, gpu: int) -> float:
        image = image_gflops(entry.image_config(self.study), self.study.image_size)
        return films * image / (GPU_GFLOPS["32-true"] if gpu else CORE_GFLOPS)

    def _trained(self, block: Block, films: int) -> float:
        """Films that encoders are trained on in the transfer of one row, over all fractions and draws; 0 where they are frozen."""
        protocol, total = block.protocol, 0.0
        for fraction, draws in block.plan.items():
            labelled = max(1, round(films * TRAINING_PART * fraction / 100))
            if isinstance(protocol, FineTuningProtocol):
                lengths: dict[int, Training] = block.source.of(protocol.datasets).training or protocol.training
                length = entry_at(lengths, fraction)
                batch, steps = protocol.batch_size, length.length(labelled, protocol.batch_size, protocol.max_steps)[0]
            elif isinstance(protocol, DenseProtocol) and not protocol.frozen:
                batch, steps = at_fraction(protocol.batch_size, fraction), protocol.length(fraction, labelled)
            else:
                return 0.0
            total += len(draws) * steps * batch
        return total

    def _gpus(self, count: int) -> int:
        return count if self.gpus else 0

    def _need(self, threads: int, memory: float, seconds: float, gpu: int = 0) -> Need:
        """``memory`` in MB."""
        minutes = min(MOST, max(LEAST, round(LIMIT * seconds / 60)))
        return Need(threads, 100 * round(memory / 100 + 0.5), seconds / 3600, minutes, gpu)


def _complete(reader: Reader, version: str, options: Any) -> int:
    try:
        return reader.complete(version, options).get("images", 0)
    except KeyError:  # no such release
        return 0


def _lines(table: Path) -> int:
    with table.open("rb") as file:
        return sum(1 for _ in file)


def image_gflops(config: ImageEncoderConfig, image_size: int) -> float:
    """GFLOP of a forward pass of one film."""
    side, args = config.input_size or image_size, config.args
    if config.name == "resnet" and "channels" in args:
        # A stem of 7 x 7 to 64 channels; two 3 x 3 convolutions in each basic block; stages have strides 4, 8, 16, 32.
        stem = 2 * 3 * 49 * 64 * (side / 2) ** 2
        stages = zip(args["layers"], args["channels"], (4, 8, 16, 32), strict=True)
        return (stem + sum(4 * 9 * width**2 * (side / stride) ** 2 * blocks for blocks, width, stride in stages)) / 1e9
    before = 0.0
    if config.stem:
        before = KNOWN.get(config.stem.name, KNOWN[LARGEST])[0] * (side * config.stem.scale / 224) ** 2
    if config.name == "vit" and "embed_dim" in args:
        tokens = (side / args.get("patch_size", 16)) ** 2 + 1
        return before + transformer_gflops(args.get("depth", 12), args["embed_dim"], tokens)
    return before + KNOWN[_known(config)][0] * (side / 224) ** 2


def image_weights(config: ImageEncoderConfig) -> float:
    """Weights in millions."""
    args = config.args
    if config.name == "resnet" and "channels" in args:
        return sum(2 * 9 * c**2 * n for n, c in zip(args["layers"], args["channels"], strict=True)) / 1e6
    before = KNOWN.get(config.stem.name, KNOWN[LARGEST])[1] if config.stem else 0.0
    if config.name == "vit" and "embed_dim" in args:
        return before + 12 * args.get("depth", 12) * args["embed_dim"] ** 2 / 1e6
    return before + KNOWN[_known(config)][1]


def text_gflops(study: Study) -> float:
    """GFLOP of a forward pass of one report of full length."""
    text = study.encoders.text
    return transformer_gflops(text.layers, text.dim, text.max_tokens)


def transformer_gflops(layers: int, dim: int, tokens: float) -> float:
    """Products with the weights, 24 d^2 a token and layer, and of the attention, 4 d a pair of tokens."""
    return layers * (24 * dim**2 * tokens + 4 * dim * tokens**2) / 1e9


def _known(config: ImageEncoderConfig) -> str:
    own = {"resnet": "resnet18", "vit": LARGEST}.get(config.name, config.name).partition(".")[0]
    return own if own in KNOWN else LARGEST


def _side(entry: Entry, study: Study) -> int:
    return entry.image_config(study).input_size or study.image_size
