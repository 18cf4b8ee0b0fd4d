"""The command line: ``mlip doctor``, ``mlip check``, ``mlip claims``, ``mlip audit``, ``mlip fetch``, ``mlip splits``, ``mlip wanted``,
``mlip new-baseline``, ``mlip check-baseline``, ``mlip run <stage>``; those that hand results on stand in ``sharing.py``. Imports are
local: a command pays for its own libraries only.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlip.errors import UserError
from mlip.log import setup_logging
from mlip.run import sharing
from mlip.run.fetch import fetch
from mlip.run.jobs import inputs_of, perform
from mlip.study import Study, load_study

if TYPE_CHECKING:
    from benchmarks.plan import Plan

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Benchmark of medical vision-language pre-training.",
    pretty_exceptions_enable=False,
)
run_app = typer.Typer(no_args_is_help=True, help="One stage of a study (what the Snakemake rules call).")
app.add_typer(run_app, name="run")
app.command()(fetch)
splits_app = typer.Typer(no_args_is_help=True, help="Divisions to publish.")
app.add_typer(splits_app, name="splits")
for command in (sharing.export, sharing.pack, sharing.unpack):
    app.command()(command)

StudyFile = Annotated[
    Path, typer.Option("--study", "-s", envvar="MLIP_STUDY", help="study file: config/*.yaml; a run sets the variable")
]
Threads = Annotated[int, typer.Option(help="cores to use")]
Seed = Annotated[int, typer.Option(help="pre-training seed")]
DEFAULT = Path("config/twin.yaml")


def _plan(path: Path, threads: int = 1, look: bool = False) -> Plan:
    limit_threads(threads)
    from benchmarks.plan import resolve

    return resolve(load_study(path), look)


def limit_threads(threads: int) -> None:
    """Keep BLAS and OpenMP to the cores Snakemake gave the job; the variables count where numpy and torch come later."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:  # a job of a warm server (mlip/run/warm.py)
        sys.modules["torch"].set_num_threads(threads)


def _known(plan: Plan, what: str, name: str, among: object) -> None:
    if name not in (names := sorted(among)):  # type: ignore[call-overload]
        raise UserError(f"study {plan.study.study} has no {what} {name!r}", fix=f"one of {', '.join(names)}")


@run_app.command()
def anatomy(study: StudyFile = DEFAULT, threads: Threads = 1) -> None:
    """Base projections of the virtual patients."""
    from mlip.run.stages import anatomy as stage

    plan = _plan(study, threads)
    perform(plan, "anatomy", (), plan.fingerprints.anatomy(), lambda: stage.run(plan, threads))


@run_app.command()
def twin(hospital: str, study: StudyFile = DEFAULT, threads: Threads = 1) -> None:
    """Films and tables of one virtual hospital."""
    from mlip.run.stages import twin as stage

    plan = _plan(study, threads)
    _known(plan, "virtual hospital", hospital, plan.study.twin.datasets if plan.study.twin else {})
    perform(
        plan,
        "twin",
        (hospital,),
        plan.fingerprints.twin(hospital),
        lambda: stage.run(plan, hospital, threads),
    )


@run_app.command()
def data(dataset: str, study: StudyFile = DEFAULT, threads: Threads = 1) -> None:
    """The image store of one data set."""
    from mlip.run.stages import data as stage

    plan = _plan(study, threads)
    _known(plan, "data set", dataset, plan.study.datasets)
    perform(plan, "data", (dataset,), plan.fingerprints.store(dataset), lambda: stage.run(plan, dataset, threads))


@run_app.command()
def splits(dataset: str, study: StudyFile = DEFAULT) -> None:
    """Train, validation and test rows, and the draws of label fractions."""
    from mlip.run.stages import splits as stage

    plan = _plan(study)
    _known(plan, "data set", dataset, plan.study.datasets)
    perform(plan, "splits", (dataset,), plan.fingerprints.splits(dataset), lambda: stage.run(plan, dataset))


@run_app.command("audit")
def audit_stage(study: StudyFile = DEFAULT) -> None:
    """Search the built data for leakage."""
    _audit(study)


@run_app.command()
def tokenizer(study: StudyFile = DEFAULT) -> None:
    """The word-piece vocabulary."""
    from mlip.run.stages import tokenizer as stage

    plan = _plan(study)
    perform(plan, "tokenizer", (), plan.fingerprints.tokenizer(), lambda: stage.run(plan))


@run_app.command()
def knowledge(study: StudyFile = DEFAULT) -> None:
    """The knowledge graph and its embeddings."""
    from mlip.run.stages import knowledge as stage

    plan = _plan(study)
    perform(plan, "knowledge", (), plan.fingerprints.knowledge(), lambda: stage.run(plan))


