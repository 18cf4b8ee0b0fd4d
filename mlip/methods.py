"""Method folders and the rows that a study makes of them."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement

from mlip.errors import UserError
from mlip.manifest import EncoderKind, Manifest, Recipe, read_manifest
from mlip.paths import ROOT
from mlip.source_code import check_syntax
from mlip.study import ImageEncoderConfig, Study, VariantConfig, WeightsConfig

if TYPE_CHECKING:
    from mlip.contract import Method

METHOD_FOLDERS = (ROOT / "mlip", ROOT / "baselines")


@dataclass(frozen=True)
class Entry:
    """One row of a study: a method folder with its encoder, switches and parameters resolved."""

    name: str
    manifest: Manifest
    folder: Path
    encoder: EncoderKind
    components: dict[str, bool]
    params: dict[str, Any]
    title: str
    seed: int = 0
    pairs: int = 100  # percent of the training patients
    weights: WeightsConfig | None = None  # a checkpoint that others trained: nothing is trained here
    start: ImageEncoderConfig | None = None  # the image encoder of its recipe, or of the row whose start it shows
    start_key: str = ""  # where that is said, for errors

    @property
    def external(self) -> bool:
        """Whether its weights were trained elsewhere. It is one training: how far another would differ is unknown."""
        return self.weights is not None

    @property
    def trained(self) -> bool:
        """Whether the study trains it."""
        return self.manifest.trained and not self.external

    @property
    def seeded(self) -> bool:
        """Whether the pre-training seed moves anything."""
        return self.manifest.seeded and not self.external

    @property
    def status(self) -> str:
        return "external" if self.external else self.manifest.status

    @property
    def standing(self) -> str:
        """The status as pages show it: of an agreement, what agrees."""
        return self.status if self.external else self.manifest.standing

    @property
    def capabilities(self) -> list[str]:
        """What the row can do: what the method can, less its text side where vectors of texts are looked up and not given."""
        can = [str(c) for c in self.manifest.capabilities]
        if self.manifest.looked_up and not (self.weights and self.weights.texts):
            return [c for c in can if c not in ("zero_shot", "retrieval")]
        return can

    @property
    def reads_knowledge(self) -> bool:
        """Whether the row is given the expert knowledge; the others do not depend on it."""
        return "knowledge" in self.manifest.capabilities

    @property
    def calibrated(self) -> bool:
        """Whether the row is a random encoder whose batch norms are set on training films."""
        return self.manifest.start == "random" and not self.trained and not self.external

    def seeds(self, study: Study) -> list[int]:
        """The pre-training seeds of the row: those of the study, or the first where the seed moves nothing."""
        return study.pretrain.seeds if self.seeded else study.pretrain.seeds[:1]

    def image_config(self, study: Study) -> ImageEncoderConfig:
        """The image encoder of the row before its training, or before its checkpoint is read."""
        config = self.start or study.encoders.image(self.encoder)
        if self.weights is None:
            return config.without_weights() if self.manifest.start == "random" else config
        if self.weights.architecture:
            config = ImageEncoderConfig(name=self.weights.architecture)
        side = {"input_size": self.weights.input_size} if self.weights.input_size else {}
        return config.without_weights().model_copy(update=side)

    @property
    def encoder_key(self) -> str:
        """Where its image encoder is named: of the study, or of a recipe."""
        return self.start_key or f"encoders.{self.encoder}"

    @property
    def weights_key(self) -> str:
        """The study's key that names its checkpoint."""
        return f"methods.variants.{self.name}.weights"

    def training_seed(self, seed: int) -> int:
        """What this row's training draws from where the study's pre-training seed is ``seed``."""
        return seed + self.seed


