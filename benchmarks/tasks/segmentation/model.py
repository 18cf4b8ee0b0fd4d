"""Decoders on an encoder's maps: SMP's U-Net decoder for a CNN, SETR's progressive upsampling for a ViT; or SMP's UPerNet."""

from __future__ import annotations

import math

import numpy as np
import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.tasks.segmentation.protocol import SegmentationProtocol
from benchmarks.tasks.shared.dense.features import MethodMaps


class Segmenter(nn.Module):
    """Feature maps of a frozen encoder -> mask logits.

    Parameters
    ----------
    maps : of the frozen method; four (a pyramid) or one (a grid). Only the decoder is trained and saved.
    image_size : side of the stored masks in pixels.
    """

    def __init__(self, maps: MethodMaps, protocol: SegmentationProtocol, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.auxiliary: nn.Module | None = None
        if protocol.upernet is not None:
            width = protocol.upernet
            self.decoder: nn.Module = UpernetOnMaps(maps.channels, width, maps.kind == "pyramid")
            if protocol.auxiliary:
                self.auxiliary = _small_head(maps.channels[2 if len(maps.channels) > 1 else 0])
        elif maps.kind == "pyramid":
            self.decoder = UnetOnMaps(maps.channels, protocol.unet_channels, protocol.unet_lateral)
            width = protocol.unet_channels[-1]
        else:
            widths = protocol.pup_channels
            doublings = len(widths)
            if protocol.pup_to_unet:
                finest = 32 / 2 ** len(protocol.unet_channels)
                doublings = min(doublings, max(0, round(math.log2(maps.strides[0] / finest))))
            self.decoder = ProgressiveUpsampling(maps.channels[0], widths, doublings)
            width = widths[-1]
        self.head = SegmentationHead(width, 1, kernel_size=3)
        initialize_decoder(self.decoder)
        initialize_head(self.head)
        self.to(memory_format=torch.channels_last)  # a fifth faster on a CPU

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps [B, C, h, w], finest first -> logits [B, 1, S, S]."""
        return self._at_full_size(self.head(self.decoder(maps)))

    def aside(self, maps: list[Tensor]) -> Tensor | None:
        """Logits [B, 1, S, S] of the auxiliary head on the third map, which only adds to the loss; None without one."""
        if self.auxiliary is None:
            return None
        return self._at_full_size(self.auxiliary(maps[2 if len(maps) > 1 else 0]))

    def _at_full_size(self, logits: Tensor) -> Tensor:
        return functional.interpolate(logits, size=self.image_size, mode="bilinear", align_corners=False)


class UnetOnMaps(nn.Module):
    """SMP's U-Net decoder over the strides 32, 16, 8 and 4, ending at stride 4 (three blocks) or 2 (four).

    SMP's own encoders also hand over the stem at stride 2; ours does not, so a fourth block has no skip connection.

    Parameters
    ----------
    lateral : width of a 1x1 convolution with batch norm and ReLU on each map, so that encoders of different widths get
        decoders of about equal capacity, and maps of different scales the same say; None: none.
    """

    def __init__(self, channels: list[int], decoder_channels: list[int], lateral: int | None = None) -> None:
        super().__init__()
        self.laterals: nn.ModuleList | None = None
        if lateral is not None:
            self.laterals = nn.ModuleList([Conv2dReLU(c, lateral, kernel_size=1) for c in channels])
            channels = [lateral] * len(channels)
        # SMP drops the first entry, the input image.
        self.unet = UnetDecoder((3, *channels), decoder_channels, n_blocks=len(decoder_channels))

    def forward(self, maps: list[Tensor]) -> Tensor:
        b, _, h, w = maps[0].shape
        if self.laterals is not None:
            maps = [lateral(m) for lateral, m in zip(self.laterals, maps, strict=True)]
        # Of the dropped entry only the size is used: it tells a fourth block where to upsample to.
        return self.unet([maps[0].new_empty(b, 0, 2 * h, 2 * w), *maps])


class UpernetOnMaps(nn.Module):
    """SMP's UPerNet (Xiao et al., ECCV 2018) over the strides 4, 8, 16 and 32.

    The patch grids of a plain ViT are brought to these strides first, by mmseg's Feature2Pyramid: two transposed
    convolutions, one, nothing, max pooling. A ViT that gives one grid has it four times.

    Parameters
    ----------
    pyramid : whether the maps have the four strides already.
    """

    def __init__(self, channels: list[int], width: int, pyramid: bool) -> None:
        super().__init__()
        channels = channels if len(channels) > 1 else channels * 4
        self.rescale: nn.ModuleList | None = None
        if not pyramid:
            c4, c8 = channels[:2]
            finest = [_doubled(c4), nn.BatchNorm2d(c4), nn.GELU(), _doubled(c4)]
            coarsest = nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True)
            self.rescale = nn.ModuleList([nn.Sequential(*finest), _doubled(c8), nn.Identity(), coarsest])
        # SMP drops the first two entries, the image and the stem.
        self.upernet = UPerNetDecoder((3, 0, *channels), encoder_depth=5, decoder_channels=width)
        self.dropout = nn.Dropout2d(0.1)  # mmseg's, before the last convolution

    def forward(self, maps: list[Tensor]) -> Tensor:
        maps = maps if len(maps) > 1 else maps * 4
        if self.rescale is not None:
            maps = [rescale(m) for rescale, m in zip(self.rescale, maps, strict=True)]
        out: Tensor = self.dropout(self.upernet([maps[0], maps[0], *maps]))
        return out


def _doubled(channels: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)


def _small_head(channels: int, width: int = 256) -> nn.Module:
    """mmseg's FCNHead of one convolution, 256 wide in the lineage's configuration."""
    return nn.Sequential(
        Conv2dReLU(channels, width, kernel_size=3, padding=1), nn.Dropout2d(0.1), nn.Conv2d(width, 1, kernel_size=1)
    )


class ProgressiveUpsampling(nn.Sequential):
    """SETR-PUP as in MGCA's segmenter: 3x3 convolution, batch norm and ReLU for each width, the last ``doublings`` of them
    followed by a bilinear doubling.

    Zheng et al., CVPR 2021, section 3.2; widths 512, 256, 128, 64 in MGCA's code, a doubling after each.
    """

    def __init__(self, channels: int, widths: list[int], doublings: int) -> None:
        layers: list[nn.Module] = []
        for left, width in zip(range(len(widths), 0, -1), widths, strict=True):
            layers.append(Conv2dReLU(channels, width, kernel_size=3, padding=1))
            if left <= doublings:
                layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            channels = width
        super().__init__(*layers)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return super().forward(maps[0])


BINS = 64  # of the predicted logit, between -RANGE and RANGE
RANGE = 8.0


@torch.no_grad()
def pixel_histograms(logits: Tensor, truth: Tensor) -> Tensor:
    """[B, 2, BINS] int64: how many true and how many other pixels have a logit in each bin, the highest bin first.

    Parameters
    ----------
    logits : [B, 1, S, S]; what lies outside the range counts in the outermost bin. truth : [B, S, S] masks.
    """
    place = _bin(logits).flatten(1)
    real = (truth > 0).flatten(1).long()
    flat = place + BINS * (1 - real) + 2 * BINS * torch.arange(len(place), device=place.device)[:, None]
    return torch.bincount(flat.flatten(), minlength=2 * BINS * len(place)).view(len(place), 2, BINS)


def _bin(logits: Tensor) -> Tensor:
    """[B, 1, S, S] -> [B, S, S] int64: the bin of each pixel, 0 the highest."""
    return ((RANGE - logits[:, 0].clamp(-RANGE, RANGE)) * (BINS / (2 * RANGE))).long().clamp_max(BINS - 1)


def masks_above(logits: Tensor, bins: int) -> np.ndarray:
    """[B, 1, S, S] -> bool [B, S, S]: the pixels that :func:`counts_above` counts."""
    return (_bin(logits) < bins).cpu().numpy()


def counts_above(histograms: np.ndarray, bins: int) -> np.ndarray:
    """[B, 2, BINS] -> [B, 3] int64: pixels in the first ``bins`` bins that are true, all of those, all true ones."""
    above = histograms[:, :, :bins].sum(axis=2)
    return np.stack([above[:, 0], above.sum(axis=1), histograms[:, 0].sum(axis=1)], axis=1)


def best_bins(histograms: np.ndarray) -> int:
    """How many bins from the top give the best mean Dice over the films with the finding; half of them without such a film."""
    known = histograms[histograms[:, 0].sum(axis=1) > 0]
    if not len(known):
        return BINS // 2
    tp, other = (np.cumsum(known[:, k], axis=1) for k in (0, 1))
    dice = 2 * tp / (tp + other + tp[:, -1:])
    return int(dice.mean(axis=0).argmax()) + 1


def bins_above(probability: float) -> int:
    """Bins whose pixels all lie above a probability, to the nearest edge: .5 is half of them."""
    logit = math.log(probability / (1 - probability))
    return round((RANGE - min(max(logit, -RANGE), RANGE)) * (BINS / (2 * RANGE)))
