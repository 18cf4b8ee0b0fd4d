""" "Similar yet distinct": losses on a feature and its generated counterpart.

MLIP (CVPR 2024) names the aim and not the formula; both forms are reconstructions. Each needs a force on either side:
without the upper bound the best counterpart is a copy, without the lower one anything will do.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional


def band_hinge(reference: Tensor, generated: Tensor, low: float = 0.5, high: float = 0.9) -> Tensor:
    """Mean of ``max(0, low - cos) + max(0, cos - high)``: zero anywhere inside the band ``low <= cos <= high``.

    Parameters
    ----------
    reference : [B, E], not moved by this loss (stop-gradient).
    generated : [B, E].
    low, high : bounds on the cosine, ``-1 < low < high < 1``.
    """
    cosine = functional.cosine_similarity(reference.detach(), generated, dim=-1)
    return (functional.relu(low - cosine) + functional.relu(cosine - high)).mean()


def distribution_divergence(reference: Tensor, generated: Tensor, high: float = 0.9, slope: float = 2.0) -> Tensor:
    """``KL(softmax(reference) || softmax(generated)) + slope * max(0, cos - high)``, mean over the batch.

    Both are scaled to length sqrt(E) before the softmax. To second order the divergence then is ``1 - cos`` in any
    dimension, so a ``slope`` above 1 suffices to make ``cos = high`` the optimum rather than a copy.

    Parameters
    ----------
    reference : [B, E], not moved by this loss (stop-gradient).
    generated : [B, E].
    """
    scale = math.sqrt(reference.shape[-1])
    reference = functional.normalize(reference.detach(), dim=-1)
    generated = functional.normalize(generated, dim=-1)
    kl = functional.kl_div(
        functional.log_softmax(scale * generated, dim=-1),
        functional.log_softmax(scale * reference, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    cosine = (reference * generated).sum(dim=-1)
    return kl + slope * functional.relu(cosine - high).mean()