def without_a_part(rows: Mapping[str, Entry]) -> list[tuple[str, str]]:
    """(full method, the same with other components and nothing else) of these rows, by name."""
    alike = ("encoder", "params", "pairs", "weights", "start")
    return [
        (full, name)
        for name, entry in rows.items()
        for full in [entry.folder.name]
        if full in rows
        and entry.components != rows[full].components
        and all(getattr(entry, key) == getattr(rows[full], key) for key in alike)
    ]


@cache
def method_folders(*outside: Path) -> dict[str, Path]:
    """Every folder that holds a ``method.yaml``, by name.

    Parameters
    ----------
    outside : method folders, or folders of method folders, outside the checkout (``methods.folders``).
    """
    found: dict[str, Path] = {}
    for parent in (*METHOD_FOLDERS, *outside):
        own = parent / "method.yaml"
        paths = [own] if parent in outside and own.is_file() else sorted(parent.glob("*/method.yaml"))
        if parent in outside and not paths:
            raise UserError("holds no method.yaml", where=parent, fix="name a method's folder in methods.folders")
        for path in paths:
            name = path.parent.name
            if name in found:
                raise UserError(
                    f"two folders are called {name!r}", where=path.parent, fix=f"rename it or {found[name]}"
                )
            found[name] = path.parent
    return found


def entries(study: Study) -> tuple[dict[str, Entry], dict[str, str]]:
    """The rows of a study by name, discovered folders first, then the variants; and the rows of broken folders with what
    is wrong with them, so that one folder does not stop the others. Without ``methods.include``, the row of the pretrained
    encoder itself is there only where the study's encoder is pretrained, and methods that are nothing but a checkpoint are not.

    Raises
    ------
    UserError : the study itself is wrong: an unknown method, a variant with an unknown switch, parameter or encoder, or
        with weights that are not there.
    """
    config = study.methods
    folders = method_folders(*(folder.expanduser().resolve() for folder in config.folders))
    for name in [*(config.include or []), *config.exclude, *(v.method for v in config.variants.values())]:
        if name not in folders:
            raise UserError(
                f"methods names {name!r}, but there is no such method folder",
                where=study.study,
                fix=f"one of {sorted(folders)}",
            )
    names = [n for n in (config.include if config.include is not None else folders) if n not in config.exclude]
    asked = {name: VariantConfig(method=name) for name in names}
    for name, variant in config.variants.items():
        if name in asked:
            raise UserError(f"variant {name!r} has the name of a method", where=study.study, fix="choose another name")
        asked[name] = variant
    manifests: dict[str, Manifest] = {}
    faults: dict[str, str] = {}
    for method in dict.fromkeys(v.method for v in asked.values()):
        try:
            manifests[method] = _sound_manifest(folders[method], study.pretrain.recipe)
        except UserError as error:
            faults[method] = str(error)
    if config.include is None:  # nobody has asked for these rows by name
        pointless = {
            n
            for n, m in manifests.items()
            if m.start == "weights"
            or (m.start == "pretrained" and not study.encoders.image(m.encoders.prefers).has_weights)
        }
        asked = {n: v for n, v in asked.items() if n in config.variants or n not in pointless}
    rows: dict[str, Entry] = {}
    broken = {name: faults[variant.method] for name, variant in asked.items() if variant.method in faults}
    # Rows that show another row's start are made last, and stay in their place in the study.
    for name, variant in sorted(asked.items(), key=lambda item: item[1].start_of is not None):
        if name in broken:
            continue
        shown = _shown(study, name, variant, rows, asked)
        if variant.start_of and shown is None:
            broken[name] = broken[variant.start_of]
        else:
            rows[name] = _entry(study, name, variant, folders[variant.method], manifests[variant.method], shown)
    return {name: rows[name] for name in asked if name in rows}, broken


