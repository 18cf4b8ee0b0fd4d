"""The command line: ``mlip doctor``, ``mlip audit``, ``mlip new-baseline``, ``mlip check-baseline``, ``mlip run <stage>``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mlip import stages
from mlip.errors import UserError
from mlip.log import setup_logging
from mlip.paths import StudyPaths
from mlip.study import Study, load_study

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Benchmark of medical vision-language pre-training.",
    pretty_exceptions_enable=False,
)
run_app = typer.Typer(no_args_is_help=True, help="One stage of a study (what the Snakemake rules call).")
app.add_typer(run_app, name="run")

StudyFile = Annotated[Path, typer.Option("--study", "-s", help="study file: config/*.yaml or work/<study>/study.json")]
Threads = Annotated[int, typer.Option(help="cores to use")]
DEFAULT = Path("config/twin.yaml")


def _open(path: Path, threads: int = 1) -> Study:
    stages.limit_threads(threads)
    return load_study(path)


@run_app.command()
def anatomy(study: StudyFile = DEFAULT, threads: Threads = 1) -> None:
    """Base projections of the virtual patients."""
    stages.anatomy(_open(study), threads)


@run_app.command()
def twin(dataset: str, study: StudyFile = DEFAULT, threads: Threads = 1) -> None:
    """Films and tables of one virtual hospital."""
    stages.twin(_open(study), dataset, threads)


@run_app.command()
def data(dataset: str, study: StudyFile = DEFAULT, threads: Threads = 1) -> None:
    """The image store of one data set."""
    stages.data(_open(study), dataset, threads)


@run_app.command()
def splits(dataset: str, study: StudyFile = DEFAULT) -> None:
    """Train, validation and test rows, and the draws of label fractions."""
    stages.splits(_open(study), dataset)


@run_app.command()
def tokenizer(study: StudyFile = DEFAULT) -> None:
    """The word-piece vocabulary."""
    stages.tokenizer(_open(study))


@run_app.command()
def knowledge(study: StudyFile = DEFAULT) -> None:
    """The knowledge graph and its embeddings."""
    stages.knowledge(_open(study))


@run_app.command()
def pretrain(
    method: str, seed: Annotated[int, typer.Option()] = 0, study: StudyFile = DEFAULT, threads: Threads = 1
) -> None:
    """Pre-train one row; continues after a kill."""
    stages.pretrain(_open(study, threads), method, seed)


@run_app.command()
def features(
    method: str, seed: Annotated[int, typer.Option()] = 0, study: StudyFile = DEFAULT, threads: Threads = 1
) -> None:
    """Frozen features of one row on every data set that a task wants them of."""
    stages.features(_open(study, threads), method, seed)


@run_app.command()
def evaluate(
    task: str,
    protocol: str,
    dataset: str,
    method: str,
    seed: Annotated[int, typer.Option()] = 0,
    study: StudyFile = DEFAULT,
    threads: Threads = 1,
) -> None:
    """Predictions of one row on one task."""
    stages.evaluate(_open(study, threads), task, protocol, dataset, method, seed)


@run_app.command()
def maps(
    method: str, seed: Annotated[int, typer.Option()] = 0, study: StudyFile = DEFAULT, threads: Threads = 1
) -> None:
    """Where one row looks on test films, beside the outlines of the finding."""
    stages.maps(_open(study, threads), method, seed)


@run_app.command("false-negatives")
def false_negatives(study: StudyFile = DEFAULT, threads: Threads = 1) -> None:
    """How the rows treat different patients with equal findings."""
    stages.false_negatives(_open(study, threads))


@run_app.command()
def tables(study: StudyFile = DEFAULT) -> None:
    """Tables and leaderboard from whatever predictions exist; works at any time."""
    config = _open(study)
    stages.tables(config)
    typer.echo(f"wrote {StudyPaths(config).leaderboard}")


@app.command()
def doctor(
    study: StudyFile = DEFAULT, as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False
) -> None:
    """Which data sets are there and usable, which tables are reachable, what to do next. Exit 0 only if the study can run."""
    from mlip.run.doctor import doctor as examine
    from mlip.run.doctor import render

    report = examine(_open(study))
    typer.echo(report.to_json()) if as_json else render(report)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def audit(study: StudyFile = DEFAULT) -> None:
    """Search the built data for leakage; writes work/<study>/audit.md."""
    config = _open(study)
    stages.audit(config)
    typer.echo(f"no faults; see {StudyPaths(config).audit}")


@app.command()
def check(study: StudyFile = DEFAULT) -> None:
    """Everything that can be known to be wrong before anything runs."""
    from benchmarks.plan import precheck

    precheck(_open(study))
    typer.echo(f"{study}: ok")


@app.command()
def schema() -> None:
    """The JSON schema of a study file, for editors."""
    typer.echo(json.dumps(Study.model_json_schema(), indent=1))


@app.command("new-baseline")
def new_baseline(name: str) -> None:
    """Make baselines/<name> with a manifest, a working model and a README to start from."""
    from mlip.run.scaffold import new_baseline as make

    typer.echo(f"wrote {make(name)}; next: edit it, then `mlip check-baseline {name}`")


@app.command("check-baseline")
def check_baseline(name: str) -> None:
    """Run the contract checks over one method folder."""
    from mlip.run.scaffold import check_baseline as examine

    for line in examine(name):
        typer.echo(line)


def main() -> None:
    """Entry point: a mistake of the user is one line on stderr and exit status 2."""
    setup_logging()
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
