from __future__ import annotations

import torch
from torch.nn import functional

from mlip.losses.prototypes import sinkhorn_codes, swapped_prediction


def _scores() -> torch.Tensor:
    return torch.rand(24, 6, generator=torch.Generator().manual_seed(0)).double() * 2 - 1


def test_codes_are_the_alternate_scaling_of_the_exponentials() -> None:
    q = torch.exp(_scores() / 0.2)
    for _ in range(3):
        q = q / q.sum(dim=0, keepdim=True) / 6
        q = q / q.sum(dim=1, keepdim=True) / 24
    torch.testing.assert_close(sinkhorn_codes(_scores(), 0.2, 3), q * 24)


def test_codes_use_all_prototypes_equally_even_if_all_samples_prefer_one() -> None:
    scores = _scores()
    scores[:, 0] = 1.0
    codes = sinkhorn_codes(scores, 0.2, 100)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(24).double())
    torch.testing.assert_close(codes.sum(dim=0), torch.full((6,), 4.0).double(), rtol=1e-3, atol=0)


def test_codes_do_not_overflow() -> None:
    codes = sinkhorn_codes(_scores().float(), epsilon=0.001)
    assert torch.isfinite(codes).all()


def test_swapped_prediction_swaps_and_trains_both_views_and_the_prototypes() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b, c = (torch.randn(n, 8, generator=generator).double().requires_grad_() for n in (24, 24, 6))
    loss = swapped_prediction(a, b, c, 0.05, 3, 0.2)
    unit_a, unit_b, unit_c = (functional.normalize(x.detach(), dim=1) for x in (a, b, c))
    expected = torch.zeros((), dtype=torch.float64)
    for view, other in ((unit_a, unit_b), (unit_b, unit_a)):
        codes = sinkhorn_codes(other @ unit_c.T, 0.05, 3)
        expected -= (codes * torch.log_softmax(view @ unit_c.T / 0.2, dim=1)).sum(dim=1).mean() / 2
    torch.testing.assert_close(loss.detach(), expected)
    assert all((g != 0).any() for g in torch.autograd.grad(loss, (a, b, c)))
