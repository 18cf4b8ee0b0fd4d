"""The method under examination, and how its mistakes are put into one line with file and fix."""

from __future__ import annotations

import inspect
import re
import traceback
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mlip.contract import Batch, Method
from mlip.errors import UserError
from mlip.methods import Entry
from mlip.paths import ROOT
from mlip.run.contract.world import image_size, tiny_batch, tiny_method
from mlip.study import Study

EPOCHS = 3  # of the toy training: a term may begin, or a layer be released, after the first
LONGEST = 240  # letters of a foreign message that are shown


@dataclass(eq=False)
class Subject:
    """A method class at one setting: encoder, switches and parameters."""

    entry: Entry
    kind: type[Method]
    study: Study | None = None  # of a row with a checkpoint

    def fresh(self) -> Method:
        """The method as built, every time with the same weights."""
        return tiny_method(self.entry, self.kind, self.study)

    @cached_property
    def ready(self) -> Method:
        """The method as built, in eval mode, for checks that change nothing of it."""
        return self.fresh().eval()

    def batch(self, method: Method, step: int = 0) -> Batch:
        """Eight pairs of epoch ``step``; without entities where the method does not list ``knowledge``, as in a study."""
        batch = tiny_batch(method, step, self.size)
        if "knowledge" not in self.entry.manifest.capabilities:
            batch = replace(batch, entities=torch.full((len(batch.images), 1), -1))
        return replace(batch, epoch=step, epochs=EPOCHS)

    @property
    def size(self) -> int:
        return image_size(self.entry, self.study)

    @cached_property
    def images(self) -> Tensor:
        """[8, 3, H, W] noise of rising strength."""
        return self.batch(self.ready).images * torch.linspace(0.2, 1.0, 8).view(-1, 1, 1, 1)

    @property
    def folder(self) -> Path:
        """Where the method's own code lies."""
        return Path(inspect.getfile(self.kind)).resolve().parent

    def refusal(self, name: str, problem: str, fix: str) -> UserError:
        """A mistake at the function or attribute ``name`` of the method."""
        return UserError(problem, where=self.line_of(name), fix=fix)

    def line_of(self, name: str) -> str:
        """``model.py:12``: where the method defines the function ``name`` or assigns ``self.name``, else its class."""
        own = [c for c in self.kind.__mro__ if issubclass(c, Method) and c is not Method]
        if name == "losses" and self.kind.splits():
            name = "objective"
        for cls in own:
            if inspect.isfunction(function := vars(cls).get(name)):
                return f"{shown(inspect.getfile(cls))}:{function.__code__.co_firstlineno}"
        places = []
        for cls in own:
            try:
                lines, first = inspect.getsourcelines(cls)
            except OSError:  # a class that no `class` statement made
                continue
            places.append(f"{shown(inspect.getfile(cls))}:{first}")
            for number, line in enumerate(lines):
                if name and re.search(rf"\bself\.{re.escape(name)}\s*(:[^=]+)?=(?!=)", line):
                    return f"{shown(inspect.getfile(cls))}:{first + number}"
        return places[0] if places else shown(inspect.getfile(self.kind))


def shown(path: str | Path) -> str:
    """The path as printed: relative to the repository where it lies in it."""
    path = Path(path).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def explain(error: Exception, folder: Path, default: str) -> UserError:
    """An exception of the method's code as one line: type, message and the last line of ``folder`` that it passed.

    ``default`` is named where it passed none, as with a class that lacks a function.
    """
    if isinstance(error, UserError):
        return error
    own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve().is_relative_to(folder)]
    where = f"{shown(own[-1].filename)}:{own[-1].lineno}" if own else default
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{shown(error.filename)}:{error.lineno}"
    message = " ".join(str(error).split())
    if len(message) > LONGEST:
        message = f"{message[:LONGEST]}..."
    fix = "mend this line; `mlip check-baseline --verbose` prints the whole traceback"
    if "abstract method" in message:
        fix = "define it as in mlip/contract.py"
    return UserError(f"{type(error).__name__}: {message}".rstrip(": "), where=where, fix=fix)


def same(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> bool:
    """Equal up to rounding: differences below ``tolerance`` of the largest value."""
    if one.shape != other.shape:
        return False
    one, other = one.double(), other.double()
    scale = max(float(one.abs().max()), 1e-12) if one.numel() else 1.0
    return torch.allclose(one / scale, other / scale, rtol=0, atol=tolerance, equal_nan=True)
