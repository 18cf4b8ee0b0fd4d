"""Makes Detectron2 importable where only its Python code is installed. Call :func:`prepare` before importing it.

The registry has no official Detectron2 release; the source package in ``pyproject.toml`` holds version 0.6 without its
C++ sources. Two things stop it from importing, and both are supplied here:

- ``PIL.Image.LINEAR``, a constant that Pillow 10 removed (it was another name of ``BILINEAR``),
- ``detectron2._C``, the compiled operators: deformable convolution, rotated boxes and the fast COCO evaluation. None of
  them is used by RetinaNet or Faster R-CNN with ordinary boxes (NMS and RoIAlign come from torchvision).

Where a full build is installed, its own ``_C`` is left alone and only Pillow's constant is restored.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any, NoReturn

import PIL.Image

from mlip.errors import UserError

_OPERATORS = "detectron2._C"


def prepare() -> bool:
    """Make ``import detectron2.modeling`` work. May be called any number of times.

    Returns
    -------
    bool : True where a full build with compiled operators is installed.

    Raises
    ------
    UserError : Detectron2 is not installed.
    """
    if importlib.util.find_spec("detectron2") is None:
        raise UserError("Detectron2 is not installed", where="pyproject.toml", fix="run `make env`")
    if not hasattr(PIL.Image, "LINEAR"):
        image_module: Any = PIL.Image
        image_module.LINEAR = PIL.Image.Resampling.BILINEAR
    if _OPERATORS not in sys.modules and importlib.util.find_spec(_OPERATORS) is None:
        placeholder: Any = ModuleType(_OPERATORS, "Stands in for the compiled operators, which are not installed.")
        placeholder.__getattr__ = _no_operator
        sys.modules[_OPERATORS] = placeholder
        package: Any = importlib.import_module("detectron2")
        package._C = placeholder
    return getattr(sys.modules.get(_OPERATORS), "__getattr__", None) is not _no_operator


def _no_operator(name: str) -> NoReturn:
    # AttributeError, so that `hasattr` and the import machinery see an ordinary missing attribute.
    raise AttributeError(f"{_OPERATORS}.{name}: this operator needs a Detectron2 built with its C++ sources")