def _shown(
    study: Study, name: str, variant: VariantConfig, rows: dict[str, Entry], asked: dict[str, VariantConfig]
) -> Entry | None:
    """The row whose start a variant shows; None where it shows none, or that row's method folder is broken."""
    if variant.start_of is None:
        return None
    where = f"study {study.study}: methods.variants.{name}.start_of"
    if variant.start_of not in asked:
        raise UserError(f"there is no row {variant.start_of!r}", where=where, fix=f"one of {sorted(asked)}")
    if asked[variant.start_of].start_of or asked[variant.start_of].weights or variant.weights:
        raise UserError(
            f"{name} cannot show what {variant.start_of} starts from",
            where=where,
            fix="name a row of a method folder, and no checkpoint beside it",
        )
    return rows.get(variant.start_of)


def _sound_manifest(folder: Path, tier: str) -> Manifest:
    """The manifest of a folder that can be used as far as can be seen without running it."""
    manifest = read_manifest(folder)
    where = folder / "method.yaml"
    if not (folder / "model.py").is_file():
        raise UserError("has no model.py", where=folder, fix="see docs/adding-a-baseline.md")
    check_syntax(folder)
    _require_packages(manifest, where)
    recipe = manifest.recipes.get(tier)
    if manifest.trained and recipe is None:
        raise UserError(f"has no recipe {tier!r}", where=where, fix="add it under `recipes`")
    if recipe and (unknown := set(recipe.params) - set(manifest.parameters)):
        raise UserError(
            f"recipe {tier!r} sets unknown parameters {sorted(unknown)}",
            where=where,
            fix=f"one of {sorted(manifest.parameters)}",
        )
    return manifest


def _require_packages(manifest: Manifest, where: Path) -> None:
    for line in manifest.requires:
        try:
            wanted = Requirement(line)
        except InvalidRequirement as error:
            raise UserError(
                f"requires {line!r}, which pip cannot read ({error})", where=where, fix="e.g. monai>=1.3"
            ) from None
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            found = ""
        if not found or not wanted.specifier.contains(found, prereleases=True):
            there = f"{wanted.name} {found} is" if found else "it is not"
            raise UserError(f"requires {line}; {there} installed", where=where, fix=f"pip install '{line}'")


def _entry(
    study: Study, name: str, variant: VariantConfig, folder: Path, manifest: Manifest, shown: Entry | None
) -> Entry:
    """``shown``: the row whose image encoder it starts from, None for its own."""
    where = folder / "method.yaml"
    _check_place(study, name, variant, manifest)
    encoder = variant.encoder or (shown.encoder if shown else manifest.encoders.prefers)
    if shown and shown.encoder != encoder:
        raise UserError(
            f"{name} asks for a {encoder} encoder, {shown.name} has a {shown.encoder}",
            where=f"study {study.study}: methods.variants.{name}",
            fix="leave `encoder` out",
        )
    if encoder not in manifest.encoders.supports:
        raise UserError(
            f"{name} asks for a {encoder} encoder, the method supports {manifest.encoders.supports}",
            where=where,
            fix="choose a supported one",
        )
    recipe = manifest.recipes.get(study.pretrain.recipe)
    start, start_key = (shown.start, shown.start_key) if shown else _start(study, recipe, encoder, where)
    image = start or study.encoders.image(encoder)
    if variant.weights is None and manifest.start == "pretrained" and not image.has_weights:
        raise UserError(
            f"{name} is the study's {encoder} before any training on films, which must be pretrained to be worth a row",
            where=start_key or f"study {study.study}: encoders.{encoder}",
            fix=f"set `pretrained`, or take {name} out of methods",
        )
    if unknown := set(variant.components) - set(manifest.components):
        raise UserError(
            f"{name} switches unknown components {sorted(unknown)}",
            where=where,
            fix=f"one of {sorted(manifest.components)}",
        )
    if unknown := set(variant.params) - set(manifest.parameters):
        raise UserError(
            f"variant {name} sets unknown parameters {sorted(unknown)}",
            where=where,
            fix=f"one of {sorted(manifest.parameters)}",
        )
    if variant.pairs < 100 and (variant.weights is not None or not manifest.trained):
        raise UserError(f"variant {name} sets pairs, and is never trained", where=where, fix="take `pairs` out")
    params = {key: spec.value for key, spec in manifest.parameters.items()}
    if recipe and variant.weights is None:  # a checkpoint was not trained by a recipe of this study
        params |= recipe.params
    params |= variant.params
    components = {key: variant.components.get(key, spec.default) for key, spec in manifest.components.items()}
    title = variant.title or (manifest.title if variant.weights is None else name)
    return Entry(
        name,
        manifest,
        folder,
        encoder,
        components,
        params,
        title,
        variant.seed,
        variant.pairs,
        variant.weights,
        start,
        start_key,
    )


