"""One function per family of reference cases; each calls the very function that training or evaluation uses.

Arguments are the case's inputs (numpy arrays, float64), the result is a dict with the case's output names.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from benchmarks.scores.metrics import METRICS
from benchmarks.scores.weighted import Undefined
from benchmarks.tasks.segmentation.model import bins_above, counts_above, pixel_histograms
from mlip.isbi24.matching import matched_distances
from mlip.losses import contrastive, local_alignment, token_alignment
from mlip.losses import prototypes as prototype_losses

Arrays = dict[str, np.ndarray]


def _leaf(x: ArrayLike) -> Tensor:
    return torch.tensor(np.asarray(x, dtype=np.float64), requires_grad=True)


def _numpy(**tensors: Tensor) -> Arrays:
    return {name: t.detach().numpy() for name, t in tensors.items()}


def gloria_local(
    img_features: ArrayLike,
    word_embeddings: ArrayLike,
    word_lengths: ArrayLike,
    temperatures: tuple[float, float, float] = (4.0, 5.0, 10.0),
) -> Arrays:
    grid, words, lengths = _leaf(img_features), _leaf(word_embeddings), torch.as_tensor(np.asarray(word_lengths))
    image_to_text, text_to_image = local_alignment.gloria_local_losses(grid, words, lengths, temperatures)
    d_grid, d_words = torch.autograd.grad(image_to_text + text_to_image, (grid, words))
    attention = local_alignment.gloria_attention(grid, words, lengths, temperatures[0])
    return _numpy(
        loss_image_to_text=image_to_text,
        loss_text_to_image=text_to_image,
        grad_img_features=d_grid,
        grad_word_embeddings=d_words,
        attention_first=attention[0, : int(lengths[0])],
    )


def gloria_global(image: ArrayLike, text: ArrayLike, factor: float = 10.0) -> Arrays:
    a, b = _leaf(image), _leaf(text)
    image_to_text, text_to_image = contrastive.global_losses(a, b, float(factor))
    d_a, d_b = torch.autograd.grad(image_to_text + text_to_image, (a, b))
    return _numpy(loss_image_to_text=image_to_text, loss_text_to_image=text_to_image, grad_image=d_a, grad_text=d_b)


def convirt(image: ArrayLike, text: ArrayLike, temperature: float = 0.1, lambda_image_to_text: float = 0.75) -> Arrays:
    a, b = _leaf(image), _leaf(text)
    loss = contrastive.convirt_loss(a, b, float(temperature), float(lambda_image_to_text))
    d_a, d_b = torch.autograd.grad(loss, (a, b))
    return _numpy(loss=loss, grad_image=d_a, grad_text=d_b)


def mgca(
    patch_embeddings: ArrayLike,
    image_embedding: ArrayLike,
    word_embeddings: ArrayLike,
    report_embedding: ArrayLike,
    word_pad_mask: ArrayLike,
    word_attention: ArrayLike,
    patch_attention_last_block: ArrayLike,
    prototypes: ArrayLike,
    encoder: str = "resnet",
) -> Arrays:
    patches, image, words, report = map(_leaf, (patch_embeddings, image_embedding, word_embeddings, report_embedding))
    attention = torch.tensor(np.asarray(patch_attention_last_block))
    patch_weights = token_alignment.clipped_weights(attention[:, :, 0, 1:].mean(dim=1)) if encoder == "vit" else None
    ita = contrastive.instance_loss(image, report, 0.07)
    of_words, of_patches = token_alignment.mgca_local_pairs(
        patches,
        words,
        torch.tensor(np.asarray(word_pad_mask)),
        token_alignment.clipped_weights(torch.tensor(np.asarray(word_attention))),
        patch_weights,
        0.1,
        encoder,  # type: ignore[arg-type]
    )
    cta = of_words.mean() + of_patches.mean()
    cpa = prototype_losses.swapped_prediction(image, report, torch.tensor(np.asarray(prototypes)), 0.05, 3, 0.2)
    d_patch, d_word = torch.autograd.grad(cta, (patches, words))
    return _numpy(
        loss_ita=ita,
        loss_cta=cta,
        loss_cpa=cpa,
        grad_cta_patch=d_patch,
        grad_cta_word=d_word,
        grad_cpa_image=torch.autograd.grad(cpa, image)[0],
        grad_ita_image=torch.autograd.grad(ita, image)[0],
    )


def ipot(
    x: ArrayLike, y: ArrayLike, x_pad: ArrayLike, y_pad: ArrayLike, beta: float = 0.5, iterations: int = 50
) -> Arrays:
    """Patches are never padded in training, so each problem goes in alone with the padding of x cut off."""
    distances = [
        matched_distances(
            _leaf(x_i)[~torch.tensor(pad)].unsqueeze(0),
            _leaf(y_i).unsqueeze(0),
            torch.tensor(y_pad_i).unsqueeze(0),
            "proximal",
            beta=float(beta),
            reg=0.0,  # of the other solver
            iterations=int(iterations),
        )
        for x_i, y_i, pad, y_pad_i in zip(*map(np.asarray, (x, y, x_pad, y_pad)), strict=True)
    ]
    return _numpy(distance=torch.cat(distances))


def dice_mgca2022(probability: ArrayLike, truth: ArrayLike, threshold: float = 0.5) -> Arrays:
    """From logits to counts as the segmentation task makes them, and the table's two Dice metrics on these."""
    logits = torch.logit(torch.tensor(np.asarray(probability))).unsqueeze(1)
    histograms = pixel_histograms(logits, torch.tensor(np.asarray(truth))).numpy()
    counts = counts_above(histograms, bins_above(float(threshold)))
    frame = pd.DataFrame(counts, columns=["tp", "predicted", "truth"])
    found = {"dice": METRICS["dice"].value(frame, {"empty": "one_if_empty"})}
    try:
        found["dice_positives_only"] = METRICS["dice"].value(frame, {"empty": "skip"})
    except Undefined:  # no positive
        found["dice_positives_only"] = np.nan
    return {k: np.asarray(v) for k, v in found.items()}
