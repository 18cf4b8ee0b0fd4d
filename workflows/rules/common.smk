# The study, read once and checked before anything runs.

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir).resolve()))
sys.path.insert(0, str(Path(workflow.basedir).resolve().parent))

try:
    from benchmarks.analyses import false_negatives
    from benchmarks.analyses import maps as film_maps
    from benchmarks import plan as planning
    from mlip.run import warm
    from mlip.errors import UserError
    from mlip.paths import StudyPaths
    from benchmarks.tasks.catalogue import tasks
    from mlip.methods import entries
    from mlip.study import parse_study, write_study
except ImportError as error:
    raise WorkflowError(
        f"{error}. Fix: run snakemake from the project's environment (`make env`, then `source .venv/bin/activate`)"
    )

try:
    STUDY = parse_study(
        config, where=workflow.configfiles[-1] if workflow.configfiles else "--config"
    )
    planning.precheck(STUDY)
except UserError as error:
    raise WorkflowError(str(error))

PATHS = StudyPaths(STUDY)
ROWS = entries(STUDY)
TASKS = tasks()
EVALUATIONS = planning.evaluations(STUDY)
write_study(STUDY, PATHS.resolved)
STUDY_FILE = str(PATHS.resolved)
PREDICTIONS = [
    str(PATHS.predictions(e.task, e.protocol, e.dataset, e.row, e.seed))
    for e in EVALUATIONS
]
LEADERBOARD = str(PATHS.leaderboard)
WORK = str(PATHS.work)
FEATURE_SETS = planning.feature_sets(STUDY)
TWINS = sorted({d.twin for d in STUDY.datasets.values() if d.twin})


def one_of(names):
    return "|".join(sorted(names)) or "none"


wildcard_constraints:
    dataset=one_of(STUDY.datasets),
    hospital=one_of(TWINS),
    method=one_of(ROWS),
    row=one_of({e.row for e in EVALUATIONS}),
    task=one_of(STUDY.tasks),
    protocol=one_of({e.protocol for e in EVALUATIONS}),
    seed=r"\d+",


def store_of(dataset):
    return [
        str(PATHS.data(dataset) / name)
        for name in ("records.parquet", "manifest.json", "images.npy")
    ]


def checkpoint_of(method, seed):
    folder = PATHS.pretrain(method, seed)
    return [str(folder / "method.safetensors"), str(folder / "encoder.safetensors")]


def raw_folder(wildcards):
    """Only a folder the study writes itself is an input; real data are checked before the run (planning.precheck)."""
    config = STUDY.datasets[wildcards.dataset]
    return [str(config.root)] if config.twin else []


def corpus(_):
    return [
        f for d in STUDY.pretrain.datasets for f in [*store_of(d), str(PATHS.splits(d))]
    ]


def evaluation_inputs(wildcards):
    task, dataset = TASKS[wildcards.task], wildcards.dataset
    common = [*store_of(dataset), str(PATHS.splits(dataset)), str(PATHS.audit)]
    if wildcards.row in task.controls:
        return common
    weights = checkpoint_of(wildcards.row, wildcards.seed)
    if task.needs == "features":
        return [*common, str(PATHS.features(wildcards.row, wildcards.seed, dataset))]
    return [*common, *weights, str(PATHS.tokenizer), str(PATHS.knowledge)]
