# The study, resolved once: that is also the check before anything runs.

import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir).resolve()
ROOT = ROOT if (ROOT / "mlip").is_dir() else ROOT.parent
sys.path.insert(0, str(ROOT))

try:
    from benchmarks.analyses import false_negatives
    from benchmarks.analyses import maps as film_maps
    from benchmarks.analyses import parts as method_parts
    from benchmarks.plan import resolve
    from benchmarks.related import figures
    from mlip.errors import UserError
    from mlip.run import warm
    from mlip.run.interpreter import own_python_first
    from mlip.run.locks import announce_run, take_over
    from mlip.run.needs import GPUS, MANY_CORES, Needs, gpus_of
    from mlip.run.newest import newest_file
    from mlip.source_code import digest
    from mlip.study import parse_study, write_study
except ImportError as error:
    raise WorkflowError(
        f"{error}. Fix: run snakemake from the project's environment (`make env`, then `source .venv/bin/activate`)"
    )

try:
    STUDY = parse_study(
        config, where=workflow.configfiles[-1] if workflow.configfiles else "--config"
    )
    PLAN = resolve(STUDY)
except UserError as error:
    raise WorkflowError(str(error))

own_python_first()

# Snakemake reads this file again in each job of a cluster; those are no runs. `--jobs` counts for executors of other machines.
RUNS = workflow.is_main_process
LOCAL = RUNS and workflow.resource_settings.nodes is None

# A run that was killed leaves Snakemake's lock: it is removed where its maker is dead.
if RUNS:
    take_over(Path(".snakemake"))

# How many GPUs are there for the jobs: the jobs of a cluster are told by the run. On this machine Snakemake counts them, so
# that a job that waits for one holds no core.
try:
    LIMIT = workflow.global_resources.get("gpu")
    GPU_COUNT = gpus_of(STUDY.device, LIMIT.value if LIMIT else None, LOCAL)
except UserError as error:
    raise WorkflowError(str(error))
os.environ[GPUS] = str(GPU_COUNT)
if LOCAL and LIMIT is None:
    workflow.global_resources["gpu"] = GPU_COUNT
MANY = os.cpu_count() if LOCAL else MANY_CORES
NEEDS = Needs(
    PLAN, GPU_COUNT, min(MANY, workflow.resource_settings.max_threads or MANY)
)

PATHS = PLAN.paths
PRINTS = PLAN.fingerprints
WORK = str(PATHS.work)
# Where the jobs find the study. It is written when a run starts (workflows/Snakefile), never by a dry run, and another
# configuration has another name; so it is no parameter of a rule, which would repeat everything.
STUDY_FILE = PATHS.resolved(digest(STUDY.model_dump(mode="json")))
os.environ["MLIP_STUDY"] = str(STUDY_FILE)
PREDICTIONS = [
    str(PATHS.predictions(e.task, e.protocol, e.dataset, e.row, e.seed))
    for e in PLAN.evaluations
]
LEADERBOARD = str(PATHS.leaderboard)
TWINS = sorted({d.twin for d in STUDY.datasets.values() if d.twin})
MASKED = {name for name, source in PLAN.sources.items() if source.reader.mask_name}


def one_of(names):
    return "|".join(sorted(names)) or "none"


envvars:
    "MLIP_STUDY",
    GPUS,


# Where jobs share no folder with the run, the salt of the hashed identifiers must come with them.
if "MLIP_SALT" in os.environ:

    envvars:
        "MLIP_SALT",


wildcard_constraints:
    dataset=one_of(STUDY.datasets),
    hospital=one_of(TWINS),
    method=one_of(PLAN.rows),
    row=one_of({e.row for e in PLAN.evaluations}),
    task=one_of(STUDY.tasks),
    protocol=one_of({e.protocol for e in PLAN.evaluations}),
    seed=r"\d+",


# Snakemake remembers parameters in .snakemake, which may be lost or belong to another folder. What was made by other code or
# another configuration than today's is made anew all the same: it gets an input that is newer than anything.
def anew(made):
    return [] if made else [newest_file()]


# What is made before a job but does not make it stale by being made anew: whether it says something else, the job's own
# fingerprint knows (a further label draw moves no film). A plain input where the job is not of today's making: Snakemake does not
# look for a job's own reasons behind an ancient input that is made in the same run.
def loose(files, made):
    return [ancient(f) for f in files] if made else files


# Where trainings outlive changes of code, a store that was made anew by other code does not repeat them either.
def held(files, made):
    return loose(files, made) if PRINTS.marks else files


# The audit stops a study, it changes none: what is of today's making does not wait for it.
def gate(made):
    return [] if made else [str(PATHS.audit)]


def store_of(dataset):
    names = ["records.parquet", "manifest.json", "images.npy"]
    names += ["masks.npy"] if dataset in MASKED else []
    return [str(PATHS.data(dataset) / name) for name in names]


def store_is_made(dataset):
    """Half a store is none."""
    there = [Path(f).exists() for f in store_of(dataset)]
    whole = all(there) or not any(there)
    return whole and PLAN.is_made("data", (dataset,), PRINTS.store(dataset))


def splits_of(dataset, made):
    return loose([str(PATHS.splits(dataset))], made)


def checkpoint_of(method, seed):
    folder = PATHS.pretrain(method, seed)
    return [
        str(folder / name)
        for name in ("method.safetensors", "encoder.safetensors", "card.json")
    ]


def raw_folder(wildcards):
    """Only a folder the study writes itself is an input; real data are looked into before the run (benchmarks/plan.py)."""
    data = STUDY.datasets[wildcards.dataset]
    return [str(data.root)] if data.twin else []


def corpus(made):
    return [
        f
        for d in STUDY.pretrain.datasets
        for f in [*held(store_of(d), made), *splits_of(d, made)]
    ]


def pretrain_inputs(wildcards):
    of = PLAN.training(wildcards.method, wildcards.seed)
    made = PLAN.is_made("pretrain", (wildcards.method, wildcards.seed), of)
    prepared = [str(PATHS.tokenizer), *knowledge_of(wildcards.method)]
    return [*corpus(made), *gate(made), *held(prepared, made), *anew(made)]


def evaluation_inputs(wildcards):
    w, dataset = wildcards, wildcards.dataset
    cell = (w.task, w.protocol, dataset, w.row, w.seed)
    made = PLAN.is_made("evaluate", cell, PLAN.evaluation(*cell))
    block = PLAN.block(w.task, w.protocol, dataset)
    common = [*store_of(dataset), *splits_of(dataset, made), *gate(made), *anew(made)]
    if w.row in block.task.controls:
        return common
    trained = checkpoint_of(w.row, w.seed)
    if block.task.needs == "features":
        return [*common, str(PATHS.features(w.row, w.seed, dataset)), *trained]
    return [*common, *trained, str(PATHS.tokenizer), *knowledge_of(w.row)]


def knowledge_of(row):
    return [str(PATHS.knowledge)] if PLAN.rows[row].reads_knowledge else []


def mapped_is_made(row):
    return PLAN.is_made("maps", (row,), film_maps.fingerprint(PLAN, row))
