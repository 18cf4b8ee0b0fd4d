"""What each thing of a study depends on: the configuration it reads, the code it can reach, and what it is made from.

One method per kind of thing. Snakemake gets the keys as parameters, so that an edit repeats exactly what depends on it;
the things themselves carry them, so that a table shows a number only where it is the one that would be made today.

Not part of any fingerprint: where files lie, how many cores or devices of which kind compute, titles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip.data.catalogue import resolve
from mlip.manifest import Recipe
from mlip.methods import Entry, recipe_of
from mlip.paths import ROOT
from mlip.source_code import code_of, content_of, digest
from mlip.study import ImageEncoderConfig, Study, WeightsConfig

if TYPE_CHECKING:
    from pydantic import BaseModel

STAGES = "mlip.run.stages"
KNOWLEDGE = "mlip.knowledge"
PLACES = ("file", "folder", "texts", "trained_on")  # of a checkpoint, whose content counts
OF_METHODS = (KNOWLEDGE, "mlip.contract", "mlip.encoders", "mlip.pretraining")  # what a control of a task never needs


@dataclass(frozen=True)
class Fingerprint:
    """Two hashes, 16 hex characters each, and the key that both make.

    ``keeps``: the thing outlives a change of code (``pretrain.on_code_change: mark``), so its key is of the settings alone.
    """

    settings: str
    code: str
    keeps: bool = False

    @property
    def key(self) -> str:
        return self.settings if self.keeps else digest(self.settings, self.code)


class Fingerprints:
    """The fingerprints of one study.

    Parameters
    ----------
    study : the study.
    draws : how many label draws the splits of each data set hold.
    """

    def __init__(self, study: Study, draws: dict[str, int]) -> None:
        self.study, self.draws = study, draws
        self.marks = study.pretrain.on_code_change == "mark"
        self._found: dict[tuple[Any, ...], Fingerprint] = {}

    # --- data ---------------------------------------------------------------------------------------------------------

    def anatomy(self) -> Fingerprint:
        twin = self.study.twin
        assert twin is not None
        return self._of(("anatomy",), lambda: ([self.study.seed, twin.anatomies, twin.size], _stage("anatomy"), []))

    def twin(self, hospital: str) -> Fingerprint:
        twin = self.study.twin
        assert twin is not None
        config = twin.datasets[hospital]
        code = _stage("twin", f"mlip.twin.writers.{config.writer}")
        return self._of(
            ("twin", hospital), lambda: ([self.study.seed, twin.size, _values(config)], code, [self.anatomy()])
        )

    def store(self, name: str) -> Fingerprint:
        config = self.study.datasets[name]
        code = _stage("data", f"mlip.data.readers.{config.reader}")

        def parts() -> Any:
            settings = [self.study.image_size, config.reader, config.options, config.max_corrupt]
            if config.twin:
                return settings, code, [self.twin(config.twin)]
            return [*settings, str(config.root), self._tables(name)], code, []

        return self._of(("store", name), parts)

    def division(self, name: str) -> Fingerprint:
        """Which row is in which part. The label draws are not in it: a further one moves no film."""
        config = self.study.datasets[name]
        lists = config.split.startswith("lists:")
        code = _stage("splits", *([f"mlip.data.readers.{config.reader}"] if lists else []))

        def parts() -> Any:
            files = _files(Path(config.split.removeprefix("lists:"))) if lists else []
            return [self.study.seed, name, config.split, files], code, [self.store(name)]

        return self._of(("division", name), parts)

    def splits(self, name: str) -> Fingerprint:
        return self._of(("splits", name), lambda: ([self.draws.get(name, 1)], "", [self.division(name)]))

    def audit(self) -> Fingerprint:
        def parts() -> Any:
            study = self.study
            at_one_percent = sorted({d for task in study.tasks.values() if 1 in task.fractions for d in task.datasets})
            used = sorted({d for task in study.tasks.values() for d in task.datasets})
            settings: list[Any] = [study.pretrain.datasets, used, at_one_percent]
            if elsewhere := {n: v.weights.trained_on for n, v in study.methods.variants.items() if v.weights}:
                settings.append(elsewhere)
            return settings, _stage("audit"), [self.splits(name) for name in study.datasets]

        return self._of(("audit",), parts)

    # --- pre-training -------------------------------------------------------------------------------------------------

    def corpus(self) -> list[Fingerprint]:
        """What the pairs are made from."""
        return [self.division(name) for name in self.study.pretrain.datasets]

    def tokenizer(self) -> Fingerprint:
        text = self.study.encoders.text

        def parts() -> Any:
            settings = [text.pretrained, _given(text.pretrained), text.max_tokens]
            if text.pretrained:
                return settings, _stage("tokenizer"), []
            return [*settings, text.vocabulary], _stage("tokenizer"), self.corpus()

        return self._of(("tokenizer",), parts)

    def knowledge(self) -> Fingerprint:
        config = self.study.knowledge

        def parts() -> Any:
            files = _files(config.root) if config.root else []
            return [self.study.seed, _values(config, "root"), files], _stage("knowledge"), []

        return self._of(("knowledge",), parts)

    def training(self, entry: Entry, seed: int) -> Fingerprint:
        """One training: its own seed, not the list of seeds."""
        study = self.study

        def parts() -> Any:
            image = entry.image_config(study)
            text = study.encoders.text
            settings: list[Any] = [
                study.seed,
                study.image_size,
                entry.encoder,
                _values(image),
                [_given(given) for given in image.weights],
            ]
            settings += [_values(text), _given(text.pretrained), entry.components, _params(entry)]
            settings += [entry.training_seed(seed), entry.reads_knowledge]
            made_from = [self.tokenizer(), *([self.knowledge()] if entry.reads_knowledge else [])]
            if entry.calibrated:
                made_from += self.corpus()
            settings += [{"crop_size": study.crop_size}] if study.crop_size else []
            if entry.weights is not None:
                settings += [
                    entry.manifest.released,
                    _values(entry.weights, *PLACES),
                    [_contents(p) for p in _paths(entry.weights)],
                ]
            if entry.trained:
                settings += [_recipe(recipe_of(entry, study)), study.pretrain.precision, study.pretrain.devices]
                made_from += self.corpus()
                settings += [entry.pairs] if entry.pairs < 100 else []
                settings += [{"steps": study.pretrain.steps}] if study.pretrain.steps else []
                settings += _cut(study)
            return settings, self._method_code("pretrain", entry), made_from

        found = self._of(("training", entry.name, seed), parts)
        return replace(found, keeps=True) if self.marks else found

    # --- transfer -----------------------------------------------------------------------------------------------------

    def features(self, entry: Entry, seed: int, dataset: str) -> Fingerprint:
        made_from = lambda: [self._trained(entry, seed), self.store(dataset)]  # noqa: E731
        return self._of(
            ("features", entry.name, seed, dataset),
            lambda: ([], self._method_code("features", entry), made_from()),
        )

    def evaluation(
        self, task: str, dataset: str, settings: Any, entry: Entry | None, row: str, seed: int, features: bool
    ) -> Fingerprint:
        """One predictions file.

        Parameters
        ----------
        settings : what moves its numbers: the protocol, fractions and draws.
        entry : the row, None for a control of the task, which is then named by ``row``.
        features : whether the task reads frozen features instead of the method.
        """

        def parts() -> Any:
            made_from = [self.division(dataset)]
            modules = (f"benchmarks.tasks.{task}",)
            if entry is None:
                code = _stage("evaluate", *modules, without=OF_METHODS)
            elif features:
                # The method's own code speaks through the features.
                code = _stage("evaluate", *modules, without=() if entry.reads_knowledge else (KNOWLEDGE,))
                made_from.append(self.features(entry, seed, dataset))
            else:
                code = self._method_code("evaluate", entry, *modules)
                made_from.append(self._trained(entry, seed))
            return [self.study.seed, dataset, settings, row if entry is None else ""], code, made_from

        return self._of(("evaluation", task, dataset, row, seed, digest(settings)), parts)

    def looked_at(
        self, stage: str, rows: Sequence[tuple[Entry, int]], datasets: Sequence[str], settings: Any
    ) -> Fingerprint:
        """A page or figure of ``benchmarks/analyses`` over checkpoints of these rows and seeds."""

        def parts() -> Any:
            statistics = _values(self.study.statistics)
            made_from = [self.division(name) for name in datasets]
            made_from += [self._trained(entry, seed) for entry, seed in rows]
            own = [self._method_code(stage, entry) for entry, _ in rows]
            return [self.study.seed, statistics, settings], digest(own), made_from

        return self._of((stage, digest([e.name for e, _ in rows], settings)), parts)

    def tables(self, settings: Any) -> Fingerprint:
        published = sorted((ROOT / "benchmarks" / "published").glob("*.csv"))
        return self._of(
            ("tables", digest(settings)), lambda: ([settings, [content_of(p) for p in published]], _stage("tables"), [])
        )

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _of(self, name: tuple[Any, ...], parts: Any) -> Fingerprint:
        """``parts()`` gives settings, code and the fingerprints of what the thing is made from; asked once."""
        if name not in self._found:
            settings, code, made_from = parts()
            self._found[name] = Fingerprint(
                digest(settings, [f.settings for f in made_from]), digest(code, [f.code for f in made_from])
            )
        return self._found[name]

    def _trained(self, entry: Entry, seed: int) -> Fingerprint:
        """A training as something else is made from it: its code does not count where checkpoints outlive it."""
        found = self.training(entry, seed)
        return replace(found, code="") if self.marks else found

    def _method_code(self, stage: str, entry: Entry, *modules: str) -> str:
        folders = () if self.marks and stage != "pretrain" else (entry.folder,)
        return _stage(stage, *modules, folders=folders, without=() if entry.reads_knowledge else (KNOWLEDGE,))

    def _tables(self, name: str) -> list[str]:
        """Contents of the tables of a real data set. Its films are too many: delete the store where they were exchanged."""
        reader, options = resolve(self.study, name)
        return [content_of(path) for path in reader.tables(self.study.datasets[name].root, options)]


def fingerprint_of_encoders(study: Study, starts: Sequence[tuple[ImageEncoderConfig, str, str]], stages: bool) -> str:
    """What decides whether the encoders of a study can be built."""
    images = [_values(config) for config, *_ in starts]
    files = [pretrained for config, *_ in starts for pretrained in config.weights]
    text = study.encoders.text
    given = [_given(pretrained) for pretrained in (*files, text.pretrained)]
    versions = [version(name) for name in ("timm", "torch", "transformers")]
    code = code_of(["mlip.encoders.check"])
    kinds, sides = [kind for _, kind, _ in starts], [study.image_size, study.input_side]
    return f"encoders-{digest(images, kinds, _values(text), sides, stages, given, versions, code)}"


def fingerprint_of_weights(study: Study, entry: Entry, stages: bool) -> str:
    """What decides whether the checkpoint of a row fits."""
    weights = entry.weights
    assert weights is not None
    values = [
        _values(weights, "trained_on"),
        [_contents(p) for p in _paths(weights)],
        _values(entry.image_config(study)),
    ]
    versions = [version(name) for name in ("open_clip_torch", "timm", "torch", "transformers")]
    code = code_of(["mlip.encoders.check", "mlip.encoders.foreign"], [entry.folder])
    return f"weights-{digest(values, entry.encoder, study.image_size, study.input_side, stages, versions, code)}"


def _stage(name: str, *modules: str, folders: Sequence[Path] = (), without: Sequence[str] = ()) -> str:
    return code_of((f"{STAGES}.{name}", *modules), folders, without)


def _values(config: BaseModel, *leave_out: str) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=set(leave_out))


LATER = ("optimizer", "decay", "precision", "augment")  # keys of recipes that count only where they are set


def _recipe(recipe: Recipe) -> dict[str, Any]:
    """The row's params hold the recipe's, its image encoder the recipe's start."""
    values = _values(recipe, "provenance", "params", "encoders")
    fields = type(recipe).model_fields
    return {k: v for k, v in values.items() if k not in LATER or v != fields[k].default}