@run_app.command()
def pretrain(row: str, seed: Seed = 0, study: StudyFile = DEFAULT, threads: Threads = 1) -> None:
    """Pre-train one row; continues after a kill."""
    from mlip.pretraining.processes import launched
    from mlip.run.stages import pretrain as stage

    plan = _plan(study, threads)
    if launched().rank:  # torchrun or srun has started several: the first one notes how it ended
        stage.run(plan, row, seed)
        return
    perform(plan, "pretrain", (row, seed), plan.training(row, seed), lambda: stage.run(plan, row, seed))


@run_app.command()
def features(
    row: str,
    dataset: Annotated[
        str | None, typer.Argument(help="one data set; without: all that a task wants features of")
    ] = None,
    seed: Seed = 0,
    study: StudyFile = DEFAULT,
    threads: Threads = 1,
) -> None:
    """Frozen features of one row."""
    plan = _plan(study, threads)
    if dataset:
        _known(plan, "data set", dataset, plan.sources)
    for name in [dataset] if dataset else plan.feature_sets:
        _features(plan, row, name, seed)


def _features(plan: Plan, row: str, dataset: str, seed: int) -> None:
    from mlip.run.stages import features as stage

    perform(
        plan,
        "features",
        (row, seed, dataset),
        plan.features(row, seed, dataset),
        lambda: stage.run(plan, row, seed, dataset),
    )


@run_app.command()
def evaluate(
    task: str,
    protocol: str,
    dataset: str,
    row: str,
    seed: Seed = 0,
    study: StudyFile = DEFAULT,
    threads: Threads = 1,
) -> None:
    """Predictions of one row on one task."""
    from mlip.run.stages import evaluate as stage

    plan, cell = _plan(study, threads), (task, protocol, dataset, row, seed)
    perform(
        plan,
        "evaluate",
        cell,
        plan.evaluation(*cell),
        lambda: stage.run(plan, *cell, made_from=inputs_of(plan, *cell)),
    )


@run_app.command()
def maps(row: str, study: StudyFile = DEFAULT, threads: Threads = 1) -> None:
    """Where one row looks on test films, beside the outlines of the finding."""
    from benchmarks.analyses.maps import fingerprint
    from mlip.run.stages import maps as stage

    plan = _plan(study, threads)
    perform(plan, "maps", (row,), fingerprint(plan, row), lambda: stage.run(plan, row))


@run_app.command("false-negatives")
def false_negatives(study: StudyFile = DEFAULT, threads: Threads = 1) -> None:
    """How the rows treat different patients with equal findings."""
    from benchmarks.analyses.false_negatives import fingerprint
    from mlip.run.stages import false_negatives as stage

    plan = _plan(study, threads)
    perform(plan, "false_negatives", (), fingerprint(plan), lambda: stage.run(plan))


@run_app.command()
def parts(study: StudyFile = DEFAULT, threads: Threads = 1) -> None:
    """Whether each part of each trained method uses its input."""
    from benchmarks.analyses.parts import fingerprint
    from mlip.run.stages import parts as stage

    plan = _plan(study, threads)
    perform(plan, "parts", (), fingerprint(plan), lambda: stage.run(plan))


@run_app.command()
def tables(study: StudyFile = DEFAULT, threads: Threads = 1) -> None:
    """Tables and leaderboard from whatever predictions exist; works at any time."""
    from mlip.run.stages import tables as stage

    plan = _plan(study, threads)
    perform(plan, "tables", (), plan.tables(), lambda: stage.run(plan, threads))
    typer.echo(f"wrote {plan.paths.leaderboard}")


@app.command()
def doctor(
    study: StudyFile = DEFAULT, as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False
) -> None:
    """Which data sets are there and usable, which tables are reachable, what to do next. Exit 0 only if the study can run."""
    from mlip.run.doctor import doctor as examine
    from mlip.run.doctor import render

    limit_threads(1)
    report = examine(load_study(study))
    typer.echo(report.to_json()) if as_json else render(report)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def audit(study: StudyFile = DEFAULT) -> None:
    """Search the built data for leakage; writes work/<study>/audit.md."""
    plan = _audit(study)
    typer.echo(f"no faults; see {plan.paths.audit}")


def _audit(study: Path) -> Plan:
    from mlip.run.stages import audit as stage

    plan = _plan(study)
    perform(plan, "audit", (), plan.fingerprints.audit(), lambda: stage.run(plan))
    return plan


@splits_app.command("export")
def export_splits(
    what: Annotated[str, typer.Argument(metavar="STUDY/DATASET", help="a study of config/ and a data set of it")],
    out: Annotated[Path, typer.Option(help="a new folder, outside the results")],
) -> None:
    """Which image is in which part, under the data set's own identifiers; `split: lists:<folder>` reads it again."""
    from mlip.data.catalogue import resolve
    from mlip.data.publish import export_splits as export

    name, _, dataset = what.rpartition("/")
    study = load_study(name if name.endswith((".yaml", ".json")) else Path("config") / f"{name}.yaml")
    counts = export(study, dataset, out)
    if resolve(study, dataset)[0].credentialed:
        warning = f"warning: {out} holds identifiers of data under an agreement, or of your own patients; see whether they may be published"
        typer.echo(warning, err=True)
    typer.echo(f"wrote {out}: {', '.join(f'{count} {part}' for part, count in counts.items())}")


