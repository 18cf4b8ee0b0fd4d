"""A ViT on a random part of its patches, and the light decoder that predicts the rest (MAE, He et al. 2022)."""

from __future__ import annotations

import torch
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from mlip.encoders.image import ImageEncoder


def random_keep(count: int, patches: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Indices of the patches that each of ``count`` images keeps: [count, K], K = round(ratio * patches), at least 1.

    Uniform without replacement, in ascending order. Drawn on the CPU from ``generator``.
    """
    kept = min(patches, max(1, round(ratio * patches)))
    order = torch.rand(count, patches, generator=generator).argsort(dim=1)
    return order[:, :kept].sort(dim=1).values


def visible_mask(keep: Tensor, patches: int) -> Tensor:
    """[B, K] kept indices -> [B, P] bool, True = kept."""
    mask = torch.zeros(len(keep), patches, dtype=torch.bool, device=keep.device)
    return mask.scatter_(1, keep, True)


def encode_visible(encoder: ImageEncoder, images: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Run the ViT on the kept patches and its class token; each patch keeps its own positional embedding.

    Where a CNN's stem embeds the patches, a token sees beyond its own: the pixels of the masked patches are set to mid-grey
    before it, so that they tell nothing.

    Parameters
    ----------
    images : [B, 3, H, W]; keep : [B, K] patch indices.

    Returns
    -------
    prefix : [B, 1.., D] class (and register) tokens, patches : [B, K, D] in the order of ``keep``; after the last norm.
    """
    model, images = encoder.model, encoder.resize(images)
    if encoder.config.stem and keep.shape[1] < encoder.patches:
        shown = visible_mask(keep, encoder.patches).view(-1, 1, encoder.grid_size, encoder.grid_size)
        images = images * functional.interpolate(shown.to(images), size=images.shape[-2:], mode="nearest")
    tokens = model._pos_embed(model.patch_embed(images))  # type: ignore[operator]
    prefix, patches = tokens.split([model.num_prefix_tokens, encoder.patches], dim=1)  # type: ignore[list-item]
    patches = patches.gather(1, keep.unsqueeze(2).expand(-1, -1, patches.shape[2]))
    tokens = model.norm_pre(torch.cat([prefix, patches], dim=1))  # type: ignore[operator]
    again = model.grad_checkpointing and torch.is_grad_enabled()
    tokens = model.norm(checkpoint_seq(model.blocks, tokens) if again else model.blocks(tokens))  # type: ignore[operator, arg-type]
    return tokens[:, : prefix.shape[1]], tokens[:, prefix.shape[1] :]


def patchify(images: Tensor, size: int) -> Tensor:
    """[B, C, H, W] -> [B, P, C * size^2] pixels of each patch, patches in row-major order."""
    return functional.unfold(images, size, stride=size).transpose(1, 2)


class PatchDecoder(nn.Module):
    """Predicts the pixels of all patches from the visible ones: MAE's decoder.

    Parameters
    ----------
    dim_in : width of the encoder's tokens; prefix : number of its class and register tokens.
    patches, pixels : number of patches, values per patch.
    dim, depth, heads : of the decoder's own blocks.
    """

    def __init__(self, dim_in: int, prefix: int, patches: int, pixels: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(dim_in, dim)
        self.mask_token = nn.Parameter(torch.randn(dim) * 0.02)
        self.position = nn.Parameter(torch.randn(prefix + patches, dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.pixels = nn.Linear(dim, pixels)
        self.patches, self.prefix = patches, prefix

    def forward(self, prefix: Tensor, visible: Tensor, keep: Tensor) -> Tensor:
        """[B, 1.., D] prefix, [B, K, D] visible tokens at [B, K] -> [B, P, pixels]."""
        x = self.embed(visible)
        grid = self.mask_token.to(x.dtype).expand(len(x), self.patches, -1)
        grid = grid.scatter(1, keep.unsqueeze(2).expand(-1, -1, x.shape[2]), x)
        x = torch.cat([self.embed(prefix), grid], dim=1) + self.position
        return self.pixels(self.norm(self.blocks(x))[:, self.prefix :])


def patch_errors(predicted: Tensor, target: Tensor, normalise: bool) -> Tensor:
    """Mean squared error of each patch: [B, P, n], [B, P, n] -> [B, P].

    ``normalise`` standardises each target patch by its own mean and variance (MAE's ``norm_pix_loss``).
    """
    if normalise:
        mean, variance = target.mean(dim=2, keepdim=True), target.var(dim=2, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    return (predicted.float() - target).square().mean(dim=2)


def masked_mean(error: Tensor, visible: Tensor) -> Tensor:
    """Mean of [B, P] over the patches that are not visible (False in [B, P]); 0 where all are."""
    hidden = (~visible).to(error)
    return (error * hidden).sum() / hidden.sum().clamp_min(1)
