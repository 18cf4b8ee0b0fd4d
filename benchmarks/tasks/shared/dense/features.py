"""Feature maps of a frozen encoder, computed once per image and shared by all label fractions and draws of a job."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mlip.data.pixels import load, to_tensor
from mlip.encoders.image import ImageEncoder
from mlip.errors import UserError

CHUNK = 64  # images encoded at once
CACHE_BYTES = 4 * 2**30  # beyond this the maps are computed anew in every batch


class EncoderMaps(nn.Module):
    """A method's image encoder, frozen, as a list of feature maps from fine to coarse.

    ``cnn``: the last ``levels`` of the four stages (strides 4, 8, 16, 32); ``vit``: the patch grid alone, as one map.

    Parameters
    ----------
    encoder : the pre-trained encoder; its gradient is switched off and it stays in eval mode for good.
    image_size : side of the images in pixels. A CNN sees them as they are, a ViT at its own input size.
    levels : how many CNN stages are used.

    Raises
    ------
    UserError : the image side is no multiple of a CNN's stride 32, so that pyramid levels would not double.
    """

    def __init__(self, encoder: ImageEncoder, image_size: int, levels: int = 4) -> None:
        super().__init__()
        self.encoder, self.levels = encoder.eval().requires_grad_(False), levels
        self.side = image_size if encoder.kind == "cnn" else encoder.input_size
        if encoder.kind == "cnn" and image_size % 32:
            raise UserError(
                f"image_size {image_size} is no multiple of 32, the stride of the CNN",
                where="study",
                fix="choose one, e.g. 96 or 224",
            )
        device = next(encoder.parameters()).device
        maps = self(torch.zeros(1, 3, image_size, image_size, device=device))
        self.shapes = [tuple(m.shape[1:]) for m in maps]  # (C, h, w) of each map
        self.channels = [shape[0] for shape in self.shapes]
        self.strides = [self.side // shape[1] for shape in self.shapes]

    @property
    def kind(self) -> str:
        return self.encoder.kind

    def train(self, mode: bool = True) -> EncoderMaps:
        """Stay in eval mode: a frozen encoder's batch statistics must not follow the transfer data."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, S, S] normalised images -> maps [B, C, h, w], finest first."""
        if self.kind == "cnn":
            return self.encoder.stages(images)[-self.levels :]
        return [self.encoder(images).grid.permute(0, 3, 1, 2).contiguous()]


class FrozenFeatures:
    """The maps of one data set's images, kept in memory once computed.

    Parameters
    ----------
    maps : the frozen encoder.
    images : uint8 [N, S, S], may be memory-mapped.
    rows : every row that may be asked for; memory is only touched for those that are.
    device : where batches go.
    """

    def __init__(self, maps: EncoderMaps, images: np.ndarray, rows: np.ndarray, device: torch.device) -> None:
        self.maps, self.images, self.device = maps.to(device), images, device
        rows = np.unique(rows)
        size = 4 * len(rows) * sum(int(np.prod(shape)) for shape in maps.shapes)
        self.cached = size <= CACHE_BYTES
        self._slot = np.full(len(images), -1, dtype=np.int64)
        if self.cached:
            self._slot[rows] = np.arange(len(rows))
            self._store = [torch.empty(len(rows), *shape) for shape in maps.shapes]
            self._done = np.zeros(len(rows), dtype=bool)

    def prepare(self, rows: np.ndarray) -> None:
        """Compute the maps of these rows now, in chunks, where they are cached and not yet there."""
        if not self.cached:
            return
        rows = np.unique(rows)
        rows = rows[~self._done[self._slot[rows]]]
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            slots = self._slot[chunk]
            for store, value in zip(self._store, self._encode(chunk), strict=True):
                store[torch.from_numpy(slots)] = value.cpu()
            self._done[slots] = True

    def batch(self, rows: np.ndarray) -> list[Tensor]:
        """Maps of these rows in their order, each float32 [B, C, h, w] on the device, finest first."""
        if not self.cached:
            return self._encode(rows)
        self.prepare(rows)
        slots = torch.from_numpy(self._slot[rows])
        return [store[slots].to(self.device) for store in self._store]

    def _encode(self, rows: np.ndarray) -> list[Tensor]:
        return self.maps(to_tensor(load(self.images, rows), self.device))
