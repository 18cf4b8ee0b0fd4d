"""Learning-rate schedules, of pre-training and of what the transfer tasks train."""

from __future__ import annotations

import math
from typing import Literal


def rate(step: int, steps: int, rising: int, then: Literal["cosine", "constant", "linear"] = "cosine") -> float:
    """Share of the full learning rate at ``step`` (from 0): ``rising`` steps of linear warm-up, then what ``then`` names.

    ``cosine`` falls to zero over the rest of ``steps`` as half a period, ``linear`` along a line; ``constant`` stays at 1.
    """
    if step < rising:
        return (step + 1) / rising
    if then == "constant":
        return 1.0
    if then == "linear":
        return 1 - (step - rising) / max(1, steps - rising)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
