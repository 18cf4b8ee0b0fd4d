"""Vectors that were computed elsewhere are looked up under the holder's own identifiers, and nothing is made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from benchmarks.tasks.shared.features import extract, read_features
from mlip.contract import Method
from mlip.data.catalogue import namespace_of
from mlip.data.privacy import hash_id
from mlip.errors import UserError
from mlip.manifest import read_manifest
from mlip.methods import Entry, method_class, method_folders
from mlip.paths import StudyPaths
from mlip.pretraining.checkpoints import build_method, load_method
from mlip.pretraining.loop import pretrain
from mlip.run.contract.world import tiny_method
from mlip.study import Study, WeightsConfig, parse_study
from mlip.text.tokenisation import train_tokenizer
from tests.stores import write_store

FOLDER = method_folders()["embeddings"]
RAW = ["film/a.png", "film/b.png", "film/c.png"]
VECTORS = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def files(folder: Path, texts: bool = True, **columns: Any) -> WeightsConfig:
    pd.DataFrame({"image_id": RAW, "vector": VECTORS.tolist(), **columns}).to_parquet(folder / "films.parquet")
    pd.DataFrame({"text": ["no effusion", "effusion"], "vector": VECTORS[:2].tolist()}).to_parquet(folder / "t.parquet")
    return WeightsConfig(file=folder / "films.parquet", texts=folder / "t.parquet" if texts else None)


def entry(weights: WeightsConfig) -> Entry:
    return Entry("mine", read_manifest(FOLDER), FOLDER, "cnn", {}, {}, "Mine", weights=weights)


def row(weights: WeightsConfig) -> Method:
    method_class(FOLDER).check_weights(weights, "cnn", 32, "key")
    return tiny_method(entry(weights)).eval()


def a_study(folder: Path, reader: str = "rsna") -> Study:
    return parse_study(
        {
            "study": "mini", "title": "t", "data_note": "n", "work": str(folder / "work"), "image_size": 32,
            "datasets": {"films": {"reader": reader, "root": str(folder)}},
            "encoders": {"cnn": {"name": "resnet", "args": {"layers": [1, 1, 1, 1], "channels": [4, 4, 4, 4]}},
                         "vit": {"name": "vit"}, "text": {"layers": 1, "dim": 8, "heads": 1, "vocabulary": 200}},
            "pretrain": {"datasets": ["films"]}, "tasks": {},
        },
        where="test",
    )  # fmt: skip


def test_features_of_a_store_are_the_vectors_of_the_films_own_names(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MLIP_SALT", "salt")
    study, weights = a_study(tmp_path), files(tmp_path)
    paths = StudyPaths(study)
    train_tokenizer(["no effusion is seen"], 200, 16).save(paths.tokenizer)
    write_store(paths.data("films"), np.zeros((3, 32, 32), np.uint8), reader="rsna")
    table = pd.read_parquet(paths.data("films") / "records.parquet")
    order = [2, 0, 1]  # a store is in another order than the file
    table["image_id"] = [hash_id("rsna/image", RAW[i], b"salt") for i in order]
    table.to_parquet(paths.data("films") / "records.parquet")

    class Printed:
        key = code = "x"

    pretrain(study, entry(weights), 0, Printed())  # type: ignore[arg-type]
    extract(study, entry(weights), 0, "films", torch.device("cpu"))
    from mlip.data.store import open_store

    found = read_features(paths.features("mine", 0, "films"), open_store(paths.data("films")))
    np.testing.assert_array_equal(found, VECTORS[order])
    files(tmp_path, vector=(VECTORS + 1).tolist())  # the file is replaced after the job: what the job made stands
    kept = load_method(study, entry(weights), 0).state_dict()["films"].numpy()
    np.testing.assert_array_equal(kept, VECTORS)
    np.testing.assert_array_equal(build_method(study, entry(weights)).state_dict()["films"].numpy(), VECTORS + 1)


@pytest.mark.parametrize("reader", ["rsna", "image_csv"])
def test_a_film_is_known_by_its_own_name_whatever_its_reader(tmp_path: Path, monkeypatch: Any, reader: str) -> None:
    """Films of one's own are hashed with their folder too."""
    monkeypatch.setenv("MLIP_SALT", "salt")
    study = a_study(tmp_path, reader)
    train_tokenizer(["no effusion is seen"], 200, 16).save(StudyPaths(study).tokenizer)
    method = build_method(study, entry(files(tmp_path)))
    stored = [hash_id(f"{namespace_of(study, 'films')}/image", raw, b"salt") for raw in RAW]
    np.testing.assert_array_equal(method.of_films(torch.zeros(len(RAW), 3, 8, 8), stored).pooled, VECTORS)


def test_texts_are_looked_up_letter_by_letter_and_share_the_films_space(tmp_path: Path) -> None:
    method = row(files(tmp_path))
    films = method.of_films(torch.zeros(2, 3, 8, 8), ["film/b.png", "film/a.png"])
    torch.testing.assert_close(films.pooled, torch.from_numpy(VECTORS[[1, 0]]))
    joint = functional.normalize(torch.from_numpy(VECTORS), dim=-1)
    torch.testing.assert_close(method.similarity(films, method.encode_text(["effusion"])), joint[[1, 0]] @ joint[1:2].T)
    with pytest.raises(UserError, match=r"t\.parquet: has no vector of 1 of 2 texts") as error:
        method.encode_text(["effusion", "Effusion of Mr Smith"])
    assert "Smith" not in str(error.value)
    with pytest.raises(UserError, match=r"films\.parquet: has no vector of 1 of 2 films"):
        method.of_films(torch.zeros(2, 3, 8, 8), ["film/b.png", "film/d.png"])


def test_a_row_has_a_text_side_only_where_texts_are_given(tmp_path: Path) -> None:
    assert set(entry(files(tmp_path)).capabilities) == {"zero_shot", "retrieval"}
    assert entry(files(tmp_path, texts=False)).capabilities == []


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image_id": [RAW[0], RAW[0], RAW[1]]}, "1 rows whose image_id stands twice"),
        ({"image_id": [None, *RAW[:2]]}, "rows without image_id"),
        ({"vector": [[1.0], [1.0, 2.0], [3.0]]}, "vectors have the shapes"),
        ({"vector": [[1.0], [float("nan")], [3.0]]}, "not finite"),
        ({"vector": ["a", "b", "c"]}, "holds no columns image_id and vector"),
        ({"vector": [[1.0], [2.0], [3.0]]}, "its vectors have 5 numbers, those of the films 1"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        row(files(tmp_path, **columns))


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "films.parquet").write_text("image_id,vector", encoding="utf-8")
    with pytest.raises(UserError, match=r"films\.parquet: holds no columns"):
        row(WeightsConfig(file=tmp_path / "films.parquet"))