def _start(
    study: Study, recipe: Recipe | None, encoder: EncoderKind, where: Path
) -> tuple[ImageEncoderConfig | None, str]:
    """The image encoder that a recipe names, and where; None where the study's own counts."""
    if study.encoders.start == "study" or recipe is None or encoder not in recipe.encoders:
        return None, ""
    return recipe.encoders[encoder].config, f"{where}: recipes.{study.pretrain.recipe}.encoders.{encoder}"


def _check_place(study: Study, name: str, variant: VariantConfig, manifest: Manifest) -> None:
    """A row that is nothing but a checkpoint names one, and what a row names is there."""
    where, weights = f"study {study.study}: methods.variants.{name}.weights", variant.weights
    if weights is None:
        if manifest.start == "weights":
            raise UserError(
                f"{name} names no checkpoint, and {manifest.id} is nothing without one",
                where=f"study {study.study}: methods",
                fix=f"make a variant of it: {{method: {manifest.id}, weights: {{file: ...}}}}, see docs/own-weights.md",
            )
        return
    if manifest.status == "control":
        raise UserError(f"{manifest.id} is a control, which has no checkpoint", where=where, fix="method: weights")
    if variant.seed:
        raise UserError("a checkpoint is not trained again with another seed", where=where, fix="leave `seed` out")
    for path, there in ((weights.file, Path.is_file), (weights.folder, Path.is_dir), (weights.texts, Path.is_file)):
        if path is not None and not there(path.expanduser()):
            raise UserError("is not there", where=path, fix=f"correct {where}")
    if weights.texts and not manifest.looked_up:
        raise UserError(f"{manifest.id} encodes texts itself", where=where, fix="leave `texts` out")


def recipe_of(entry: Entry, study: Study) -> Recipe:
    """The recipe of this study's tier with the study's shared budget applied."""
    recipe = entry.manifest.recipes[study.pretrain.recipe]
    changes = {k: v for k in ("epochs", "batch_size") if (v := getattr(study.pretrain, k)) is not None}
    return recipe.model_copy(update=changes)


def method_class(folder: Path) -> type[Method]:
    """The one class in ``folder/model.py`` that derives :class:`mlip.contract.Method`."""
    from mlip.contract import Method

    path = folder / "model.py"
    if not path.is_file():
        raise UserError("has no model.py", where=folder, fix="see docs/adding-a-baseline.md")
    name = _module_name(folder)
    if name in sys.modules:
        module = sys.modules[name]
    else:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    found = [
        c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, Method) and c.__module__ == name
    ]
    if len(found) != 1:
        raise UserError(f"defines {len(found)} classes deriving Method, needs one", where=path, fix="keep exactly one")
    return found[0]


def _module_name(folder: Path) -> str:
    """What a method's module is called: by its path in the checkout; outside it in a package of its own, so that
    ``from .parts import ...`` finds the file beside it, and equal names of other places stay apart.
    """
    if folder.parent in METHOD_FOLDERS:
        return f"{folder.parent.name}.{folder.name}.model"
    package = f"method_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    if package not in sys.modules:
        sys.modules[package] = module = types.ModuleType(package)
        module.__path__ = [str(folder)]
    return f"{package}.model"
