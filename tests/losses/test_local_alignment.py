from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mlip.losses import local_alignment
from mlip.losses.local_alignment import (
    gloria_attention,
    gloria_local_losses,
    gloria_local_similarity,
)
from tests.losses.bench_gloria_local import loop_losses

LENGTHS = torch.tensor([3, 7, 1, 5])


def _features(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(4, 6, 3, 2, generator=generator, dtype=dtype)
    return grid, torch.randn(4, 6, 7, generator=generator, dtype=dtype)


def _run(chunk: int | None = None, agg: str = "sum") -> tuple[Tensor, Tensor, Tensor]:
    grid, words = (t.requires_grad_() for t in _features())
    weights = torch.arange(16, dtype=grid.dtype).reshape(4, 4).sin()
    similarity = gloria_local_similarity(grid, words, LENGTHS, agg=agg, chunk=chunk)
    return similarity, *torch.autograd.grad((similarity * weights).sum(), (grid, words))


def test_gloria_equals_the_loop_over_reports() -> None:
    grid, words = (t.requires_grad_() for t in _features())
    ours, loop = (f(grid, words, LENGTHS) for f in (gloria_local_losses, loop_losses))
    torch.testing.assert_close(ours, loop)
    gradients = [torch.autograd.grad(sum(losses), (grid, words)) for losses in (ours, loop)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("agg", ["sum", "max"])
@pytest.mark.parametrize("chunk", [1, 80, 500])
def test_gloria_does_not_depend_on_the_chunk(agg: str, chunk: int) -> None:
    for ours, whole in zip(_run(chunk, agg), _run(None, agg), strict=True):
        torch.testing.assert_close(ours, whole)


def test_gloria_computes_again_what_it_may_not_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = _run(80)
    monkeypatch.setattr(local_alignment, "KEEP_BYTES", 0)
    for again, before in zip(_run(80), kept, strict=True):
        torch.testing.assert_close(again, before)


@pytest.mark.parametrize("agg", ["sum", "max"])
def test_gloria_gradient_is_that_of_finite_differences(agg: str) -> None:
    grid, words = (t[:2].requires_grad_() for t in _features())
    assert torch.autograd.gradcheck(lambda g, w: gloria_local_similarity(g, w, LENGTHS[:2], agg=agg), (grid, words))


def test_gloria_max_is_the_best_word() -> None:
    grid, words = _features()
    similarity = gloria_local_similarity(grid, words, LENGTHS, agg="max")
    for i in range(4):
        for j, length in enumerate(LENGTHS):
            query = words[j : j + 1, :, :length]
            attention = gloria_attention(grid[i : i + 1], query, length[None]).flatten(2)  # [1, L, P]
            attended = attention[0] @ grid[i].flatten(1).T
            best = functional.cosine_similarity(query[0].T, attended, dim=1).max()
            torch.testing.assert_close(similarity[i, j], 5 * best)


def test_gloria_ignores_padding_and_keeps_float32_precision() -> None:
    grid, words = _features()
    expected = gloria_local_similarity(grid, words, LENGTHS)
    polluted = words.clone()
    polluted[0, :, 3:] = 1e3
    torch.testing.assert_close(gloria_local_similarity(grid, polluted, LENGTHS), expected)
    single = gloria_local_similarity(grid.float(), words.float(), LENGTHS)
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)
    half = gloria_local_similarity(grid.bfloat16(), words.bfloat16(), LENGTHS)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), expected, rtol=0.05, atol=0.05)


def test_attention_sums_to_one_over_the_image_and_is_zero_for_padding() -> None:
    attention = gloria_attention(*_features(), LENGTHS)
    assert attention.shape == (4, 7, 3, 2)
    present = torch.arange(7) < LENGTHS[:, None]
    torch.testing.assert_close(attention.sum(dim=(2, 3)), present.double())
