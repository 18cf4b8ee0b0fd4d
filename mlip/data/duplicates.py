"""The same film under two names: perceptual hash to find candidates, pixels to confirm them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from mlip.data.store import Store

MAX_DISTANCE = 2  # bits of the 64-bit dHash
MAX_DIFFERENCE = 2.0  # mean absolute grey levels of the stored films
_BANDS = ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))  # (first bit, bits)
_BLOCK = 200_000  # candidate pairs looked at together


def near_duplicates(a: Store, rows_a: np.ndarray, b: Store, rows_b: np.ndarray, *, limit: int = 1000) -> np.ndarray:
    """Pairs of rows that show the same film, int64 [pairs, 2], at most ``limit`` of them.

    Chest films resemble each other so much that a close dHash alone is no proof (films of one patient, or virtual films
    of one anatomy, can share it): a pair counts only if the stored pixels differ by less than ``MAX_DIFFERENCE`` grey
    levels on average. A film that was cropped, turned or windowed differently is not found.
    """
    if not len(rows_a) or not len(rows_b):
        return np.empty((0, 2), np.int64)
    rows_a, rows_b = np.asarray(rows_a), np.asarray(rows_b)
    hash_a, hash_b = (s.records.dhash.to_numpy(np.uint64)[r] for s, r in ((a, rows_a), (b, rows_b)))
    found: list[tuple[int, int]] = []
    seen = np.empty(0, np.int64)
    for i, j in candidates(hash_a, hash_b):
        fresh = np.setdiff1d(i * len(rows_b) + j, seen)  # a pair comes once for each join that finds it
        if not len(fresh):
            continue
        seen = np.union1d(seen, fresh)
        left, right = rows_a[fresh // len(rows_b)], rows_b[fresh % len(rows_b)]
        # A sixteenth-size look first: most candidates only resemble each other.
        rough = np.abs(_thumbnails(a, left) - _thumbnails(b, right)).mean(axis=1)
        for k in np.flatnonzero(rough < 4 * MAX_DIFFERENCE):
            if _difference(a, b, int(left[k]), int(right[k])) < MAX_DIFFERENCE:
                found.append((int(left[k]), int(right[k])))
        if len(found) >= limit:
            break
    return np.array(sorted(found)[:limit], np.int64).reshape(-1, 2)


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


def _thumbnails(store: Store, rows: np.ndarray) -> np.ndarray:
    """Every n-th pixel of the films, int16 [rows, about 16 * 16]; each film is read once."""
    step = max(1, store.images.shape[1] // 16)
    wanted, index = np.unique(rows, return_inverse=True)
    small = [store.images[row, ::step, ::step].ravel() for row in wanted]
    return np.array(small, np.int16).reshape(len(wanted), -1)[index]


def _difference(a: Store, b: Store, row_a: int, row_b: int) -> float:
    return float(np.abs(a.images[row_a].astype(np.int16) - b.images[row_b]).mean())
