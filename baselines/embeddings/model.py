"""Vectors of films (and texts) that were computed elsewhere, by any model in any software: looked up, not computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional

from mlip.contract import ImageFeatures, MethodContext, TextFeatures, Untrained
from mlip.errors import UserError
from mlip.study import WeightsConfig

FILM, TEXT, VECTOR = "image_id", "text", "vector"  # columns


class Embeddings(Untrained):
    """Tables of vectors. A film is known by the identifier that its holder knows, hashed here as in the stores.

    Raises
    ------
    UserError : the row names no file, a file lacks a column, or its vectors are no finite numbers of one width.
    """

    films: Tensor  # [N, D]
    texts: Tensor  # [T, D], [0, D] where no texts are given

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        if context.weights is None or context.hashed is None:
            raise self._refusal("is nothing without a file", "give a variant of it `weights`, see its README.md")
        self._path, texts = context.weights.path, context.weights.texts
        names, films = read_vectors(self._path, FILM)
        self._film = {name: row for row, raw in enumerate(names) for name in context.hashed(raw)}
        self._texts = texts.expanduser() if texts else None
        said, vectors = read_vectors(self._texts, TEXT) if self._texts else ([], films[:0])
        if vectors.shape[1] != films.shape[1]:
            problem = f"its vectors have {vectors.shape[1]} numbers, those of the films {films.shape[1]}"
            raise UserError(problem, where=self._texts, fix="give both in the space that they share")
        self._text = {text: row for row, text in enumerate(said)}
        self.register_buffer("films", torch.from_numpy(films))
        self.register_buffer("texts", torch.from_numpy(vectors))

    def load_weights(self, weights: WeightsConfig, key: str) -> None:
        """Nothing more: the tables are read when the method is built."""

    @classmethod
    def check_weights(cls, weights: WeightsConfig, kind: Literal["cnn", "vit"], image_size: int, key: str) -> None:
        """Raises UserError where a file is not as documented."""
        if weights.file is None:
            raise UserError("names a folder", where=key, fix="name the parquet file in it")
        for name in ("architecture", "input_size", "normalise"):
            if getattr(weights, name) is not None:
                raise UserError(f"gives {name}, but vectors are only looked up", where=key, fix=f"leave {name} out")
        read_vectors(weights.path, FILM)
        if weights.texts:
            read_vectors(weights.texts.expanduser(), TEXT)

    @classmethod
    def example_weights(cls, kind: Literal["cnn", "vit"], folder: Path) -> WeightsConfig:
        """Four films and two texts."""
        draw = torch.Generator().manual_seed(0)
        for file, column, names in (("films", FILM, "abcd"), ("texts", TEXT, "xy")):
            vectors = torch.randn(len(names), 8, generator=draw).tolist()
            pq.write_table(pa.table({column: list(names), VECTOR: vectors}), folder / f"{file}.parquet")
        return WeightsConfig(file=folder / "films.parquet", texts=folder / "texts.parquet")

    def of_films(self, images: Tensor, image_ids: Sequence[str]) -> ImageFeatures:
        """The vectors of films by their hashed identifiers, as pooled feature, as a grid of one cell, and normalised.

        Raises
        ------
        UserError : the file lacks some of these films.
        """
        lacking = sum(name not in self._film for name in image_ids)
        if lacking or len(image_ids) != len(images):
            raise UserError(
                f"has no vector of {lacking or len(images)} of {len(images)} films that were asked for",
                where=self._path,
                fix="give one for every film of the data set, under the image_id of docs/own-weights.md (`mlip wanted` lists them)",
            )
        pooled = self.films[[self._film[name] for name in image_ids]]
        return ImageFeatures(pooled, pooled[:, None, None], functional.normalize(pooled, dim=-1))

    def encode_image(self, images: Tensor) -> ImageFeatures:
        raise self._refusal("computes nothing from a film", "ask of_films")

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        """The vectors of these texts, letter by letter. Raises UserError where the file lacks one; it does not show which, as
        texts may be reports."""
        lacking = len({text for text in texts if text not in self._text})
        if lacking:
            raise UserError(
                f"has no vector of {lacking} of {len(set(texts))} texts that were asked for",
                where=self._texts,
                fix="give one for every text that `mlip wanted` lists",
            )
        return TextFeatures(functional.normalize(self.texts[[self._text[text] for text in texts]], dim=-1))


def read_vectors(path: Path, column: str) -> tuple[list[str], np.ndarray]:
    """The names in ``column`` and their vectors, float32 [N, D], of a parquet file.

    Raises
    ------
    UserError : it is no parquet file, lacks a column, names something twice or not at all, or its vectors are not finite numbers
        of one width.
    """
    try:
        table = pq.read_table(path, columns=[column, VECTOR])
        names = pd.Series(table[column].to_pandas())
        vectors = [np.asarray(v, dtype=np.float32) for v in table[VECTOR].to_pandas()]
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise UserError(
            f"holds no columns {column} and {VECTOR} ({' '.join(str(error).split())[:160]})",
            where=path,
            fix=f"write a parquet file of {column} (text) and {VECTOR} (a list of numbers)",
        ) from None
    widths = {v.shape for v in vectors}
    if len(widths) != 1 or len(next(iter(widths))) != 1 or next(iter(widths))[0] == 0:
        raise UserError(
            f"its vectors have the shapes {sorted(widths)[:3]}", where=path, fix="give vectors of one width"
        )
    found = np.stack(vectors)
    if not np.isfinite(found).all():
        raise UserError("holds numbers that are not finite", where=path, fix="compute those vectors anew")
    if names.isna().any():
        raise UserError(f"holds rows without {column}", where=path, fix="name each vector")
    if names.duplicated().any():
        problem = f"holds {int(names.duplicated().sum())} rows whose {column} stands twice"
        raise UserError(problem, where=path, fix="keep one vector of each")
    return [str(name) for name in names], found
