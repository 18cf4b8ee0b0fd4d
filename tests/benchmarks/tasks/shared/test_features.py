"""Features are complete, in the order of the store, and refused when they belong to other images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.tasks.shared.features import extract, read_features
from mlip.data.store import open_store
from mlip.errors import UserError


@pytest.fixture
def stored(world, rng):
    images = rng.integers(0, 255, (130, 8, 8), dtype=np.uint8)  # more than two batches, the last one short
    world.store("rsna", {"Pneumonia": rng.integers(0, 2, 130)}, images=images)
    return images


def test_extract_and_read(world, fake_method, stored):
    extract(world.study, world.entry, 0, "rsna", torch.device("cpu"))
    path = world.paths.features("fake", 0, "rsna")
    found = read_features(path, open_store(world.paths.data("rsna")))
    expected = (stored.reshape(130, -1) / 255 - 0.5) / 0.5
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [p.name for p in path.parent.iterdir()] == ["rsna.safetensors"], "temporary files are left behind"


def test_features_of_other_images_are_refused(world, fake_method, stored):
    extract(world.study, world.entry, 0, "rsna", torch.device("cpu"))
    path = world.paths.features("fake", 0, "rsna")
    read_features(path, open_store(world.paths.data("rsna")))
    world.rewrite(
        world.paths.data("rsna") / "records.parquet", lambda frame: frame.__setitem__("dhash", frame["dhash"] + 1)
    )
    with pytest.raises(UserError, match="made from other images"):
        read_features(path, open_store(world.paths.data("rsna")))


def test_missing_and_damaged_files_are_named(world, stored):
    store = open_store(world.paths.data("rsna"))
    path = world.paths.features("fake", 0, "rsna")
    with pytest.raises(UserError, match=r"rsna\.safetensors.*not been extracted"):
        read_features(path, store)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a tensor file")
    with pytest.raises(UserError, match=r"rsna\.safetensors.*not readable"):
        read_features(path, store)


def test_not_finite_features_stop_the_extraction(world, fake_method, stored):
    original = fake_method.encode_image

    def broken(images):
        features = original(images)
        features.pooled[0, 0] = float("nan")
        return features

    fake_method.encode_image = broken
    with pytest.raises(UserError, match="not finite"):
        extract(world.study, world.entry, 0, "rsna", torch.device("cpu"))
    assert not world.paths.features("fake", 0, "rsna").exists()
