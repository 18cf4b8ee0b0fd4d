"""The recipes' augmentations: each step of each method's is done, and without steps the crop is all there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlip.data.augmentation import augmented
from mlip.data.pixels import centre, to_tensor
from mlip.manifest import AugmentSpec, read_manifest
from tests.ours import our_methods

SPECS = {
    n: r.augment
    for n, f in our_methods().items()
    if (r := read_manifest(f).recipes.get("paper")) and r.augment is not None
}
STEPS = {
    "convirt": {"resized_crop", "flip", "rotate", "shift", "scale", "brightness", "contrast", "blur"},
    "isbi24": {"flip", "rotate", "scale"},
    "gloria": set(),
    "mgca": set(),
    "cvpr24": set(),
}


def _films(count: int = 12, side: int = 40) -> np.ndarray:
    """Smooth and lopsided, so that every step shows."""
    y, x = np.mgrid[:side, :side] / side
    film = 40 + 90 * x + 60 * y**2 + 50 * np.exp(-((x - 0.3) ** 2 + (y - 0.6) ** 2) / 0.02)
    return np.repeat(film.astype(np.uint8)[None], count, axis=0)


def _run(spec: AugmentSpec, seed: int = 0) -> torch.Tensor:
    return augmented(_films(), spec, 32, torch.Generator().manual_seed(seed))


def test_our_recipes_have_these_steps() -> None:
    assert {name: set(spec.model_dump(exclude_defaults=True)) for name, spec in SPECS.items()} == STEPS


@pytest.mark.parametrize(("name", "step"), [(n, s) for n, steps in STEPS.items() for s in sorted(steps)])
def test_each_step_of_a_method_is_done(name: str, step: str) -> None:
    """Alone it changes the film that the crop alone would give; so a step that is skipped fails here."""
    alone = AugmentSpec.model_validate({step: getattr(SPECS[name], step)})
    done = _run(alone)
    assert done.shape == (12, 3, 32, 32) and done.min() >= -1 and done.max() <= 1
    films = torch.from_numpy(_films())
    crops = films.unfold(1, 32, 1).unfold(2, 32, 1).reshape(-1, 32, 32).unique(dim=0).float() * 2 / 255 - 1
    moved = [(crops - film[0]).abs().amax(dim=(1, 2)).min() > 1e-3 for film in done]
    assert sum(moved) >= 3  # a flip leaves about half as they are
    assert torch.equal(done, _run(alone)) and not torch.equal(done, _run(alone, seed=1))
    assert len({film.sum().item() for film in done}) > 1  # each film its own


def test_a_crop_alone_copies_pixels_from_all_over_the_film() -> None:
    films = np.arange(64 * 1600, dtype=np.int64).reshape(64, 40, 40) % 251
    films = films.astype(np.uint8)
    done = augmented(films, AugmentSpec(), 32, torch.Generator().manual_seed(0))
    places = set()
    for film, crop in zip(films, ((done[:, 0] + 1) * 127.5).round().numpy().astype(np.uint8), strict=True):
        places |= {(y, x) for y in range(9) for x in range(9) if np.array_equal(film[y : y + 32, x : x + 32], crop)}
    assert {y for y, _ in places} == {x for _, x in places} == set(range(9))
    whole = augmented(films, AugmentSpec(), 40, torch.Generator())
    torch.testing.assert_close(whole, to_tensor(films))


def test_the_centre_is_what_is_seen_outside_training() -> None:
    film = np.zeros((1, 40, 40), np.uint8)
    film[0, 4:36, 4:36] = 7
    assert (centre(film, 32) == 7).all() and centre(film, None) is film
