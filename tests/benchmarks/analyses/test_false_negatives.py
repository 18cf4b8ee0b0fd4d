"""Different patients with equal findings: groups, closeness, and the pull of a loss on a pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.analyses.false_negatives import GROUPS, closeness, compared_rows, pair_groups, pull, variants
from benchmarks.plan import resolve
from mlip.losses.contrastive import instance_loss
from mlip.methods import entries
from mlip.run.contract.world import tiny_batch, tiny_method
from mlip.seeding import torch_generator
from mlip.study import load_study
from tests.conftest import ROOT


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.randn(*shape, generator=torch_generator("unit", seed), dtype=torch.float64)
    return functional.normalize(draw, dim=-1)


def test_groups_and_closeness() -> None:
    findings = [{"Edema"}, {"Edema"}, {"Edema"}, {"Pneumonia"}, set(), set()]
    groups = pair_groups(findings, np.array([0, 1, 0, 2, 3, 4]))
    assert groups[0].sum() == 6
    assert set(zip(*np.nonzero(groups[1]), strict=True)) == {(0, 1), (1, 0), (1, 2), (2, 1)}  # 0 and 2 are one patient
    assert not groups[2][4, 5] and groups[2][3, 4] and groups[2].sum() == 6 * 5 - 6 - 2  # two without finding: no group
    similarity = np.full((6, 6), 0.1)
    np.fill_diagonal(similarity, 0.9)
    similarity[0, 1] = similarity[1, 0] = 0.5
    values = closeness(similarity, groups)
    assert [values[g] for g in GROUPS] == pytest.approx([0.9, 0.3, 0.1])
    assert values["auroc"] == pytest.approx(0.75)  # two of four above all others, two tied with them


def test_pull_is_what_a_small_step_does() -> None:
    image, text = unit(5, 8).requires_grad_(), unit(5, 8, seed=1).requires_grad_()
    term = instance_loss(image, text, 0.1)
    expected, rate = pull(term, image, text), 1e-6
    term.backward()
    with torch.no_grad():
        moved = [functional.normalize(x - rate * x.grad, dim=-1) for x in (image, text)]
        change = (moved[0] @ moved[1].T - image @ text.T) / rate * len(image)
    torch.testing.assert_close(expected, change, rtol=1e-3, atol=1e-4)
    assert bool((expected.diagonal() > 0).all()) and expected.sum() < expected.diagonal().sum()


def test_a_term_of_one_side_moves_that_side_alone() -> None:
    image, text = unit(4, 6).requires_grad_(), unit(4, 6, seed=1).requires_grad_()
    assert pull(image.sum() * 1.0, image, text).shape == (4, 4)


@pytest.mark.parametrize("name", ["cvpr24", "isbi24", "convirt", "gloria", "mgca"])
def test_pair_terms_are_terms_of_the_training(name: str) -> None:
    study = load_study(ROOT / "config" / "twin.yaml")
    method = tiny_method(entries(study)[0][name]).train()
    batch = tiny_batch(method)
    terms = method.pair_terms(
        unit(8, 128).float()[:, : _width(method)], unit(8, 128, seed=1).float()[:, : _width(method)], batch
    )
    assert terms and set(terms) <= set(method.losses(tiny_batch(method)))
    assert all(term.ndim == 0 and bool(torch.isfinite(term)) for term in terms.values())


def _width(method: torch.nn.Module) -> int:
    return method.eval().encode_text(["Clear."]).joint.shape[1]  # type: ignore[operator]


def test_only_studies_that_ask_for_it_have_the_page() -> None:
    study = load_study(ROOT / "config" / "ablation.yaml")
    assert {"cvpr24", "cvpr24-no-category", "convirt", "random"} <= set(compared_rows(resolve(study, look=False)))
    assert compared_rows(resolve(load_study(ROOT / "config" / "twin.yaml"), look=False)) == []


def test_each_part_is_held_against_the_method_without_it() -> None:
    found = variants(resolve(load_study(ROOT / "config" / "ablation.yaml"), look=False))
    assert ("cvpr24", "cvpr24-infonce") in found and ("isbi24", "isbi24-no-matching") in found
    assert all(full in ("cvpr24", "isbi24") and without.startswith(full + "-") for full, without in found)
