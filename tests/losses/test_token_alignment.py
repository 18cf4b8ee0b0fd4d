from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mlip.losses.token_alignment import clipped_weights, mgca_local_pairs


def _cta(*given) -> torch.Tensor:
    return sum(loss.mean() for loss in mgca_local_pairs(*given))


def test_clipped_weights_clip_the_non_zero_entries_to_their_quantiles() -> None:
    attention = torch.tensor([[0.5, 0.1, 0.2, 0.15, 0.05, 0.0, 0.0], [0.3, 0.7, 0.0, 0.0, 0.0, 0.0, 0.0]]).double()
    weights = clipped_weights(attention)
    for row, ours in zip(attention, weights, strict=True):
        present = row[row > 0]
        clipped = present.clamp(present.quantile(0.1), present.quantile(0.9))
        torch.testing.assert_close(ours[row > 0], clipped / clipped.sum())
        assert (ours[row == 0] == 0).all()


def _tokens() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    patches, words = (torch.randn(3, n, 8, generator=generator).double() for n in (6, 5))
    pad = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] + [True] * 4])
    return patches, words, pad, clipped_weights((~pad).double())


@pytest.mark.parametrize("encoder", ["resnet", "vit"])
def test_mgca_equals_the_formula_token_by_token(encoder: str) -> None:
    patches, words, pad, weights = _tokens()
    expected = 0.0
    for i in range(3):
        p, w = functional.normalize(patches[i], dim=1), functional.normalize(words[i], dim=1)
        seen = functional.normalize(torch.softmax(w @ p.T / 0.1, dim=1) @ p, dim=1)
        there = w[~pad[i]]
        read = torch.softmax(p @ there.T / 0.1, dim=1) @ there
        if encoder == "resnet":
            read = functional.normalize(read, dim=1)
        for a, b, share in ((w, seen, weights[i]), (p, read, torch.full((6,), 1 / 6).double())):
            logits, target = a @ b.T / 0.1, torch.arange(len(a))
            for direction in (logits, logits.T):
                terms = functional.cross_entropy(direction, target, reduction="none")
                expected = expected + (terms * share).sum() / 2 / 3
    torch.testing.assert_close(_cta(patches, words, pad, weights, None, 0.1, encoder), expected)


def test_mgca_is_lower_where_words_lie_on_patches() -> None:
    patches, _, _, _ = _tokens()
    pad = torch.zeros(3, 6, dtype=torch.bool)
    weights = clipped_weights(torch.ones(3, 6).double())
    aligned = _cta(patches, patches, pad, weights)
    other = _cta(patches, torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(2)).double(), pad, weights)
    assert aligned < 0.2 * other
