"""The segmentation loss: focal plus soft Dice, both as SMP computes them."""

from __future__ import annotations

from segmentation_models_pytorch.losses import FocalLoss
from segmentation_models_pytorch.losses._functional import soft_dice_score
from torch import Tensor, nn

from benchmarks.tasks.segmentation.protocol import SegmentationProtocol


class FocalDice(nn.Module):
    """``w * focal + (1 - D)`` or, as MGCA's code, ``w * focal - log D`` with w = 10 and gamma = 2.

    D is the soft Dice of the whole batch, ``(2 I + 1) / (P + T + 1)`` from the sums of the products, the probabilities
    and the truth. SMP's ``DiceLoss`` is not used whole because it gives a batch without the finding no loss, where
    this form still penalises predicted pixels.
    """

    def __init__(self, protocol: SegmentationProtocol) -> None:
        super().__init__()
        self.weight, self.form = protocol.focal_weight, protocol.dice
        self.focal = FocalLoss("binary", gamma=protocol.focal_gamma)

    def forward(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Logits [B, 1, S, S], float masks [B, 1, S, S] -> scalar."""
        dice = soft_dice_score(logits.sigmoid(), truth, smooth=0.5)  # SMP halves both sides
        term = 1 - dice if self.form == "one_minus" else -dice.log()
        return self.weight * self.focal(logits, truth) + term
