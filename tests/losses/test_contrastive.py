from __future__ import annotations

import math

import torch
from torch.nn import functional

from mlip.losses.contrastive import convirt_loss, global_losses, info_nce, instance_loss, symmetric_ce


def _pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 8, generator=generator).double(), torch.randn(5, 8, generator=generator).double()


def test_info_nce_is_the_formula() -> None:
    a, b = _pair()
    expected = 0.0
    for i in range(5):
        exponents = [math.exp(float(functional.cosine_similarity(a[i], b[j], dim=0)) / 0.2) for j in range(5)]
        expected -= math.log(exponents[i] / sum(exponents)) / 5
    assert math.isclose(info_nce(a, b, 0.2).item(), expected, rel_tol=1e-9)
    unit = functional.normalize(a, dim=1), functional.normalize(b, dim=1)
    torch.testing.assert_close(info_nce(*unit, 0.2, normalise=False), info_nce(a, b, 0.2))


def test_info_nce_trains_its_temperature() -> None:
    temperature = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    info_nce(*_pair(), temperature).backward()
    assert temperature.grad is not None and temperature.grad != 0


def test_the_losses_are_sums_of_the_two_directions() -> None:
    a, b = _pair()
    there, back = info_nce(a, b, 0.1), info_nce(b, a, 0.1)
    torch.testing.assert_close(convirt_loss(a, b, 0.1, 0.75), 0.75 * there + 0.25 * back)
    torch.testing.assert_close(instance_loss(a, b, 0.1), there + back)
    torch.testing.assert_close(global_losses(a, b, 10.0), (there, back))


def test_symmetric_ce_tells_rows_from_columns() -> None:
    rows, columns = symmetric_ce(torch.tensor([[0.0, 5.0, 0.0], [0.0, 0.0, 0.0], [0.0, 5.0, 0.0]]))
    high = math.exp(5)
    assert math.isclose(rows.item(), (2 * math.log(2 + high) + math.log(3)) / 3, rel_tol=1e-6)
    assert math.isclose(columns.item(), (2 * math.log(3) + math.log(1 + 2 * high)) / 3, rel_tol=1e-6)
