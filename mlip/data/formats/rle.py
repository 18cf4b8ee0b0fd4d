"""SIIM-ACR's run-length code: (offset, length) pairs, each offset counted from the end of the run before, column-major.

Source: `mask_functions.py` distributed with the challenge's data (pixel 0 is the top-left corner, runs go down columns).
"""

from __future__ import annotations

import numpy as np

from mlip.errors import UserError


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
    UserError : the code is no list of pairs, or runs beyond the image.
    """
    code = code.strip()
    if code in ("", "-1"):
        return np.zeros((height, width), np.uint8)
    try:
        numbers = np.array(code.split(), dtype=np.int64)
        offsets, lengths = numbers.reshape(-1, 2).T
    except ValueError:
        raise UserError(
            f"is no run-length code: {code[:40]!r}", where="EncodedPixels", fix="use the unmodified table"
        ) from None
    ends = np.cumsum(offsets + lengths)
    if (numbers < 0).any() or ends[-1] > height * width:
        raise UserError(
            f"a run ends at pixel {ends[-1]} of an image of {width} x {height}",
            where="EncodedPixels",
            fix="use the table that belongs to these images",
        )
    change = np.zeros(height * width + 1, np.int32)
    np.add.at(change, ends - lengths, 1)
    np.add.at(change, ends, -1)
    return (np.cumsum(change[:-1]) > 0).astype(np.uint8).reshape(width, height).T


def decode_all(codes: tuple[str, ...], height: int, width: int) -> np.ndarray:
    """Union of several codes of one image, uint8 {0, 1} [height, width]."""
    mask = np.zeros((height, width), np.uint8)
    for code in codes:
        mask |= decode(code, height, width)
    return mask
