"""Prompts of a study's own: a YAML file of classes, in words or with prompts, and templates that make prompts of words."""

from __future__ import annotations

from pathlib import Path
from string import Formatter
from typing import Any

from pydantic import Field, ValidationError, field_validator

from benchmarks.tasks.shared.prompts import Prompts
from mlip.errors import UserError
from mlip.study import Strict, describe
from mlip.yaml_files import read_yaml

_PLACES = ("name", "Name")  # as written, and with a capital


class Sides(Strict):
    """Prompts for the presence and the absence of a class."""

    positive: list[str] = Field(default_factory=list)
    negative: list[str] = Field(default_factory=list)


class Templates(Sides):
    """The same with ``{name}`` or ``{Name}`` in the place of the class."""

    @field_validator("positive", "negative")
    @classmethod
    def _places(cls, templates: list[str]) -> list[str]:
        for template in templates:
            places = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
            if not places or set(places) - set(_PLACES):
                raise ValueError(f"{template!r} must hold {{name}} or {{Name}}, and nothing else in braces")
        return templates


class PromptFile(Strict):
    """``classes``: label -> the words for it, or its prompts; ``source``: where they are from."""

    source: str
    templates: Templates = Field(default_factory=Templates)
    classes: dict[str, str | Sides] = Field(min_length=1)

    def prompts_of(self, label: str) -> Prompts | None:
        """The prompts of a label, None where the file does not name it."""
        said = self.classes.get(label)
        if said is None:
            return None
        if isinstance(said, Sides):
            return Prompts(said.positive, said.negative)
        words = {"name": said, "Name": said[:1].upper() + said[1:]}
        return Prompts(
            *([t.format(**words) for t in side] for side in (self.templates.positive, self.templates.negative))
        )


def read_prompts(path: Path, labels: list[Any], negatives: bool) -> dict[str, Prompts]:
    """The prompts of these labels.

    Parameters
    ----------
    negatives : each must have prompts for its absence too.

    Raises
    ------
    UserError : there is no such file, a key is unknown or has a wrong value, or a label has no prompts.
    """
    if not path.is_file():
        raise UserError("there is no such file of prompts", where=path, fix="correct `prompts`, see docs/own-data.md")
    try:
        file = PromptFile.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(describe(error), where=path, fix="see docs/own-data.md") from None
    found: dict[str, Prompts] = {}
    for label in labels:
        prompts = file.prompts_of(label)
        if prompts is None or not prompts.positive or (negatives and not prompts.negative):
            lacking = "no prompts" if prompts is None or not prompts.positive else "no prompts for the absence"
            raise UserError(
                f"has {lacking} of {label!r}", where=path, fix="add them under `classes`, or a template for all"
            )
        found[label] = prompts
    return found
