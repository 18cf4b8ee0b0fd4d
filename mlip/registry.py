"""Finds methods, readers, twin writers, tasks and protocols by looking at folders; nothing is registered by hand."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlip.errors import UserError
from mlip.study import Study, VariantConfig, describe
from mlip.yaml_files import read_yaml

if TYPE_CHECKING:
    from benchmarks.task import Task
    from mlip.contract import Method
    from mlip.data.records import Reader

ROOT = Path(__file__).resolve().parent.parent
METHOD_FOLDERS = (ROOT / "mlip", ROOT / "baselines")

EncoderKind = Literal["cnn", "vit"]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ParameterSpec(_Closed):
    """A hyper-parameter with where its value comes from."""

    value: Any
    source: Literal["paper", "official-code", "sibling-code", "seed", "ours"]
    where: str = ""


class ComponentSpec(_Closed):
    """A part of the objective that an ablation can switch off."""

    default: bool = True
    doc: str
    source: Literal["paper", "official-code", "sibling-code", "seed", "ours"]


class EncoderSupport(_Closed):
    supports: list[EncoderKind] = Field(min_length=1)
    prefers: EncoderKind


class Recipe(_Closed):
    """Optimiser's numbers of one tier. ``epochs`` and ``batch_size`` are used where the study leaves them null."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps")
    clip: float | None = 1.0
    params: dict[str, Any] = Field(default_factory=dict, description="overrides of `parameters` at this tier")
    provenance: dict[str, str] = Field(default_factory=dict, description="where each number comes from")


class Manifest(_Closed):
    """``method.yaml``: what a method folder says about itself."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str
    paper: str
    citation: str
    year: int
    status: Literal["official-agreement", "reconstruction", "control", "external"]
    encoders: EncoderSupport
    capabilities: list[Literal["zero_shot", "retrieval", "local_alignment", "knowledge", "maps"]] = Field(
        default_factory=list
    )
    trained: bool = True
    components: dict[str, ComponentSpec] = Field(default_factory=dict)
    parameters: dict[str, ParameterSpec] = Field(default_factory=dict)
    recipes: dict[str, Recipe] = Field(default_factory=dict)


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

    def training_seed(self, seed: int) -> int:
        """What this row's training draws from where the study's pre-training seed is ``seed``."""
        return seed + self.seed


def read_manifest(folder: Path) -> Manifest:
    """Read and validate ``folder/method.yaml``; its id must equal the folder's name."""
    path = folder / "method.yaml"
    try:
        manifest = Manifest.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(describe(error), where=path, fix="see docs/adding-a-baseline.md") from None
    if manifest.id != folder.name:
        raise UserError(f"id is {manifest.id!r} but the folder is {folder.name!r}", where=path, fix="make them equal")
    return manifest


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


def entries(study: Study) -> dict[str, Entry]:
    """The rows of a study, by name: discovered folders first, then the variants, each validated."""
    folders, config = method_folders(), study.methods
    for name in [*(config.include or []), *config.exclude, *(v.method for v in config.variants.values())]:
        if name not in folders:
            raise UserError(
                f"methods names {name!r}, but there is no such method folder",
                where=study.study,
                fix=f"one of {sorted(folders)}",
            )
    names = [n for n in (config.include if config.include is not None else folders) if n not in config.exclude]
    rows = {name: VariantConfig(method=name) for name in names}
    for name, variant in config.variants.items():
        if name in rows:
            raise UserError(f"variant {name!r} has the name of a method", where=study.study, fix="choose another name")
        rows[name] = variant
    manifests = {method: read_manifest(folders[method]) for method in dict.fromkeys(v.method for v in rows.values())}
    return {n: _entry(study, n, v, folders[v.method], manifests[v.method]) for n, v in rows.items()}


def _entry(study: Study, name: str, variant: VariantConfig, folder: Path, manifest: Manifest) -> Entry:
    where = folder / "method.yaml"
    encoder = variant.encoder or manifest.encoders.prefers
    if encoder not in manifest.encoders.supports:
        raise UserError(
            f"{name} asks for a {encoder} encoder, the method supports {manifest.encoders.supports}",
            where=where,
            fix="choose a supported one",
        )
    if unknown := set(variant.components) - set(manifest.components):
        raise UserError(
            f"{name} switches unknown components {sorted(unknown)}",
            where=where,
            fix=f"one of {sorted(manifest.components)}",
        )
    recipe = manifest.recipes.get(study.pretrain.recipe)
    if manifest.trained and recipe is None:
        raise UserError(f"has no recipe {study.pretrain.recipe!r}", where=where, fix="add it under `recipes`")
    params = {key: spec.value for key, spec in manifest.parameters.items()}
    for source, overrides in (("recipe", recipe.params if recipe else {}), (f"variant {name}", variant.params)):
        if unknown := set(overrides) - set(params):
            raise UserError(
                f"{source} sets unknown parameters {sorted(unknown)}", where=where, fix=f"one of {sorted(params)}"
            )
        params.update(overrides)
    components = {key: variant.components.get(key, spec.default) for key, spec in manifest.components.items()}
    return Entry(name, manifest, folder, encoder, components, params, variant.title or manifest.title, variant.seed)


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
        spec.loader.exec_module(module)
    found = [
        c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, Method) and c.__module__ == name
    ]
    if len(found) != 1:
        raise UserError(f"defines {len(found)} classes deriving Method, needs one", where=path, fix="keep exactly one")
    return found[0]


@cache
def readers() -> dict[str, Reader]:
    """Every module of ``mlip/data`` that sets ``READER``, by file name."""
    return {n: m.READER for n, m in _modules("mlip.data", ROOT / "mlip" / "data", need="READER").items()}


@cache
def twin_writers() -> dict[str, Any]:
    """Every module of ``mlip/twin/writers`` (each defines ``write``), by file name."""
    return {
        n: m
        for n, m in _modules("mlip.twin.writers", ROOT / "mlip" / "twin" / "writers").items()
        if hasattr(m, "write")
    }


@cache
def tasks() -> dict[str, Task]:
    """Every module or package of ``benchmarks`` that sets ``TASK``, by name."""
    return {n: m.TASK for n, m in _modules("benchmarks", ROOT / "benchmarks", packages=True, need="TASK").items()}


def _modules(package: str, folder: Path, *, packages: bool = False, need: str = "") -> dict[str, Any]:
    names = [p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")]
    if packages:
        names += [p.parent.name for p in folder.glob("*/__init__.py")]
    found = {}
    for name in sorted(names):
        package_file = folder / name / "__init__.py"
        path = package_file if package_file.is_file() else folder / f"{name}.py"
        # Only import what declares itself: looking must not cost the import of Detectron2.
        if need and f"{need} =" not in path.read_text() and f"{need}:" not in path.read_text():
            continue
        found[name] = importlib.import_module(f"{package}.{name}")
    return found


def protocol(task: str, name: str) -> Any:
    """Read ``benchmarks/protocols/<task>/<name>.yaml`` through the task's own protocol model."""
    path = ROOT / "benchmarks" / "protocols" / task / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise UserError(f"there is no protocol {name!r} for {task}", where=path, fix=f"use one of {known} or write it")
    try:
        return tasks()[task].Protocol.model_validate({"name": name, **read_yaml(path)})
    except ValidationError as error:
        raise UserError(describe(error), where=path, fix="see docs/protocols.md") from None
