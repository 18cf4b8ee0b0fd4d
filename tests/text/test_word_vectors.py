"""Word vectors: pieces that stand among the same neighbours come close, and only trained methods start from them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from mlip.errors import UserError
from mlip.study import TextEncoderConfig
from mlip.text.tokenisation import train_tokenizer
from mlip.text.word_vectors import SPREAD, positive_information, word_vectors


def corpus(rng: np.random.Generator) -> list[str]:
    """``alpha`` and ``beta`` stand among small words, ``gamma`` and ``delta`` among large ones; the two of a kind never meet."""
    texts = []
    for name, others in (("alpha", "abcd"), ("beta", "abcd"), ("gamma", "wxyz"), ("delta", "wxyz")):
        texts += [" ".join([*rng.choice(list(others), 3), name, *rng.choice(list(others), 3)]) for _ in range(60)]
    return texts


def test_pieces_of_one_company_are_close() -> None:
    texts = corpus(np.random.default_rng(0))
    tokenizer = train_tokenizer(texts, 70, 32)
    vectors = word_vectors(tokenizer, texts, 8)
    assert vectors.dtype == np.float32 and vectors.shape == (tokenizer.vocabulary, 8)
    assert vectors.std() == pytest.approx(SPREAD, rel=1e-5) and np.abs(vectors.mean(axis=0)).max() < 1e-6

    def cosine(a: str, b: str) -> float:
        x, y = (vectors[tokenizer.backend.token_to_id(w)] for w in (a, b))
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    assert (
        min(cosine("alpha", "beta"), cosine("gamma", "delta"))
        > 0.5
        > max(cosine(a, b) for a in ("alpha", "beta") for b in ("gamma", "delta"))
    )
    assert np.array_equal(vectors, word_vectors(tokenizer, texts, 8)), "nothing is drawn"


def test_positive_information_is_the_formula() -> None:
    counts = np.array([[0, 6, 1], [6, 2, 0], [1, 0, 4]], dtype=float)
    p = counts / counts.sum()
    with np.errstate(divide="ignore"):
        expected = np.maximum(0, np.log(p / np.outer(p.sum(1), p.sum(0))))
    found = positive_information(sparse.csr_array(counts)).toarray()
    np.testing.assert_allclose(found, np.where(counts > 0, expected, 0), atol=1e-12)


def test_what_cannot_be() -> None:
    texts = corpus(np.random.default_rng(0))
    with pytest.raises(UserError, match="need more than"):
        word_vectors(train_tokenizer(texts, 60, 32), texts, 128)
    with pytest.raises(ValueError, match="a pretrained one has its own"):
        TextEncoderConfig(pretrained="somewhere", word_vectors=True)
