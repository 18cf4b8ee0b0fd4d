"""The model card of an exported encoder: front matter as the Hugging Face hub reads it, and what a person should know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData
from tabulate import tabulate

from benchmarks.cells import fraction_name
from benchmarks.plan import generated
from benchmarks.tasks.catalogue import tasks

if TYPE_CHECKING:
    from benchmarks.plan import Plan
    from mlip.methods import Entry

# The hub's names of tasks; any other task is `other` there.
HUB_TASKS = {
    "linear_probe": "image-classification", "few_shot": "image-classification",
    "detection": "object-detection", "segmentation": "image-segmentation",
}  # fmt: skip
STATUS = {
    "reconstruction": "a **reconstruction**: the paper's authors released no code, and its method section was not available",
    "official-agreement (losses)": "in numerical agreement with the losses of the official code",
    "official-agreement (losses and recipe)": "in agreement with the losses and the recipe of the official code",
    "control": "a **control**, not a method",
    "external": "a method entered from outside the project",
}


def card_text(
    plan: Plan, entry: Entry, seed: int, card: dict[str, Any], cells: pd.DataFrame, name: str, by_timm: bool
) -> str:
    """``README.md`` of the exported folder called ``name``.

    Parameters
    ----------
    card : ``card.json`` of the training.
    cells : the row's cells that have a value, as in ``cells.csv``.
    by_timm : whether timm loads the folder.
    """
    study, manifest = plan.study, entry.manifest
    parts = [
        f"---\n{_front(plan, entry, cells, name, by_timm).to_yaml()}\n---",
        f"# {entry.title}: image encoder",
        study.note,
        f"Seed {seed} of the row `{entry.name}` in the study `{study.study}` ({study.title}). The method is {STATUS[manifest.standing]}; "
        f"{manifest.paper}. It is for research; nothing here was evaluated for clinical use.",
        "## Load it",
        _load(plan, entry, name, by_timm),
        "## Results",
        _results(plan, entry, cells),
        "## Training",
        "\n".join(f"- {line}" for line in _training(plan, entry, card)),
        "## Licence",
        _licence(plan, entry)[1],
        "## Cite",
        manifest.citation,
    ]
    return "\n\n".join(parts) + "\n"


def _front(plan: Plan, entry: Entry, cells: pd.DataFrame, name: str, by_timm: bool) -> ModelCardData:
    licence = _licence(plan, entry)[0]
    keys = {(b.task_name, b.protocol_name, b.dataset, spec.title): spec.key for b in plan.blocks for spec in b.specs}
    results = [
        EvalResult(
            task_type=HUB_TASKS.get(c["task"], "other"),
            task_name=f"{tasks()[c['task']].title}, protocol {c['protocol']}",
            dataset_type=_dataset(plan, c["dataset"]),
            dataset_name=_named(plan, c["dataset"]),
            dataset_args={"labels": _labels(c)} if _labels(c) else None,
            metric_type=keys[c["task"], c["protocol"], c["dataset"], c["metric"]],
            metric_name=c["metric"],
            metric_value=c["value"],
        )
        for c in cells.to_dict("records")
    ]
    return ModelCardData(
        model_name=name,
        license=licence,
        license_name=None if licence != "other" else "of-the-training-data",
        library_name="timm" if by_timm else "mlip-bench",
        pipeline_tag="image-feature-extraction",
        tags=["chest-x-ray", "medical-imaging", "vision-language-pre-training", entry.manifest.id, entry.encoder],
        datasets=sorted({_dataset(plan, d) for d in plan.study.pretrain.datasets}) if entry.manifest.trained else None,
        metrics=sorted({r.metric_type for r in results}) or None,
        eval_results=results or None,
    )


def _dataset(plan: Plan, name: str) -> str:
    return f"virtual-patients-{name}" if generated(plan.study, name) else plan.sources[name].kind


def _named(plan: Plan, name: str) -> str:
    """A data set for people: one of virtual patients is called so wherever it stands."""
    return f"{name} ({'virtual patients' if generated(plan.study, name) else plan.sources[name].reader.title})"


def _labels(cell: dict[Any, Any]) -> str:
    return fraction_name(tasks()[cell["task"]], cell["fraction"])


def _load(plan: Plan, entry: Entry, name: str, by_timm: bool) -> str:
    config = entry.image_config(plan.study)
    side = config.input_size or plan.study.input_side
    if by_timm:
        line = f'import timm\n\nencoder = timm.create_model("local-dir:{name}", pretrained=True).eval()'
        what = "`local-dir:` is followed by the path of this folder; from the hub it is `hf-hub:OWNER/NAME`. `encoder(images)` gives the pooled features [B, D]."
    else:
        line = f'from mlip.encoders.exported import load_exported\n\nencoder = load_exported("{name}")'
        what = (
            "timm cannot build this network by a name (a ViT on a CNN's first stages, or with a pooling of its own); the MLIP bench's package does. "
            "`encoder(images).pooled` gives the features [B, D], `.grid` those of the patches."
        )
    return (
        f"```python\n{line}\n```\n\n{what} Images are [B, 3, {side}, {side}]: one grey film, bright = dense, as three equal channels, "
        "scaled to (x / 255 - 0.5) / 0.5."
    )


def _results(plan: Plan, entry: Entry, cells: pd.DataFrame) -> str:
    if cells.empty:
        return "None of the study's cells has a value for this row yet."
    level, seeds = round(100 * plan.study.statistics.level), len(entry.seeds(plan.study))
    lines = [
        [
            tasks()[c["task"]].title, c["protocol"], _named(plan, c["dataset"]), _labels(c), c["metric"],
            f"{100 * c['value']:.1f}", f"{100 * c['ci_low']:.1f} to {100 * c['ci_high']:.1f}",
        ]
        for c in cells.to_dict("records")
    ]  # fmt: skip
    head = ["task", "protocol", "data set", "labels", "metric", "value, %", f"{level} % interval"]
    mean = f"the mean of {seeds} trainings, of which this is one" if seeds > 1 else "of one training, this one"
    return (
        f"From `cells.csv` of the study, each value {mean}; of the tasks that see nothing but the image encoder. "
        "The leaderboard has the controls that stand beside them.\n\n"
        + tabulate(lines, headers=head, tablefmt="github", disable_numparse=True)
    )


def _training(plan: Plan, entry: Entry, card: dict[str, Any]) -> list[str]:
    config, study = entry.image_config(plan.study), plan.study
    start = [str(weights).rpartition("/")[2] for weights in config.weights if weights]
    lines = [
        f"network: `{config.name}`{' on ' + config.stem.name if config.stem else ''}, {card['parameters_image_encoder'] / 1e6:.2f} M parameters, started from "
        + (", ".join(f"`{s}`" for s in start) or "random weights")
    ]
    if entry.manifest.trained:
        sets = ", ".join(_named(plan, d) for d in study.pretrain.datasets)
        recipe = card.get("recipe", {})
        numbers = ", ".join(f"{key} {recipe[key]}" for key in ("epochs", "batch_size", "lr", "weight_decay") if key in recipe)  # fmt: skip
        lines += [
            f"data: {card['pairs']} pairs of {sets}",
            f"recipe `{study.pretrain.recipe}`: {numbers}; {card['steps']} steps",
            f"cost: {card['seconds']:.0f} s, {card['samples_per_second']:.0f} samples a second",
        ]
    off = [name for name, on in card["components"].items() if not on]
    lines += [f"switched off: {', '.join(off)}"] if off else []
    versions = ", ".join(f"{package} {card['versions'][package]}" for package in ("torch", "timm"))
    return [*lines, f"machine: {card['device']}; {versions}", f"commit: `{card['commit']}`"]


def _licence(plan: Plan, entry: Entry) -> tuple[str, str]:
    """The licence as the hub names it, and what the card says of it."""
    study = plan.study
    real = [d for d in study.pretrain.datasets if not generated(study, d)] if entry.manifest.trained else []
    weights = [w for w in entry.image_config(study).weights if w and not w.startswith("packaged:")]
    if not real and not weights:
        return (
            "apache-2.0",
            "Apache-2.0, as the project: nothing but virtual patients and weights under that licence went into it.",
        )
    lines = [f"- {plan.sources[d].reader.title}: {plan.sources[d].reader.access}" for d in real]
    lines += [f"- the weights it started from: `{w.rpartition('/')[2]}`" for w in weights]
    return "other", (
        "Not the project's to give: weights are made from data, and whoever shares them keeps to the terms of these.\n\n" + "\n".join(lines)
    )  # fmt: skip
