"""SIIM-ACR's run-length code: (offset, length) pairs, each offset counted from the end of the run before, column-major.

Source: `mask_functions.py` distributed with the challenge's data (pixel 0 is the top-left corner, runs go down columns).
"""

from __future__ import annotations

import re

import numpy as np

from mlip.errors import UserError

_NUMBERS = re.compile(r"-?[0-9]+(?:\s+-?[0-9]+)*")


def encode(mask: np.ndarray) -> str:
    """Encode a binary mask [H, W]; an empty one is "-1"."""
    flat = np.concatenate([[0], (np.asarray(mask).T.ravel() > 0).astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    if not len(edges):
        return "-1"
    starts, ends = edges[::2], edges[1::2]
    offsets = starts - np.concatenate([[0], ends[:-1]])
    return " ".join(map(str, np.stack([offsets, ends - starts], axis=1).ravel()))


def decode(code: str, height: int, width: int) -> np.ndarray:
    """Decode to uint8 {0, 1} [height, width]; "-1" (with any spaces) and "" are the empty mask.

    Raises
    ------
    UserError : the code is no list of pairs of whole numbers, a run has no length, begins before the end of the run before
    (overlapping or falling) or ends beyond the image.
    """
    code = code.strip()
    if code in ("", "-1"):
        return np.zeros((height, width), np.uint8)
    offsets, lengths = _runs(code)
    ends = np.cumsum(offsets + lengths)
    if ends[-1] > height * width:
        raise UserError(
            f"a run ends at pixel {ends[-1]:.0f} of an image of {width} x {height}",
            where="EncodedPixels",
            fix="use the table that belongs to these images",
        )
    ends, lengths = ends.astype(np.int64), lengths.astype(np.int64)
    change = np.zeros(height * width + 1, np.int32)
    np.add.at(change, ends - lengths, 1)
    np.add.at(change, ends, -1)
    return (np.cumsum(change[:-1]) > 0).astype(np.uint8).reshape(width, height).T


def _runs(code: str) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and lengths, float64 (whole numbers, too large for no sum) [runs]."""
    fields = code.split()
    problem = ""
    if not _NUMBERS.fullmatch(code):
        problem = f"is no run-length code: {code[:40]!r}"
    elif len(fields) % 2:
        problem = f"has {len(fields)} fields, a run-length code has pairs: {code[:40]!r}"
    else:
        offsets, lengths = np.array(fields, dtype=np.float64).reshape(-1, 2).T
        if (offsets < 0).any():
            problem = f"has a run that begins before the end of the run before: {code[:40]!r}"
        elif (lengths <= 0).any():
            problem = f"has a run without length: {code[:40]!r}"
    if problem:
        raise UserError(problem, where="EncodedPixels", fix="use the unmodified table")
    return offsets, lengths


def decode_all(codes: tuple[str, ...], height: int, width: int) -> np.ndarray:
    """Union of several codes of one image, uint8 {0, 1} [height, width]."""
    mask = np.zeros((height, width), np.uint8)
    for code in codes:
        mask |= decode(code, height, width)
    return mask