def _params(entry: Entry) -> dict[str, Any]:
    specs = entry.manifest.parameters
    return {k: v for k, v in entry.params.items() if not (specs[k].later and v == specs[k].value)}


def _cut(study: Study) -> list[Any]:
    """How a batch is cut, where that is not as it always was: then sums, batch norms or negatives are others."""
    keys = ("negatives", "chunk", "activation_checkpointing")
    default = type(study.pretrain).model_fields
    return [[key, value] for key in keys if (value := getattr(study.pretrain, key)) != default[key].default]


def _given(pretrained: str | None) -> list[str]:
    """Contents of weights that lie on this machine; a hub name stands for itself."""
    path = Path(pretrained) if pretrained else None
    if path is None or not path.exists():
        return []
    return [content_of(path)] if path.is_file() else _files(path)


def _paths(weights: WeightsConfig) -> list[Path]:
    return [weights.path, *([weights.texts.expanduser()] if weights.texts else [])]


def _contents(path: Path) -> list[str]:
    """Content of a checkpoint: a file, or all of a folder, the folders in it too."""
    if path.is_file():
        return [content_of(path)]
    return [digest(str(p.relative_to(path)), content_of(p)) for p in sorted(path.rglob("*")) if p.is_file()]


def _files(folder: Path) -> list[str]:
    return [digest(p.name, content_of(p)) for p in sorted(folder.iterdir()) if p.is_file() and p.name[0] != "."]
