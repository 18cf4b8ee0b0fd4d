from __future__ import annotations

import ot
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mlip.isbi24.matching import matched_distances
from mlip.isbi24.transport import entropic_plan, ipot_plan

SENTENCES = (6, 4, 1)


def _sets() -> tuple[Tensor, Tensor, Tensor]:
    """Patches [3, 40, 16], sentences [3, 6, 16] and which of these are padding."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3, n, 16, generator=generator).double() for n in (40, 6))
    return x, y, torch.stack([torch.arange(6) >= n for n in SENTENCES])


def _cost(x: Tensor, y: Tensor) -> Tensor:
    return 1 - functional.normalize(x, dim=-1) @ functional.normalize(y, dim=-1).transpose(1, 2)


def _proximal(x: Tensor, y: Tensor, pad: Tensor) -> Tensor:
    return matched_distances(x, y, pad, "proximal", 0.5, 0.05, 50)


def test_ipot_is_close_to_exact_transport() -> None:
    x, y, pad = _sets()
    cost = _cost(x, y)
    distance, plan = _proximal(x, y, pad), ipot_plan(cost, pad)
    for i, n in enumerate(SENTENCES):
        exact = ot.emd2([1 / 40] * 40, [1 / n] * n, cost[i, :, :n].numpy().copy())
        assert distance[i].item() == pytest.approx(exact, rel=2e-3)
        torch.testing.assert_close(plan[i].sum(dim=1), torch.full((40,), 1 / 40).double())
        torch.testing.assert_close(plan[i, :, :n].sum(dim=0), torch.full((n,), 1 / n).double(), rtol=1e-2, atol=0)


def test_padding_holds_no_mass_and_its_content_does_not_matter() -> None:
    x, y, pad = _sets()
    distance = _proximal(x, y, pad)
    assert (ipot_plan(_cost(x, y), pad).transpose(1, 2)[pad] == 0).all()
    torch.testing.assert_close(_proximal(x, y.masked_fill(pad.unsqueeze(2), -1e3), pad), distance)
    torch.testing.assert_close(_proximal(x[1:2], y[1:2, :4], pad[1:2, :4]), distance[1:2])


def test_gradient_flows_through_the_cost_only() -> None:
    x, y, pad = _sets()
    x.requires_grad_()
    plan = ipot_plan(_cost(x, y), pad)
    assert not plan.requires_grad
    (ours,) = torch.autograd.grad(_proximal(x, y, pad).sum(), x)
    (expected,) = torch.autograd.grad((plan * _cost(x, y)).sum(), x)
    torch.testing.assert_close(ours, expected)


def test_float32_stays_finite_after_many_iterations() -> None:
    x, y, pad = _sets()
    plan = ipot_plan(_cost(x, y).float(), pad, beta=0.1, iterations=400)
    assert torch.isfinite(plan).all()
    torch.testing.assert_close(plan.sum(dim=(1, 2)), torch.ones(3), rtol=1e-3, atol=0)


def test_half_precision_is_solved_in_float32() -> None:
    x, y, pad = _sets()
    half = _proximal(x.bfloat16(), y.bfloat16(), pad)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, _proximal(x.bfloat16().float(), y.bfloat16().float(), pad), rtol=0, atol=0)


def test_entropic_plan_is_sinkhorn_on_what_is_no_padding() -> None:
    x, y, pad = _sets()
    cost = _cost(x, y)
    x_pad = torch.stack([torch.arange(40) >= n for n in (40, 25, 1)])
    a, b = ((~p).double() / (~p).sum(dim=1, keepdim=True) for p in (x_pad, pad))
    plan = entropic_plan(cost, a, b, 0.1, 300)
    for i, (m, n) in enumerate(zip((40, 25, 1), SENTENCES, strict=True)):
        alone = ot.sinkhorn(
            [1 / m] * m, [1 / n] * n, cost[i, :m, :n].numpy(), 0.1, numItermax=300, stopThr=0, warn=False
        )
        torch.testing.assert_close(plan[i, :m, :n], torch.as_tensor(alone), rtol=1e-6, atol=1e-9)
    assert (plan[x_pad] == 0).all() and (plan.transpose(1, 2)[pad] == 0).all()
