"""What trainings see of the stored films, and for how long: the crop, the recipe's augmentation, the cap on steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlip.data.pixels import augment, centre, to_tensor
from mlip.manifest import AugmentSpec
from mlip.methods import entries
from mlip.pretraining.batches import Batches, Pairs
from mlip.pretraining.checkpoints import build_method
from mlip.seeding import generator, torch_generator
from mlip.study import Study


def _batches(study: Study, augmentation: AugmentSpec | None = None, epochs: int = 2) -> Batches:
    method = build_method(study, entries(study)[0]["random"])
    return Batches(Pairs(study, "train"), study, method, None, 0, 8, epochs, augmentation)


def test_without_a_recipe_of_its_own_films_are_augmented_as_before(corpus: Study) -> None:
    """Bit by bit what the trainings of the twin study saw."""
    batches = _batches(corpus)
    order = generator(corpus.seed, "pretrain-order", 0, 0).permutation(len(batches.pairs))[:8]
    films = to_tensor(batches.pairs.pixels(order))
    expected = augment(films, torch_generator(corpus.seed, "pretrain-augment", 0, 0, 0))
    assert torch.equal(batches.train(0).images, expected)


@pytest.mark.parametrize("augmentation", [None, AugmentSpec(), AugmentSpec(flip=1.0)])
def test_films_are_cropped_in_training_and_centred_in_validation(
    corpus: Study, augmentation: AugmentSpec | None
) -> None:
    study = corpus.model_copy(update={"crop_size": 32})
    batches = _batches(study, augmentation)
    assert batches.method.image_encoder.input_size == 32
    images = batches.train(0).images
    assert images.shape == (8, 3, 32, 32) and not torch.equal(images, batches.train(1).images)
    if augmentation is not None:  # an exact part of the film, turned round where the recipe says so
        order = generator(study.seed, "pretrain-order", 0, 0).permutation(len(batches.pairs))[:8]
        seen = images.flip(-1) if augmentation.flip else images
        for film, image in zip(to_tensor(batches.pairs.pixels(order)), seen, strict=True):
            parts = film[0].unfold(0, 32, 1).unfold(1, 32, 1).reshape(-1, 32, 32)
            assert (parts - image[0]).abs().amax(dim=(1, 2)).min() < 1e-5
    (first, *_) = batches.evaluation(8)
    torch.testing.assert_close(first.images, to_tensor(centre(batches.pairs.pixels(np.arange(8)), 32)))


def test_steps_are_capped(corpus: Study) -> None:
    assert _batches(corpus).steps > 3
    capped = corpus.pretrain.model_copy(update={"steps": 3})
    assert _batches(corpus.model_copy(update={"pretrain": capped})).steps == 3
