"""Which weights decay: matrices and kernels do, biases, norms and other vectors do not, in every method of ours."""

from __future__ import annotations

import pytest
import torch

from mlip.manifest import Recipe
from mlip.methods import entries
from mlip.pretraining.optimizers import build_optimizer, decay_groups
from mlip.run.contract.world import tiny_method
from mlip.study import load_study
from tests.conftest import ROOT
from tests.ours import our_methods

OURS = set(our_methods().values())
TWIN = load_study(ROOT / "config" / "twin.yaml")
RECIPE = Recipe(epochs=1, batch_size=2, lr=0.1, weight_decay=0.05)
ROWS = {n: e for n, e in entries(TWIN)[0].items() if e.manifest.trained and e.folder in OURS}


@pytest.mark.parametrize("name", ROWS)
def test_groups(name: str) -> None:
    method = tiny_method(ROWS[name])
    next(method.image_encoder.parameters()).requires_grad_(False)
    trained = [(n, p) for n, p in method.named_parameters() if p.requires_grad]
    decayed, plain = decay_groups(method, RECIPE)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    # Also in this order: clipping sums the gradients' norms in it, and numbers of finished studies rest on the sum.
    for group, expected in (
        (decayed, [p for _, p in trained if p.ndim > 1]),
        (plain, [p for _, p in trained if p.ndim < 2]),
    ):
        assert len(group["params"]) == len(expected) > 0
        assert all(a is b for a, b in zip(group["params"], expected, strict=True))


def test_five_methods_are_looked_at() -> None:
    assert {e.folder.name for e in ROWS.values()} == {"cvpr24", "isbi24", "convirt", "gloria", "mgca"}


def test_a_matrix_called_bias_does_not_decay() -> None:
    module = torch.nn.Module()
    module.register_parameter("weight", torch.nn.Parameter(torch.ones(2, 2)))
    module.register_parameter("table", torch.nn.Parameter(torch.ones(2, 2)))
    child = torch.nn.Module()
    child.register_parameter("bias", torch.nn.Parameter(torch.ones(2, 2)))
    module.add_module("child", child)
    decayed, plain = decay_groups(module, RECIPE)
    assert len(decayed["params"]) == 2 and plain["params"][0] is child.bias


def test_all_parameters_decay_where_the_recipe_says_so() -> None:
    """As MGCA's and GLoRIA's official code hands ``parameters()`` to the optimiser."""
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    module[0].weight.requires_grad_(False)
    (group,) = decay_groups(module, RECIPE.model_copy(update={"decay": "all"}))
    assert group["weight_decay"] == 0.05 and group["params"] == [p for p in module.parameters() if p.requires_grad]


def test_adam_adds_the_decay_to_the_gradient_and_adamw_takes_it_from_the_weights() -> None:
    """One step from weight 2 with gradient 1: Adam's first step has the rate's length whatever the gradient."""
    for name, expected in (("adam", 2 - 0.1), ("adamw", 2 * (1 - 0.1 * 0.05) - 0.1)):
        module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(module.weight, 2.0)
        optimizer = build_optimizer(module, RECIPE.model_copy(update={"optimizer": name}))
        module(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        assert module.weight.item() == pytest.approx(expected, abs=1e-5)
