from __future__ import annotations

import ot
import pytest
import torch

from mlip.isbi24.transport import cosine_cost, entropic_plan, ipot_distance, ipot_plan

SIZES = ((40, 6), (25, 4), (1, 1))


def _sets() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3, n, 16, generator=generator).double() for n in (40, 6))
    x_pad, y_pad = (torch.stack([torch.arange(n) >= s[k] for s in SIZES]) for k, n in enumerate((40, 6)))
    return x, y, x_pad, y_pad


def test_ipot_is_close_to_exact_transport() -> None:
    x, y, x_pad, y_pad = _sets()
    distance, plan = ipot_distance(x, y, x_pad, y_pad)
    cost = cosine_cost(x, y)
    for i, (m, n) in enumerate(SIZES):
        exact = ot.emd2([1 / m] * m, [1 / n] * n, cost[i, :m, :n].numpy().copy())
        assert distance[i].item() == pytest.approx(exact, rel=2e-3)
        torch.testing.assert_close(plan[i, :m].sum(dim=1), torch.full((m,), 1 / m).double())
        torch.testing.assert_close(plan[i, :m, :n].sum(dim=0), torch.full((n,), 1 / n).double(), rtol=1e-2, atol=0)


def test_padding_holds_no_mass_and_its_content_does_not_matter() -> None:
    x, y, x_pad, y_pad = _sets()
    distance, plan = ipot_distance(x, y, x_pad, y_pad)
    assert (plan[x_pad] == 0).all() and (plan.transpose(1, 2)[y_pad] == 0).all()
    polluted = x.masked_fill(x_pad.unsqueeze(2), 1e3), y.masked_fill(y_pad.unsqueeze(2), -1e3)
    torch.testing.assert_close(ipot_distance(*polluted, x_pad, y_pad)[0], distance)
    alone, _ = ipot_distance(x[1:2, :25], y[1:2, :4], x_pad[1:2, :25], y_pad[1:2, :4])
    torch.testing.assert_close(alone, distance[1:2])


def test_gradient_flows_through_the_cost_only() -> None:
    x, y, x_pad, y_pad = _sets()
    x.requires_grad_()
    distance, plan = ipot_distance(x, y, x_pad, y_pad)
    assert not plan.requires_grad
    (ours,) = torch.autograd.grad(distance.sum(), x)
    (expected,) = torch.autograd.grad((plan * cosine_cost(x, y)).sum(), x)
    torch.testing.assert_close(ours, expected)


def test_float32_stays_finite_after_many_iterations() -> None:
    x, y, x_pad, y_pad = _sets()
    plan = ipot_plan(cosine_cost(x, y).float(), x_pad, y_pad, beta=0.1, iterations=400)
    assert torch.isfinite(plan).all()
    torch.testing.assert_close(plan.sum(dim=(1, 2)), torch.ones(3), rtol=1e-3, atol=0)


def test_entropic_plan_is_sinkhorn_on_what_is_no_padding() -> None:
    x, y, x_pad, y_pad = _sets()
    cost = cosine_cost(x, y)
    a, b = ((~pad).double() / (~pad).sum(dim=1, keepdim=True) for pad in (x_pad, y_pad))
    plan = entropic_plan(cost, a, b, 0.1, 300)
    for i, (m, n) in enumerate(SIZES):
        alone = ot.sinkhorn(
            [1 / m] * m, [1 / n] * n, cost[i, :m, :n].numpy(), 0.1, numItermax=300, stopThr=0, warn=False
        )
        torch.testing.assert_close(plan[i, :m, :n], torch.as_tensor(alone), rtol=1e-6, atol=1e-9)
    assert (plan[x_pad] == 0).all() and (plan.transpose(1, 2)[y_pad] == 0).all()
