"""Vectors of word pieces from what stands near them in the training reports: a start for a text encoder built from sizes.

The papers start from a BERT that has read millions of notes. What a few thousand reports can give instead of it are vectors of
pieces that occur alike: positive pointwise mutual information within a window, and its truncated singular value decomposition
(Levy & Goldberg 2014, "Neural word embedding as implicit matrix factorization", sections 3 and 5: symmetric, U sqrt(S)).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from sklearn.decomposition import TruncatedSVD

from mlip.errors import UserError
from mlip.text.tokenisation import Tokenizer

WINDOW = 5  # pieces to either side
SPREAD = 0.05  # standard deviation of all numbers; BERT's own start has 0.02, which the positions have too
CHUNK = 1000  # texts counted at once


def word_vectors(tokenizer: Tokenizer, texts: Sequence[str], dim: int) -> np.ndarray:
    """float32 [V, dim], each dimension with mean 0 over the pieces; a piece that never occurs gets what the mean of none is.

    Raises
    ------
    UserError : there are not more pieces than dimensions.
    """
    if dim >= tokenizer.vocabulary:
        raise UserError(
            f"word vectors of {dim} numbers need more than {tokenizer.vocabulary} pieces",
            where="encoders.text.word_vectors",
            fix="switch it off, lower dim or raise vocabulary",
        )
    near = positive_information(_counts(tokenizer, texts))
    found = TruncatedSVD(dim, random_state=0).fit_transform(near)  # U S
    lengths = np.linalg.norm(found, axis=0)  # S
    vectors = found / np.sqrt(np.where(lengths > 0, lengths, 1.0))
    vectors -= vectors.mean(axis=0)
    return (vectors * (SPREAD / vectors.std())).astype(np.float32)


def _counts(tokenizer: Tokenizer, texts: Sequence[str]) -> sparse.csr_array:
    """[V, V] how often two pieces stand within :data:`WINDOW` of each other, symmetric."""
    size = tokenizer.vocabulary
    total = sparse.csr_array((size, size))
    for start in range(0, len(texts), CHUNK):
        tokens = tokenizer(texts[start : start + CHUNK])
        pieces, there = tokens.input_ids.numpy(), tokens.attention_mask.numpy() > 0
        for step in range(1, WINDOW + 1):
            both = there[:, step:]  # texts are padded on the right
            pair = pieces[:, :-step][both], pieces[:, step:][both]
            total = total + sparse.coo_array((np.ones(len(pair[0])), pair), shape=(size, size)).tocsr()
    return total + total.T


def positive_information(counts: sparse.csr_array) -> sparse.csr_array:
    """max(0, log p(a, b) / (p(a) p(b))) of symmetric counts [V, V]."""
    found = counts.tocoo()
    one = counts.sum(axis=1)
    information = np.log(found.data * found.data.dtype.type(one.sum()) / (one[found.row] * one[found.col]))
    return sparse.coo_array((np.maximum(information, 0.0), (found.row, found.col)), shape=counts.shape).tocsr()
