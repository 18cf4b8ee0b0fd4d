"""Method folders and the rows that a study makes of them."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip.errors import UserError
from mlip.manifest import EncoderKind, Manifest, Recipe, read_manifest
from mlip.paths import ROOT
from mlip.source_code import check_syntax
from mlip.study import ImageEncoderConfig, Study, VariantConfig

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

    @property
    def reads_knowledge(self) -> bool:
        """Whether the row is given the expert knowledge; the others do not depend on it."""
        return "knowledge" in self.manifest.capabilities

    @property
    def calibrated(self) -> bool:
        """Whether the row is a random encoder whose batch norms are set on training films."""
        return self.manifest.start == "random" and not self.manifest.trained

    def seeds(self, study: Study) -> list[int]:
        """The pre-training seeds of the row: those of the study, or the first where the seed moves nothing."""
        return study.pretrain.seeds if self.manifest.seeded else study.pretrain.seeds[:1]

    def image_config(self, study: Study) -> ImageEncoderConfig:
        """The image encoder of the row before its training."""
        config = study.encoders.image(self.encoder)
        return config.without_weights() if self.manifest.start == "random" else config

    def training_seed(self, seed: int) -> int:
        """What this row's training draws from where the study's pre-training seed is ``seed``."""
        return seed + self.seed


@cache
def method_folders() -> dict[str, Path]:
    """Every folder that holds a ``method.yaml``, by name."""
    found: dict[str, Path] = {}
    for parent in METHOD_FOLDERS:
        for path in sorted(parent.glob("*/method.yaml")):
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
    encoder itself is there only where the study's encoder is pretrained.

    Raises
    ------
    UserError : the study itself is wrong: an unknown method, or a variant with an unknown switch, parameter or encoder.
    """
    folders, config = method_folders(), study.methods
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
        pointless = {n for n, m in manifests.items() if _lacks_weights(study, m, m.encoders.prefers)}
        asked = {n: v for n, v in asked.items() if n in config.variants or n not in pointless}
    rows = {
        name: _entry(study, name, variant, folders[variant.method], manifests[variant.method])
        for name, variant in asked.items()
        if variant.method in manifests
    }
    return rows, {name: faults[variant.method] for name, variant in asked.items() if variant.method in faults}


def _lacks_weights(study: Study, manifest: Manifest, encoder: EncoderKind) -> bool:
    """Whether a row is the pretrained encoder itself in a study whose encoder starts from random weights."""
    return manifest.start == "pretrained" and not study.encoders.image(encoder).has_weights


def _sound_manifest(folder: Path, tier: str) -> Manifest:
    """The manifest of a folder that can be used as far as can be seen without running it."""
    manifest = read_manifest(folder)
    where = folder / "method.yaml"
    if not (folder / "model.py").is_file():
        raise UserError("has no model.py", where=folder, fix="see docs/adding-a-baseline.md")
    check_syntax(folder)
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


def _entry(study: Study, name: str, variant: VariantConfig, folder: Path, manifest: Manifest) -> Entry:
    where = folder / "method.yaml"
    encoder = variant.encoder or manifest.encoders.prefers
    if encoder not in manifest.encoders.supports:
        raise UserError(
            f"{name} asks for a {encoder} encoder, the method supports {manifest.encoders.supports}",
            where=where,
            fix="choose a supported one",
        )
    if _lacks_weights(study, manifest, encoder):
        raise UserError(
            f"{name} is the study's {encoder} before any training on films, which must be pretrained to be worth a row",
            where=f"study {study.study}: encoders.{encoder}",
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
    if variant.pairs < 100 and not manifest.trained:
        raise UserError(f"variant {name} sets pairs, and is never trained", where=where, fix="take `pairs` out")
    recipe = manifest.recipes.get(study.pretrain.recipe)
    params = {key: spec.value for key, spec in manifest.parameters.items()}
    params |= {**(recipe.params if recipe else {}), **variant.params}
    components = {key: variant.components.get(key, spec.default) for key, spec in manifest.components.items()}
    return Entry(
        name,
        manifest,
        folder,
        encoder,
        components,
        params,
        variant.title or manifest.title,
        variant.seed,
        variant.pairs,
    )


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
    name = f"{folder.parent.name}.{folder.name}.model"
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
