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
CROWD = 200  # films with one key on each side, above which not all of their pairs are compared
_LEADERS = 64
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

    Two bounds keep it linear. Films of one grey level (:attr:`Store.flat_rows`) show nobody and are in no pair. Where more films than
    ``CROWD`` share a key of the join, they are compared with some leaders among them and by exact copy (:func:`_of_crowd`): of
    many copies, each then comes in a pair with one of the others, not with all.
    """
    rows_a, rows_b = (np.setdiff1d(np.asarray(r, np.int64), s.flat_rows) for s, r in ((a, rows_a), (b, rows_b)))
    hash_a, hash_b = (s.records.dhash.to_numpy(np.uint64)[r] for s, r in ((a, rows_a), (b, rows_b)))
    small_a = _Thumbnails(a)
    small_b = small_a if a is b else _Thumbnails(b)
    found = [np.empty((0, 2), np.int64)]
    seen = np.empty(0, np.int64)
    crowds: set[bytes] = set()

    def compare(i: np.ndarray, j: np.ndarray) -> None:
        left, right = rows_a[i], rows_b[j]
        if a is b:
            left, right = np.unique(np.sort(np.stack([left, right], axis=1)[left != right], axis=1), axis=0).T
        same = np.abs(small_a(left) - small_b(right)).mean(axis=1) < MAX_DIFFERENCE
        found.append(np.stack([left[same], right[same]], axis=1))

    for join in joins(hash_a, hash_b):
        for i, j in join.pairs():
            fresh = np.setdiff1d(i * len(rows_b) + j, seen)  # a pair comes once for each join that finds it
            seen = np.union1d(seen, fresh)
            compare(fresh // max(len(rows_b), 1), fresh % max(len(rows_b), 1))
        for i, j in join.crowds():
            if (name := i.tobytes() + j.tobytes()) not in crowds:  # films of one hash are a crowd in every join
                crowds.add(name)
                compare(*_of_crowd(i, j, hash_a, hash_b, small_a(rows_a[i]), small_b(rows_b[j])))
    return np.unique(np.concatenate(found), axis=0)


def joins(hash_a: np.ndarray, hash_b: np.ndarray) -> Iterator[Join]:
    """The joins that together find every pair of uint64 hashes within ``MAX_DISTANCE`` bits without comparing all.

    Two changed bits touch at most two of six bands, so some four bands are equal: one join on each choice of four
    bands, 15 joins of at least 42 bits. A pair may come repeatedly.
    """
    for chosen in combinations(_BANDS, len(_BANDS) - MAX_DISTANCE):
        yield Join(hash_a, hash_b, chosen)


class Join:
    """The films of two lists whose hashes agree in the chosen bands."""

    def __init__(self, hash_a: np.ndarray, hash_b: np.ndarray, chosen: tuple[tuple[int, int], ...]) -> None:
        self.hash_a, self.hash_b = hash_a, hash_b
        mask = np.uint64(sum(((1 << bits) - 1) << first for first, bits in chosen))
        key_a, key_b = hash_a & mask, hash_b & mask
        self.order = np.argsort(key_b, kind="stable")
        ordered = key_b[self.order]
        self.begin = np.searchsorted(ordered, key_a, "left")
        self.count = np.searchsorted(ordered, key_a, "right") - self.begin
        _, group, sizes = np.unique(key_a, return_inverse=True, return_counts=True)
        self.group = group
        self.crowded = sizes[group] * self.count > CROWD**2

    def pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Blocks of index pairs within ``MAX_DISTANCE`` bits, outside the crowds."""
        matched = np.flatnonzero((self.count > 0) & ~self.crowded)
        ends = np.cumsum(self.count[matched])
        for first in range(0, int(ends[-1]) if len(ends) else 0, _BLOCK):
            serial = np.arange(first, min(first + _BLOCK, int(ends[-1])))
            at = np.searchsorted(ends, serial, "right")
            i = matched[at]
            j = self.order[self.begin[i] + serial - (ends[at] - self.count[i])]
            close = _close(self.hash_a[i], self.hash_b[j])
            if close.any():
                yield i[close], j[close]

    def crowds(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Indices of the films on either side with one key, where there are too many for all pairs."""
        rows = np.flatnonzero(self.crowded)
        rows = rows[np.argsort(self.group[rows], kind="stable")]
        for i in np.split(rows, np.flatnonzero(np.diff(self.group[rows])) + 1) if len(rows) else []:
            yield i, np.sort(self.order[self.begin[i[0]] : self.begin[i[0]] + self.count[i[0]]])


def _close(hash_a: np.ndarray, hash_b: np.ndarray) -> np.ndarray:
    return np.bitwise_count(hash_a ^ hash_b) <= MAX_DISTANCE


def _of_crowd(
    i: np.ndarray, j: np.ndarray, hash_a: np.ndarray, hash_b: np.ndarray, small_a: np.ndarray, small_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Index pairs to look at among many films ``i`` and ``j``, int64 [pairs] each: at most about ``_LEADERS`` per film.

    Up to ``_LEADERS`` films of ``j``, none like one before, are compared with all; films that are like a leader are paired with
    it, on both sides. What is left is paired where the small pictures (int16 [films, 256]) are equal.
    """
    left, right = [np.empty(0, np.int64)], [np.empty(0, np.int64)]

    def pair(of_a: np.ndarray, of_b: np.ndarray) -> None:
        if len(of_a) and len(of_b):
            left.extend((i[of_a], np.repeat(i[of_a[0]], len(of_b))))
            right.extend((np.repeat(j[of_b[0]], len(of_a)), j[of_b]))

    def like(leader: int, hashes: np.ndarray, small: np.ndarray) -> np.ndarray:
        near = _close(hash_b[j[leader]], hashes)
        return np.flatnonzero(near)[np.abs(small[near] - small_b[leader]).mean(axis=1) < MAX_DIFFERENCE]

    free = np.ones(len(j), bool)
    for _ in range(_LEADERS):
        if not free.any():
            break
        leader = int(np.argmax(free))
        of_a, of_b = like(leader, hash_a[i], small_a), like(leader, hash_b[j], small_b)
        pair(of_a, np.concatenate([[leader], of_b[of_b != leader]]))
        if not len(of_a):  # a film of i may still be like one of these, unless they are exact copies
            of_b = of_b[(small_b[of_b] == small_b[leader]).all(axis=1)]
        free[of_b] = False
    _, kind = np.unique(np.concatenate([small_a, small_b[free]]), axis=0, return_inverse=True)
    kind_a, kind_b, rest = kind[: len(i)], kind[len(i) :], np.flatnonzero(free)
    for same in np.intersect1d(kind_a, kind_b):
        pair(np.flatnonzero(kind_a == same), rest[kind_b == same])
    return np.concatenate(left), np.concatenate(right)


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
