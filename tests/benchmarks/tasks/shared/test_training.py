"""What detection and segmentation share: drawn batches, schedule, selection, per-fraction keys, the import of Detectron2."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from benchmarks.tasks.shared.dense.data import validation_rows
from benchmarks.tasks.shared.dense.protocol import DenseProtocol, at_fraction
from benchmarks.tasks.shared.training import Recipe, deterministic, draw_batches, fit
from mlip.detectron2_compat import prepare

BASE = {"name": "t", "title": "t", "batch_size": 4, "lr": 0.1, "weight_decay": 0.0, "schedule": "constant"}


def protocol(**keys) -> DenseProtocol:
    return DenseProtocol.model_validate({**BASE, "iterations": 10, "selection": "last", **keys})


def recipe(**keys) -> Recipe:
    return protocol(validate_every=1, **keys).recipe(100, 10)


def test_batches_pass_over_all_images_and_balance() -> None:
    rows, positive = np.arange(100, 120), np.arange(20) < 3
    plain = draw_batches(rows, positive, 10, 4, False, np.random.default_rng(0))
    assert len(plain) == 10 and sorted(np.concatenate(plain[:5])) == rows.tolist()
    balanced = draw_batches(rows, positive, 10, 4, True, np.random.default_rng(0))
    assert all((batch < 103).sum() == 2 for batch in balanced)
    assert len(draw_batches(rows[:2], positive[:2], 3, 8, True, np.random.default_rng(0))[0]) == 2


def test_per_fraction_keys_and_lengths() -> None:
    assert at_fraction({1: 8, 100: 16}, 1) == 8 and at_fraction({1: 8, 100: 16}, 10) == 16 and at_fraction(3, 10) == 3
    assert protocol(iterations=None, epochs=3).length(100, 10) == 9, "three passes of ceil(10 / 4) batches"
    with pytest.raises(ValidationError, match="no entry for 100"):
        protocol(lr={1: 0.1})
    with pytest.raises(ValidationError, match="iterations and epochs"):
        protocol(iterations=None)


def test_best_val_restores_the_best_and_stops() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    seen: list[float] = []

    def validate() -> float:
        seen.append(model.weight.item())
        return -abs(model.weight.item() - 0.3)  # best on the way, worse later

    batches = [np.array([0])] * 40
    with deterministic(torch.device("cpu")):
        assert torch.are_deterministic_algorithms_enabled()
        history = fit(
            model,
            lambda rows: -model.weight.sum(),
            batches,
            recipe(selection="best_val", patience=2),
            1,
            validate,
        )
    assert not torch.are_deterministic_algorithms_enabled()
    assert model.weight.item() == pytest.approx(0.3, abs=0.01) and len(history.losses) == len(seen) == 5
    assert history.stopped
    assert not model.training


def test_the_average_is_what_is_read_and_kept() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1))
    raw: list[float] = []
    seen: list[float] = []

    def loss_of(rows: np.ndarray) -> torch.Tensor:
        raw.append(model[0].weight.item())
        return -model[0].weight.sum()

    def validate() -> float:
        seen.append(model[0].weight.item())
        return seen[-1]

    settings = {"average": 0.5, "lr": 0.01, "selection": "best_val"}
    expected = model[0].weight.item()
    fit(model, loss_of, [np.array([0])] * 6, recipe(**settings), 1, validate)
    assert len(raw) == len(seen) == 6
    for after, read in zip(raw[1:], seen, strict=False):
        expected = 0.5 * expected + 0.5 * after
        assert read == pytest.approx(expected, abs=1e-6) and read < after, "training goes on from its own weights"
    assert model[0].weight.item() == pytest.approx(seen[-1])
    # Where nothing is selected the last average is tested.
    last = torch.nn.Linear(1, 1, bias=False)
    last.weight.data.zero_()
    fit(last, lambda rows: -last.weight.sum(), [np.array([0])] * 3, recipe(average=0.5, lr=0.01), 1)
    assert last.weight.item() == pytest.approx(0.01 * (((0.5 * 1) + 2) / 2 + 3) / 2, rel=1e-4)


def test_a_gain_that_is_too_small_is_kept_but_does_not_prolong() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    scores = iter([0.1, 0.2, 0.204, 0.203, 0.3, 0.302, 0.304, 0.306, 0.307, 0.4])
    settings = {"selection": "best_val", "patience": 3, "min_gain": 0.01}
    seen: list[float] = []

    def validate() -> float:
        seen.append(model.weight.item())
        return next(scores)

    fitted = fit(model, lambda rows: -model.weight.sum(), [np.array([0])] * 10, recipe(**settings), 1, validate)
    assert fitted.stopped and fitted.columns == {"iterations": 8, "stopped": True, "seen": 1, "labelled": 1}
    assert model.weight.item() == seen[7], "the best of all readings"


def test_deterministic_does_not_fill_fresh_memory() -> None:
    from torch.utils import deterministic as torchs

    with deterministic(torch.device("cpu")):
        assert torch.are_deterministic_algorithms_enabled() and not torchs.fill_uninitialized_memory
    assert torchs.fill_uninitialized_memory


def test_validation_rows_are_few_balanced_and_fixed() -> None:
    rows, positive = np.arange(200, 300), np.arange(100) < 20
    few = validation_rows(rows, positive, 32, np.random.default_rng(0))
    assert len(few) == 32 and (few < 220).sum() == 16 and (np.diff(few) > 0).all()
    assert (validation_rows(rows, positive, 64, np.random.default_rng(0)) < 220).sum() == 20, "all there are"
    assert len(validation_rows(rows, positive, None, np.random.default_rng(0))) == 100
    assert len(validation_rows(rows, np.ones(100, bool), 32, np.random.default_rng(0))) == 32


def test_detectron2_imports_and_its_placeholder_says_what_is_missing() -> None:
    import PIL.Image

    full = prepare()
    assert prepare() == full
    import detectron2._C as operators
    import detectron2.modeling

    assert PIL.Image.LINEAR == PIL.Image.BILINEAR and detectron2.modeling.META_ARCH_REGISTRY
    if not full:
        with pytest.raises(AttributeError, match="built with its C\\+\\+ sources"):
            operators.deform_conv_forward  # noqa: B018


def test_looking_at_the_tasks_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from benchmarks.tasks import detection, segmentation\n"
        "assert detection.TASK.name == 'detection' and segmentation.TASK.name == 'segmentation'\n"
        "assert not {'torch', 'detectron2', 'segmentation_models_pytorch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
