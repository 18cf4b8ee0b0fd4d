"""The same film under two names: perceptual hash to find candidates, a small picture of each to confirm them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import cv2
import numpy as np

from mlip.data.store import Store

MAX_DISTANCE = 2  # bits of the 64-bit dHash
# Mean absolute grey levels between the films at 16 x 16. Of candidates by hash, films of different patients differ by 15
# and more (real NIH films) or by 11 and more (virtual films of one anatomy); re-encoded or rescaled copies by 0 to 5.
MAX_DIFFERENCE = 6.0
_SIDE = 16
_BANDS = ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))  # (first bit, bits)
_BLOCK = 200_000  # candidate pairs looked at together


def near_duplicates(a: Store, rows_a: np.ndarray, b: Store, rows_b: np.ndarray) -> np.ndarray:
    """Pairs of rows that show the same film, int64 [pairs, 2], sorted; of a store with itself each pair once, no row
    with itself.

    Chest films resemble each other so much that a close dHash alone is no proof (films of one patient, or virtual films
    of one anatomy, can share it): a pair counts only if the films differ by less than ``MAX_DIFFERENCE``. Copies that were
    re-encoded, rescaled or slightly brightened are found (docs/datasets.md says how many); a film that was cropped, turned or
    windowed differently is not.
    """
    rows_a, rows_b = np.asarray(rows_a, np.int64), np.asarray(rows_b, np.int64)
    hash_a, hash_b = (s.records.dhash.to_numpy(np.uint64)[r] for s, r in ((a, rows_a), (b, rows_b)))
    small_a = _Thumbnails(a)
    small_b = small_a if a is b else _Thumbnails(b)
    found = [np.empty((0, 2), np.int64)]
    seen = np.empty(0, np.int64)
    for i, j in candidates(hash_a, hash_b):
        fresh = np.setdiff1d(i * len(rows_b) + j, seen)  # a pair comes once for each join that finds it
        seen = np.union1d(seen, fresh)
        left, right = rows_a[fresh // max(len(rows_b), 1)], rows_b[fresh % max(len(rows_b), 1)]
        if a is b:
            ordered = left < right
            left, right = left[ordered], right[ordered]
        same = np.abs(small_a(left) - small_b(right)).mean(axis=1) < MAX_DIFFERENCE
        found.append(np.stack([left[same], right[same]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def candidates(hash_a: np.ndarray, hash_b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of index pairs whose uint64 hashes differ in at most ``MAX_DISTANCE`` bits; a pair may come repeatedly.

    Two changed bits touch at most two of six bands, so some four bands are equal: a join on each choice of four bands
    (15 joins of at least 42 bits) finds every such pair without comparing all of them.
    """
    for chosen in combinations(_BANDS, len(_BANDS) - MAX_DISTANCE):
        mask = np.uint64(sum(((1 << bits) - 1) << first for first, bits in chosen))
        key_a, key_b = hash_a & mask, hash_b & mask
        order = np.argsort(key_b, kind="stable")
        ordered = key_b[order]
        begin = np.searchsorted(ordered, key_a, "left")
        count = np.searchsorted(ordered, key_a, "right") - begin
        matched = np.flatnonzero(count)
        ends = np.cumsum(count[matched])
        for first in range(0, int(ends[-1]) if len(ends) else 0, _BLOCK):
            serial = np.arange(first, min(first + _BLOCK, int(ends[-1])))
            at = np.searchsorted(ends, serial, "right")
            i = matched[at]
            j = order[begin[i] + serial - (ends[at] - count[i])]
            close = np.bitwise_count(hash_a[i] ^ hash_b[j]) <= MAX_DISTANCE
            if close.any():
                yield i[close], j[close]


class _Thumbnails:
    """The films of a store at 16 x 16 (area mean), each read once, when it is first asked for."""

    def __init__(self, store: Store) -> None:
        self.images = store.images
        self.made = np.empty((len(store.images), _SIDE * _SIDE), np.uint8)
        self.known = np.zeros(len(store.images), bool)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """int16 [rows, 256]."""
        for row in np.unique(rows[~self.known[rows]]):
            film = np.ascontiguousarray(self.images[row])
            self.made[row] = cv2.resize(film, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).ravel()
            self.known[row] = True
        return self.made[rows].astype(np.int16)
