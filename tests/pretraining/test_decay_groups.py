"""Which weights decay: matrices and kernels do, biases, norms and other vectors do not, in every method of ours."""

from __future__ import annotations

import pytest
import torch

from mlip.methods import entries
from mlip.pretraining.loop import _decay_groups
from mlip.run.contract.world import tiny_method
from mlip.study import load_study
from tests.conftest import ROOT
from tests.ours import our_methods

OURS = set(our_methods().values())
TWIN = load_study(ROOT / "config" / "twin.yaml")
ROWS = {n: e for n, e in entries(TWIN)[0].items() if e.manifest.trained and e.folder in OURS}


@pytest.mark.parametrize("name", ROWS)
def test_groups(name: str) -> None:
    method = tiny_method(ROWS[name])
    next(method.image_encoder.parameters()).requires_grad_(False)
    trained = [(n, p) for n, p in method.named_parameters() if p.requires_grad]
    decayed, plain = _decay_groups(method, 0.05)
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
    decayed, plain = _decay_groups(module, 0.1)
    assert len(decayed["params"]) == 2 and plain["params"][0] is child.bias
