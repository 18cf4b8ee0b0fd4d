"""Checkpoints that others trained: read without running their code, unwrapped, stripped on request, and loaded whole or not at all."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlip.encoders.weights import is_classifier, misfit, misfits, read_state
from mlip.errors import UserError
from mlip.log import logger
from mlip.study import WeightsConfig

BARRED = re.compile(r"Unsupported (?:global|class|operand).*?([\w.]+\.[\w]+)")


def read_foreign(weights: WeightsConfig, key: str, meta: bool = False, path: Path | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by the names that they have after its prefix.

    ``state_dict``, ``model`` and averages of weights (``state_dict_ema``, ``model_ema``, first) are unwrapped and ``module.``
    is taken off, as :func:`timm.models.load_state_dict` does. With ``weights.prefix`` the tensors under it alone are given;
    those that begin like one of ``weights.heads`` are left out.

    Parameters
    ----------
    key : of the configuration, for the error.
    meta : give names and shapes without values.
    path : another file than the one that ``weights`` names.

    Raises
    ------
    UserError : the file is damaged, is a pickle that needs code to be read, or nothing in it has the prefix or a head's name.
    """
    path = path or weights.path
    with _plain_classes():
        try:
            state = read_state(path, key, meta)
        except UserError as error:
            raise _how_to_convert(path, error) from None
    prefix = weights.prefix.removeprefix("module.")  # which is off already
    if prefix:
        found = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
        if not found:
            raise UserError(
                f"holds no tensor under {weights.prefix!r}, only {_beginnings(state)}",
                where=path,
                fix=f"correct {key}.prefix",
            )
        state = found
    for head in weights.heads:
        if not any(n.startswith(head) for n in state):
            raise UserError(
                f"holds no tensor that begins with {head!r}, only {_beginnings(state)}",
                where=path,
                fix=f"correct {key}.heads",
            )
        state = {n: v for n, v in state.items() if not n.startswith(head)}
    return state


def load_whole(module: nn.Module, state: dict[str, Tensor], path: Path, key: str, classifier: bool = False) -> None:
    """Load a state dict into a module tensor by tensor: nothing may be missing, left over or of another shape.

    All names that do not fit are in the log, the first of them in the error. A module on the device ``meta`` gets no values.

    Parameters
    ----------
    classifier : whether a timm model's classifier, which the module does not have, may be left over.

    Raises
    ------
    UserError : it does not fit; says under which prefix it would.
    """
    wanted = module.state_dict()
    if classifier:
        state = {n: v for n, v in state.items() if not is_classifier(n, module, wanted)}
    problems = misfits(state, wanted)
    if any(problems.values()):
        error = misfit(path, key, problems)
        if hint := _hint(state, wanted, key):
            raise UserError(error.problem, where=path, fix=hint)
        for kind, names in problems.items():
            if names:
                logger.error("%s: tensors %s: %s", path, kind, ", ".join(sorted(names)))
        raise error
    if not any(v.is_meta for v in wanted.values()):
        module.load_state_dict(state, strict=False)  # all but the counters, as was made sure of above


def load_renamed(module: nn.Module, weights: WeightsConfig, key: str, rules: Iterable[tuple[str, str | None]]) -> None:
    """Load a checkpoint whose names are another code's, by rules as :func:`renamed` takes them; else as :func:`load_whole`.

    A convolution of width 1 may stand for a linear layer. Position numbers of a BERT, which are no weights, are passed over.
    """
    state = renamed(read_foreign(weights, key), rules)
    wanted = module.state_dict()
    fitting = {}
    for name, value in state.items():
        if name.endswith(".position_ids"):
            continue
        linear = name in wanted and wanted[name].ndim == 2 < value.ndim and set(value.shape[2:]) == {1}
        fitting[name] = value.flatten(1) if linear else value
    load_whole(module, fitting, weights.path, key)


def renamed(state: dict[str, Tensor], rules: Iterable[tuple[str, str | None]]) -> dict[str, Tensor]:
    """The tensors under new names: the first rule (regular expression at the beginning, replacement) that fits decides; None
    leaves the tensor out. A name that no rule speaks of stays as it is.
    """
    compiled = [(re.compile(pattern), to) for pattern, to in rules]
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        pattern, to = next(((p, t) for p, t in compiled if p.match(name)), (None, name))
        if to is not None:
            found[pattern.sub(to, name, count=1) if pattern else name] = value
    return found


def _plain_classes() -> AbstractContextManager[Any]:
    """Classes that hold settings beside the tensors in training checkpoints, and whose building runs nothing."""
    import numpy as np
    from numpy._core import multiarray

    numbers = [type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int32", "int64", "bool")]
    scalar: Callable[..., Any] = multiarray.scalar  # type: ignore[attr-defined]
    return torch.serialization.safe_globals([argparse.Namespace, scalar, np.dtype, *numbers])


def _how_to_convert(path: Path, error: UserError) -> UserError:
    """The same error; of a pickle that needs code, which class it is and how to get rid of it."""
    reason = getattr(error.__cause__ or error.__context__, "args", ("",))
    barred = BARRED.search(" ".join(str(part) for part in reason))
    if barred is None:
        return error
    line = f"torch.save(torch.load('{path.name}', map_location='cpu', weights_only=False)['state_dict'], 'weights.pt')"
    return UserError(
        f"is a pickle that runs code when it is read: it holds a {barred.group(1)}",
        where=path,
        fix=f"if you trust its source, convert it where that code is installed: {line}",
    )


def _beginnings(state: dict[str, Tensor]) -> str:
    found = dict.fromkeys(".".join(n.split(".")[:2]) for n in state)
    return ", ".join(list(found)[:5]) + (", ..." if len(found) > 5 else "")


def _hint(state: dict[str, Tensor], wanted: dict[str, Tensor], key: str) -> str:
    """Under which prefix the names would be there, "" if under none."""
    anchor = next(iter(wanted))
    prefixes = sorted((n.removesuffix(anchor) for n in state if n.endswith(f".{anchor}")), key=len)
    for prefix in prefixes:
        if all(f"{prefix}{n}" in state or n.endswith("num_batches_tracked") for n in wanted):
            return f"its names stand under {prefix!r}: set {key}.prefix to that"
    return ""
