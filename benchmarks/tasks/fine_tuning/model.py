"""The classifier of one training: a method's image encoder, whose weights are free, and a head on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.tasks.fine_tuning.protocol import FineTuningProtocol
from mlip.contract import Method
from mlip.encoders.dependence import uses_image_encoder
from mlip.errors import UserError


class Classifier(nn.Module):
    """Films -> logits. Encoder and head are trained; the rest of the method stays as it was pre-trained, in eval mode.

    Parameters
    ----------
    method : the pre-trained method, on its device.
    image_size : side of the films in pixels.
    where : the method's folder, for errors.

    Raises
    ------
    UserError : the method's image features do not come from its image encoder, or come without a gradient.
    """

    def __init__(
        self, method: Method, protocol: FineTuningProtocol, outputs: int, image_size: int, where: Path
    ) -> None:
        super().__init__()
        self.encoder: Any = method.eval().requires_grad_(False).image_encoder
        self._method = [method]  # in a list, so that it is no part of the weights that are trained and kept
        self._mean = protocol.pool == "mean" and self.encoder.kind == "vit"
        images = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(method.device)
        if not uses_image_encoder(method, images):
            raise UserError(
                "the method's image features do not come from its image_encoder, which is what is fine-tuned",
                where=where,
                fix="build them on image_encoder (mlip/contract.py), or set `feature_maps: false` in method.yaml: the cells are then skipped",
            )
        self.encoder.requires_grad_(True)
        drop_paths(self.encoder, protocol.drop_path)
        pooled = self._pooled(images)
        if not pooled.requires_grad:
            raise UserError(
                "the method's image features have no gradient", where=where, fix="compute encode_image with one"
            )
        self.norm = nn.LayerNorm(pooled.shape[1], eps=1e-6) if protocol.head_norm else nn.Identity()
        self.head = nn.Linear(pooled.shape[1], outputs)
        self.head_std = protocol.head_std
        self.start = {k: v.detach().clone() for k, v in self.encoder.state_dict().items()}
        self.to(method.device)

    def restart(self) -> None:
        """The pre-trained encoder and a new head; draws from torch's global generator."""
        self.encoder.load_state_dict(self.start)
        if isinstance(self.norm, nn.LayerNorm):
            self.norm.reset_parameters()
        nn.init.trunc_normal_(self.head.weight, std=self.head_std)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] normalised -> [B, outputs]."""
        logits: Tensor = self.head(self.norm(self._pooled(images)))
        return logits

    def _pooled(self, images: Tensor) -> Tensor:
        if self._mean:
            grid: Tensor = self.encoder(images).grid
            return grid.mean(dim=(1, 2))
        return self._method[0].encode_image(images).pooled


def drop_paths(encoder: Any, rate: float) -> None:
    """Stochastic depth in the blocks of a ViT of timm, rising from 0 to ``rate``; the weights stay as they are."""
    blocks = getattr(encoder.model, "blocks", None)
    if encoder.kind != "vit" or blocks is None:
        return
    for share, block in zip(torch.linspace(0, rate, len(blocks)).tolist(), blocks, strict=True):
        block.drop_path1, block.drop_path2 = DropPath(share), DropPath(share)


def loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Binary cross-entropy over the known labels of ``answers`` [B, K] (NaN: not known), or cross-entropy of classes [B]."""
    if answers.ndim == 1:
        return functional.cross_entropy(logits, answers.long())
    known = ~answers.isnan()
    return functional.binary_cross_entropy_with_logits(logits[known], answers[known])


def probabilities(logits: Tensor, several: bool) -> Tensor:
    """[n, K] logits -> of each class, or of each label."""
    return logits.softmax(dim=1) if several else logits.sigmoid()
