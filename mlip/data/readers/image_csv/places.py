"""Where the file lies that a cell names: anywhere below a folder, by path, by the end of a path, by name, or by stem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path

from mlip.data.formats.files import PICTURES, name_fault, walk_files

FILMS = (*PICTURES, ".dcm", ".dicom", "")
NONE, SEVERAL = "names a file that is not there", "names a file of which there are several"


@dataclass(frozen=True)
class Row:
    """A row of the table of films whose film is there; ``number`` counts the rows that were read."""

    number: int
    image_id: str
    path: Path


class Places:
    """Files below ``folder`` that end in one of ``suffixes`` ("" for those that have none); ``without``: folders not looked into."""

    def __init__(self, folder: Path, suffixes: Sequence[str], without: Sequence[Path] = ()) -> None:
        self.folder, self.suffixes, self.without = folder, tuple(suffixes), tuple(without)

    def find(self, cell: str) -> Path | str:
        """The file, or why there is none, in words that name no film."""
        name = cell.replace("\\", "/").strip("/")
        if fault := name_fault(name, nested=True):
            return fault
        if (exact := self.folder / name).is_file():
            return exact
        parts = name.split("/")
        found = self._by_name.get(parts[-1]) or self._by_stem.get(self._stem(parts[-1]), [])
        if len(found) > 1:  # the more of the cell's folders a file lies in, the better it fits
            same = [_common_end(parts[:-1], path.relative_to(self.folder).parts[:-1]) for path in found]
            found = [path for path, depth in zip(found, same, strict=True) if depth == max(same)]
        return NONE if not found else found[0] if len(found) == 1 else SEVERAL

    def of_stem(self, stem: str) -> Path | str | None:
        """The file of this stem, None where there is none, or why it is not one."""
        found = self._by_stem.get(stem, [])
        return found[0] if len(found) == 1 else SEVERAL if found else None

    def stem(self, path: Path) -> str:
        return self._stem(path.name)

    @cached_property
    def _files(self) -> list[Path]:
        # An unknown suffix is a part of the name: films are often called by identifiers with dots.
        every = walk_files(self.folder, *(("",) if "" in self.suffixes else self.suffixes))
        return [p for p in every if not any(p.is_relative_to(folder) for folder in self.without)]

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return _grouped(self._files, [p.name for p in self._files])

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        known = [p for p in self._files if self._stem(p.name) != p.name]
        return _grouped(known, [self._stem(p.name) for p in known])

    def _stem(self, name: str) -> str:
        suffix = next((s for s in self.suffixes if s and name.lower().endswith(s)), "")
        return name[: len(name) - len(suffix)]


def _grouped(files: list[Path], keys: list[str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for path, key in zip(files, keys, strict=True):
        groups.setdefault(key, []).append(path)
    return groups


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