@app.command()
def check(study: StudyFile = DEFAULT) -> None:
    """Everything that can be known to be wrong before anything runs."""
    plan = _plan(study, look=True)
    for name, fault in plan.broken.items():
        typer.echo(f"row {name} will be shown as failed: {fault}", err=True)
    if plan.broken:
        raise typer.Exit(1)
    typer.echo(f"{study}: ok")


@app.command()
def claims(
    file: Annotated[Path, typer.Option(help="the claims")] = Path("config/claims.yaml"),
    out: Annotated[Path, typer.Option(help="the page")] = Path("results/claims.md"),
) -> None:
    """What the computed studies say about the papers' claims; reads predictions only, and says which are missing."""
    limit_threads(1)
    from benchmarks.report.claims import read_claims, write_page

    write_page(read_claims(file), lambda name: _plan(Path("config") / f"{name}.yaml"), out)
    typer.echo(f"wrote {out}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="results/<study> of one run, e.g. the committed one")],
    second: Annotated[
        Path, typer.Argument(help="the same of another run; or benchmarks/published, for what papers report")
    ],
    out: Annotated[Path | None, typer.Option(help="write the page here; without: print it")] = None,
) -> None:
    """Whether a second run reproduces a first, or a run what papers report, cell by cell. Exit 0 if it does, 1 if not."""
    from benchmarks.report.compare import Run
    from benchmarks.report.compare import compare as examine
    from benchmarks.report.compare import page as written
    from benchmarks.report.published import against_papers, is_published, papers_page

    a = Run.read(first)
    if is_published(second):
        from benchmarks.plan import resolve

        table = against_papers(a.made, a.cells, second, lambda study: resolve(study, look=False))
        text, reproduces = papers_page(table, first), not table["verdict"].str.fullmatch("ours (higher|lower)").any()
    else:
        b = Run.read(second)
        found = examine(a, b)
        text, reproduces = written(a, b, found), found.reproduces
    if out:
        out.write_text(text, encoding="utf-8")
        typer.echo("\n".join(text.splitlines()[2:8]))
    else:
        typer.echo(text)
    raise typer.Exit(0 if reproduces else 1)


@app.command("stand-ins")
def stand_ins(
    folder: Annotated[Path, typer.Argument(help="a folder for HF_HUB_CACHE, about 1.2 GB")],
    study: StudyFile = Path("config/paper-rehearsal.yaml"),
) -> None:
    """Random weights where a study loads trained ones from the hub, for a rehearsal without network. Their numbers mean nothing."""
    from mlip.run.stand_ins import write_stand_ins

    limit_threads(1)
    names = write_stand_ins(load_study(study), folder)
    typer.echo(f"wrote {', '.join(names)}; run the study with HF_HUB_CACHE={folder} HF_HUB_OFFLINE=1")


@app.command()
def schema(out: Annotated[Path | None, typer.Option(help="write it here; without: print it")] = None) -> None:
    """The JSON schema of a study file, for editors."""
    text = json.dumps(Study.model_json_schema(), indent=1)
    out.write_text(text + "\n", encoding="utf-8") if out else typer.echo(text)


@app.command()
def wanted(out: Annotated[Path, typer.Argument(help="folder for the two lists")], study: StudyFile = DEFAULT) -> None:
    """Which films and texts a row of embeddings must give vectors of (docs/own-weights.md)."""
    from mlip.run.wanted import write_wanted

    for path in write_wanted(_plan(study), out):
        typer.echo(f"wrote {path}")


@app.command("new-baseline")
def new_baseline(name: str) -> None:
    """Make baselines/<name> with a manifest, a working model and a README to start from."""
    from mlip.run.scaffold import new_baseline as make

    typer.echo(f"wrote {make(name)}; next: edit it, then `mlip check-baseline {name}`")


@app.command("check-baseline")
def check_baseline(
    name: Annotated[str, typer.Argument(help="a method's name or folder; with --study a row that names weights")],
    verbose: Annotated[bool, typer.Option("--verbose", help="whole tracebacks of a method's mistakes")] = False,
    study: Annotated[Path | None, typer.Option("--study", "-s", help="study file whose row is checked")] = None,
) -> None:
    """Run the contract checks over one method folder, or over a row with its checkpoint at its own size."""
    from mlip.run.scaffold import check_baseline as examine

    for line in examine(name, verbose, load_study(study) if study else None):
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
