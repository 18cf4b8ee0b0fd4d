"""Weights files of image encoders, loaded strictly: what is missing, left over or of another shape is an error."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from timm.models import clean_state_dict, load_state_dict
from torch import Tensor, nn

from mlip.encoders.packaged import is_packaged, load_packaged
from mlip.errors import UserError

HEADS = ("fc", "head", "head_dist", "classifier")  # what timm and torchvision call their classifiers
SAVE_ANEW = "save the model's state dict alone, e.g. with safetensors.torch.save_file, and give that"


def load_pretrained(
    model: nn.Module, name: str, pretrained: str | None, key: str, left_out: Collection[str] = ()
) -> None:
    """Load what ``pretrained`` of a configuration says into a timm model called ``name``: a weights file, or packaged weights.

    Weights of the hub are timm's own business when it builds the model. ``left_out`` names the tensors that were taken off
    the model, which the weights may hold.

    Raises
    ------
    UserError : as :func:`load_strict` and :func:`mlip.encoders.packaged.load_packaged`.
    """
    if pretrained is None or pretrained == "hub":
        return
    if is_packaged(pretrained):
        load_packaged(model, name, pretrained, key, left_out)
    else:
        load_strict(model, Path(pretrained), key, left_out)


def load_strict(model: nn.Module, path: Path, key: str, left_out: Collection[str] = ()) -> None:
    """Load the weights of an image model; only a classifier, which the encoder does not have, and the tensors ``left_out`` may
    be left over.

    The file holds a state dict, by itself or under ``state_dict_ema``, ``model_ema``, ``state_dict`` or ``model`` (the
    first of these, as :func:`timm.models.load_state_dict` takes it); ``module.`` before the names is passed over. A
    model on the device ``meta`` gets no values, so that a file can be checked before the run.

    Parameters
    ----------
    key : the study's key that names the file, for the error.

    Raises
    ------
    UserError : there is no such file, it is no state dict, or it does not fit tensor by tensor.
    """
    if not path.is_file():
        raise UserError("there is no such weights file", where=path, fix=f"correct {key}, or use `hub`")
    meta = any(p.is_meta for p in model.parameters())
    state, wanted = read_state(path, key, meta), model.state_dict()
    state = {k: v for k, v in state.items() if k not in left_out and not is_classifier(k, model, wanted)}
    problems = misfits(state, wanted)
    if any(problems.values()):
        raise misfit(path, key, problems)
    model.load_state_dict(state, strict=False)  # all but the counters, as was made sure of above


def misfits(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """What keeps a state dict from being the ``wanted`` one, tensor by tensor, by the kind of problem. Counters of batches,
    which old files lack and nothing is computed from, may be missing.
    """
    return {
        "missing": [n for n in wanted if n not in state and not n.endswith("num_batches_tracked")],
        "unexpected": [n for n in state if n not in wanted],
        "of another shape": [
            f"{n} {list(state[n].shape)} instead of {list(v.shape)}"
            for n, v in wanted.items()
            if n in state and state[n].shape != v.shape
        ],
    }


def misfit(path: str | Path, key: str, problems: Mapping[str, Iterable[str]]) -> UserError:
    """The error for weights that do not fit: for each kind of problem the number of tensors and the first three."""
    parts = []
    for kind, names in problems.items():
        names = sorted(names)
        if names:
            parts.append(f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
    return UserError(
        f"does not fit, tensors: {'; '.join(parts)}",
        where=path,
        fix=f"give the weights of this very model and size in {key}",
    )


def read_state(path: Path, key: str, meta: bool = False, wrapped: bool = True) -> dict[str, Tensor]:
    """The state dict in a weights file, out of its wrappers.

    Parameters
    ----------
    key : the study's key that names the file, for the error.
    meta : give tensors on the device ``meta``: names and shapes without the values.
    wrapped : whether the state dict may be inside another dictionary, and ``module.`` before its names.

    Raises
    ------
    UserError : the file is empty, a text, damaged, needs code to be read, or holds no tensor by name.
    """
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise UserError("the weights file is empty", where=path, fix=f"copy the file of {key} anew")
    if "".join(head.decode("utf-8", errors="ignore").split()).isprintable():  # any weights file has a zero byte here
        raise UserError(
            "is a text, not weights (a git-lfs pointer or a web page?)",
            where=path,
            fix=f"download the file of {key} itself",
        )
    try:
        state: Any = _headers(path) if meta and path.suffix == ".safetensors" else _load(path, meta, wrapped)
    except AttributeError:  # timm asks a dictionary's items of it
        raise UserError("holds no dictionary of tensors", where=path, fix=f"{SAVE_ANEW} in {key}") from None
    except Exception as error:  # unpicklers and archives raise anything on damaged files
        raise UserError(
            f"cannot be read as weights ({first_line(error)})", where=path, fix=f"{SAVE_ANEW} in {key}"
        ) from None
    tensors = {n: v for n, v in state.items() if isinstance(n, str) and isinstance(v, Tensor)}
    if not tensors:
        raise UserError(f"holds no tensor by name, only {_keys(state)}", where=path, fix=f"{SAVE_ANEW} in {key}")
    return tensors


def _load(path: Path, meta: bool, wrapped: bool) -> dict[str, Any]:
    device = "meta" if meta else "cpu"
    if wrapped or path.suffix == ".safetensors":
        return load_state_dict(str(path), device=device, weights_only=True)
    return dict(torch.load(path, map_location=device, weights_only=True).items())


def _headers(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        state = {n: torch.empty(file.get_slice(n).get_shape(), device="meta") for n in file.keys()}  # noqa: SIM118
    return clean_state_dict(state)


def is_classifier(name: str, model: nn.Module, wanted: dict[str, Tensor]) -> bool:
    """Whether a tensor is of a classifier that the model, built without one, does not have."""
    named = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    heads = {*HEADS, *((named,) if isinstance(named, str) else named)}
    absent = [h for h in heads if not any(w.startswith(f"{h}.") for w in wanted)]
    return any(name.startswith(f"{h}.") for h in absent)


def first_line(error: Exception) -> str:
    """What an error of a library says first, in at most 200 characters; its name where it says nothing."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split())[:200] if lines else type(error).__name__


def _keys(state: dict[Any, Any]) -> str:
    names = [str(name) for name in state]
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else "an empty dictionary"
