"""Checks of the files in a method's folder."""

from __future__ import annotations

from mlip.errors import UserError
from mlip.run.contract.subject import Subject, shown

TIERS = ("smoke", "small")  # the recipes of the studies that anyone can run


def check_readme_is_there(subject: Subject) -> None:
    """The folder holds a ``README.md``."""
    folder = subject.entry.folder
    if not (folder / "README.md").is_file():
        raise UserError(
            "has no README.md", where=shown(folder), fix="describe the objective and where its parts come from"
        )


def check_preferred_encoder_is_supported(subject: Subject) -> None:
    """``encoders.prefers`` is one of ``encoders.supports``."""
    encoders = subject.entry.manifest.encoders
    if encoders.prefers not in encoders.supports:
        raise UserError(
            f"prefers {encoders.prefers}, supports {encoders.supports}",
            where=shown(subject.entry.folder / "method.yaml"),
            fix="prefer one that is supported",
        )


def check_recipes(subject: Subject) -> None:
    """A trained method has the recipes ``smoke`` and ``small``, and recipes override parameters that exist."""
    manifest, where = subject.entry.manifest, shown(subject.entry.folder / "method.yaml")
    for name in TIERS:
        if manifest.trained and name not in manifest.recipes:
            raise UserError(f"has no recipe {name!r}", where=where, fix="add it under `recipes`")
    for name, recipe in manifest.recipes.items():
        if unknown := sorted(set(recipe.params) - set(manifest.parameters)):
            raise UserError(
                f"recipe {name!r} sets unknown parameters {unknown}",
                where=where,
                fix=f"one of {sorted(manifest.parameters)}",
            )
