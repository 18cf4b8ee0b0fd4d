"""Network input from stored films."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mlip.data.pixels import augment, load, to_tensor


def test_to_tensor_values() -> None:
    images = np.array([[[0, 255], [51, 204]]], np.uint8)
    tensor = to_tensor(images)
    assert tensor.shape == (1, 3, 2, 2)
    torch.testing.assert_close(tensor[0, 2], torch.tensor([[-1.0, 1.0], [-0.6, 0.6]]))


def test_load_keeps_the_order_asked_for(rng: np.random.Generator) -> None:
    images = rng.integers(0, 255, (20, 4, 4), dtype=np.uint8)
    rows = np.array([7, 3, 3, 19, 0])
    np.testing.assert_array_equal(load(images, rows), images[rows])


def test_augment_without_strength_changes_nothing() -> None:
    images = to_tensor(np.random.default_rng(0).integers(0, 255, (4, 16, 16), dtype=np.uint8))
    same = augment(images, torch.Generator(), shift=0, scale=0, rotate=0, brightness=0, contrast=0)
    torch.testing.assert_close(same, images, atol=1e-5, rtol=0)


def test_augment_is_seeded_moves_content_and_pads_with_black() -> None:
    images = to_tensor(np.full((16, 32, 32), 255, np.uint8))
    seeded = [
        augment(images, torch.Generator().manual_seed(s), shift=0.2, rotate=0, scale=0, brightness=0, contrast=0)
        for s in (1, 1, 2)
    ]
    torch.testing.assert_close(seeded[0], seeded[1])
    assert not torch.allclose(seeded[0], seeded[2])
    assert (seeded[0] == -1).any()
    assert len({float(x.sum()) for x in seeded[0]}) > 10  # each image its own shift


def test_augment_never_flips() -> None:
    ramp = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (64, 32, 1))
    out = augment(to_tensor(ramp), torch.Generator().manual_seed(0))[:, 0]
    assert (out[:, 8:24, 20:24].mean(dim=(1, 2)) > out[:, 8:24, 8:12].mean(dim=(1, 2))).all()


@pytest.mark.slow
def test_sampler_speed(tmp_path: Path, rng: np.random.Generator) -> None:
    """At least 2,000 films per second of processor time at 224 px from a memory map."""
    np.lib.format.open_memmap(tmp_path / "i.npy", "w+", np.uint8, (4000, 224, 224))[:] = 7
    images = np.load(tmp_path / "i.npy", mmap_mode="r")
    start = time.process_time()
    for rows in np.array_split(rng.permutation(4000), 4000 // 64):
        to_tensor(load(images, rows))
    assert 4000 / (time.process_time() - start) > 2000
