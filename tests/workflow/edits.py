"""Edits of a checkout and of a study, and the jobs of a finished smoke study that depend on each: these and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.data.layouts import write_image_csv

ROWS = ("cvpr24", "isbi24", "random")
TRAINED = ("cvpr24", "isbi24")
SITES = ("mimic", "rsna", "siim", "covidx", "object_cxr", "chexpert", "nih", "iu_xray", "covid_chestxray", "image_csv")
# task -> its data set in the smoke study, and its controls
TASKS = {
    "linear_probe": ("covidx", ("constant",)),
    "zero_shot": ("siim", ("constant",)),
    "few_shot": ("rsna", ("constant",)),
    "retrieval": ("mimic", ("chance",)),
    "detection": ("object_cxr", ("prior-box",)),
    "segmentation": ("siim", ("empty-mask", "mean-mask")),
}
FEATURES = ("covidx", "rsna")


def evaluations(task: str, rows: tuple[str, ...] = ROWS, controls: bool = True, seed: int = 0) -> set[str]:
    dataset, own = TASKS[task]
    found = {f"evaluate {task} {dataset} {row} {seed}" for row in rows}
    return found | ({f"evaluate {task} {dataset} {name} 0" for name in own} if controls else set())


def everywhere(rows: tuple[str, ...] = ROWS, controls: bool = True, seed: int = 0) -> set[str]:
    return set().union(*(evaluations(task, rows, controls, seed) for task in TASKS))


def features(rows: tuple[str, ...] = ROWS, seed: int = 0) -> set[str]:
    return {f"features {row} {seed} {dataset}" for row in rows for dataset in FEATURES}


def maps(rows: tuple[str, ...] = TRAINED) -> set[str]:
    return {f"maps {row}" for row in rows if row in TRAINED}


PAIRS, TABLES = {"false_negatives"}, {"tables"}


def training(*rows: str, seed: int = 0) -> set[str]:
    """A training and all that is made from it."""
    made = {f"pretrain {row} {seed}" for row in rows} | features(rows, seed) | everywhere(rows, False, seed)
    return made | maps(rows) | PAIRS | TABLES


def stores(*names: str) -> set[str]:
    return {f"store {name}" for name in names}


def splits(*names: str) -> set[str]:
    return {f"splits {name}" for name in names}


@dataclass(frozen=True)
class Edit:
    """One edit: ``change(checkout, config)`` changes files of a copy of the sources, or keys of the study in place."""

    name: str
    change: Callable[[Path, dict[str, Any]], object]
    expected: set[str]
    only_files: bool = False  # seen in the work folder, not in a fingerprint

    def __str__(self) -> str:
        return self.name


def code(path: str, line: str = "_EDITED = 1") -> Callable[[Path, dict[str, Any]], object]:
    """A line of code more in a file of the checkout."""

    def change(checkout: Path, _: dict[str, Any]) -> None:
        file = checkout / path
        file.write_text(file.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")

    return change


def text(path: str, old: str, new: str) -> Callable[[Path, dict[str, Any]], object]:
    def change(checkout: Path, _: dict[str, Any]) -> None:
        file = checkout / path
        before = file.read_text(encoding="utf-8")
        assert old in before, f"{path} no longer holds {old!r}"
        file.write_text(before.replace(old, new, 1), encoding="utf-8")

    return change


def keys(**values: Any) -> Callable[[Path, dict[str, Any]], object]:
    """Keys of the study: ``tasks__few_shot__draws=3``."""

    def change(_: Path, config: dict[str, Any]) -> None:
        for path, value in values.items():
            *parents, last = path.split("__")
            at = config
            for parent in parents:
                at = at.setdefault(parent, {})
            at[last] = value

    return change


def removed(path: str) -> Callable[[Path, dict[str, Any]], object]:
    """A file of the finished study is gone."""

    def change(_: Path, config: dict[str, Any]) -> None:
        (Path(config["work"]).parent / path).unlink()

    return change


def new_file(path: str, content: str) -> Callable[[Path, dict[str, Any]], object]:
    def change(checkout: Path, _: dict[str, Any]) -> None:
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text(content, encoding="utf-8")

    return change


def a_new_site(task: str | None) -> Callable[[Path, dict[str, Any]], object]:
    def change(_: Path, config: dict[str, Any]) -> None:
        config["twin"]["datasets"]["mine"] = {"writer": "rsna", "images": 20}
        config["datasets"]["mine"] = {"reader": "rsna", "twin": "mine"}
        if task:
            config["tasks"][task]["datasets"].append("mine")

    return change


def films_and_a_table(checkout: Path, config: dict[str, Any]) -> None:
    """Real films beside the sources, read by a table, with targets and prompts in the study."""
    root, prompts = checkout / "ours", checkout / "words.yaml"
    write_image_csv(root)
    table = (root / "films.csv").read_text(encoding="utf-8").splitlines()
    cells = [f"{line},{'Mass' if i == 0 else i % 2}" for i, line in enumerate(table)]
    (root / "films.csv").write_text("\n".join(cells) + "\n", encoding="utf-8")
    words = 'source: ours\ntemplates: {positive: ["{name}"], negative: ["no {name}"]}\nclasses: {Mass: mass}\n'
    prompts.write_text(words, encoding="utf-8")
    config["datasets"]["ours"] = {"reader": "image_csv", "root": str(root), "options": {"labels": ["Mass"]}}
    for task, more in (("linear_probe", {}), ("zero_shot", {"prompts": str(prompts)})):
        config["tasks"][task]["datasets"].append("ours")
        config["tasks"][task]["targets"] = {"ours": {"labels": ["Mass"], **more}}


# Everything that pairs, stores and splits feed: all but the virtual patients themselves, the knowledge and the tokeniser.
ALL_TRANSFER = training(*ROWS) | everywhere()
FROM_TOKENS = {"tokenizer"} | training(*ROWS)
SIIM = (
    stores("siim")
    | splits("siim")
    | {"audit"}
    | evaluations("zero_shot")
    | evaluations("segmentation")
    | maps()
    | TABLES
)

EDITS = [
    # --- edits that changed nothing, and numbers of the old code stood in the tables
    Edit("metrics", code("benchmarks/scores/metrics.py"), TABLES),
    Edit("statistics", code("benchmarks/scores/statistics.py"), TABLES | maps() | PAIRS),
    Edit("prompts", code("benchmarks/tasks/shared/prompts.py"), evaluations("zero_shot") | TABLES),
    Edit("linear probe", code("benchmarks/tasks/linear_probe.py"), evaluations("linear_probe") | TABLES),
    Edit("training loop", code("mlip/pretraining/loop.py"), training(*ROWS)),
    Edit("image encoders", code("mlip/encoders/image.py"), training(*ROWS)),
    Edit("pairs", code("mlip/pretraining/batches.py"), FROM_TOKENS),
    Edit(
        "making of the store",
        code("mlip/data/build.py"),
        stores(*SITES) | splits(*SITES) | {"audit"} | FROM_TOKENS | ALL_TRANSFER,
    ),
    Edit(
        "making of the splits", code("mlip/data/division.py"), splits(*SITES) | {"audit"} | FROM_TOKENS | (ALL_TRANSFER)
    ),
    Edit("a reader", code("mlip/data/readers/siim.py"), SIIM),
    Edit(
        "expert knowledge",
        text("mlip/knowledge/chest.yaml", "phrases:", "phrases: [a new phrase]\n    old:"),
        {"knowledge"} | training("cvpr24"),
    ),
    Edit(
        "anatomy of the twin",
        code("mlip/twin/anatomy.py"),
        {"anatomy"}
        | {f"twin {s}" for s in SITES}
        | stores(*SITES)
        | splits(*SITES)
        | {"audit"}
        | FROM_TOKENS
        | ALL_TRANSFER,
    ),
    Edit("a method's sub-folder", new_file("mlip/isbi24/parts/table.txt", "1 2 3\n"), training("isbi24")),
    Edit("weights to start from", keys(encoders__cnn__args__layers=[1, 1, 1, 2]), training("cvpr24", "random")),
    Edit("a deleted table", removed("results/smoke/few_shot.md"), TABLES, only_files=True),
    Edit("deleted masks", removed("work/smoke/data/siim/masks.npy"), SIIM, only_files=True),
    # --- edits that repeated too much
    Edit(
        "another seed",
        keys(pretrain__seeds=[0, 1]),
        {f"pretrain {row} 1" for row in ROWS}
        | features(ROWS, 1)
        | everywhere(ROWS, False, 1)
        | TABLES
        | maps()  # these two are means over all seeds
        | {"false_negatives"},
    ),
    Edit("threads", keys(pretrain__threads=2), set()),
    Edit("a data set in no task", a_new_site(None), {"twin mine", "store mine", "splits mine", "audit"}),
    Edit(
        "films of one's own as a task",
        a_new_site("linear_probe"),
        {"twin mine", "store mine", "splits mine", "audit"}
        | {f"features {row} 0 mine" for row in ROWS}
        | {f"evaluate linear_probe mine {row} 0" for row in (*ROWS, "constant")}
        | TABLES,
    ),
    Edit(
        "films and a table of one's own, with targets and prompts",
        films_and_a_table,
        {"store ours", "splits ours", "audit"}
        | {f"features {row} 0 ours" for row in ROWS}
        | {f"evaluate {task} ours {row} 0" for task in ("linear_probe", "zero_shot") for row in (*ROWS, "constant")}
        | TABLES,
    ),
    Edit(
        "a part of a reader",
        code("mlip/data/readers/image_csv/cells.py"),
        stores("image_csv") | splits("image_csv") | {"audit"},
    ),
    Edit("further draws of shots", keys(tasks__few_shot__draws=3), evaluations("few_shot") | TABLES),
    Edit(
        "another division",
        keys(datasets__covidx__split="strict"),
        splits("covidx") | {"audit"} | evaluations("linear_probe") | TABLES,
    ),
    Edit("a part of one method", code("mlip/cvpr24/fusion.py"), training("cvpr24")),
    Edit("a protocol's title", text("benchmarks/protocols/few_shot/strict.yaml", "title: ", "title: New "), TABLES),
    # --- and others
    Edit("a comment", code("mlip/pretraining/loop.py", "# nothing"), set()),
    Edit("a docstring", text("mlip/pretraining/batches.py", '"""', '"""New. '), set()),
    Edit("the study's title", keys(title="Another"), TABLES | PAIRS),
    Edit("the study's note", keys(data_note="Another."), TABLES | PAIRS | maps()),
    Edit("resamples", keys(statistics__bootstrap=50), TABLES | PAIRS | maps()),
    Edit(
        "a method's title",
        text("mlip/isbi24/method.yaml", "title: ", "title: New "),
        TABLES | PAIRS | maps(("isbi24",)),
    ),
    Edit("a method's README", code("mlip/isbi24/README.md", "More."), set()),
    Edit(
        "the recipe of another tier",
        text(
            "mlip/isbi24/method.yaml",
            "  paper:\n",
            "  other: {epochs: 1, batch_size: 2, lr: 0.1, weight_decay: 0}\n  paper:\n",
        ),
        set(),
    ),
    Edit("longer knowledge", keys(knowledge__epochs=6), {"knowledge"} | training("cvpr24")),
    Edit(
        "a protocol's entry for a data set in no task",
        text(
            "benchmarks/protocols/linear_probe/strict.yaml",
            "  iu_xray: {labels: [Atelectasis, ",
            "  iu_xray: {labels: [",
        ),
        TABLES,
    ),
    Edit(
        "an address of `mlip fetch`", text("mlip/fetch/sources/iu_xray.yaml", "size: 16000000", "size: 17000000"), set()
    ),
    Edit("the downloader", code("mlip/fetch/download.py"), set()),
    Edit(
        "a probe's grid",
        text("benchmarks/protocols/linear_probe/strict.yaml", "folds: 3", "folds: 4"),
        evaluations("linear_probe") | TABLES,
    ),
    Edit("what is scored later", text("benchmarks/protocols/retrieval/strict.yaml", "[10, 5, 1]", "[10, 1]"), TABLES),
    Edit("words of an error", code("mlip/errors.py"), set()),
    Edit("the command line", code("mlip/run/cli.py"), set()),
    Edit("figures", code("benchmarks/report/figures.py"), TABLES),
    Edit("how often a state is written", keys(pretrain__checkpoint_seconds=5.0), set()),
    Edit("a device", keys(device="cpu"), set()),
    Edit("text length", keys(encoders__text__max_tokens=48), FROM_TOKENS),
    Edit("a task less", lambda _, config: config["tasks"].pop("few_shot"), TABLES | {"audit"}),
    Edit("a folder of someone else's", new_file("baselines/mine/method.yaml", "id: [broken"), set()),
    Edit("a new key of the study's model", code("mlip/study.py"), set()),
]
