"""The two proxy tasks on fused image-text features: image-text matching and text swapping."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlip.text.reports import join_sentences

if TYPE_CHECKING:
    from mlip.text.reports import Report


class FusionEncoder(nn.Module):
    """Transformer decoder layers in which word pieces attend to each other and to the patches of an image."""

    def __init__(self, text_dim: int, grid_dim: int, dim: int, layers: int, heads: int) -> None:
        super().__init__()
        self.dim = dim
        self.text = nn.Linear(text_dim, dim)
        self.image = nn.Sequential(nn.Linear(grid_dim, dim), nn.LayerNorm(dim))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(dim, heads, 2 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, hidden: Tensor, attention_mask: Tensor, patches: Tensor) -> Tensor:
        """[n, L, D] pieces, [n, L] (1 = no padding), [n, P, D'] patches -> the fused [CLS], [n, dim]."""
        pad = attention_mask == 0
        x, memory = self.text(hidden), self.image(patches)
        for layer in self.layers:
            x = layer(x, memory, tgt_key_padding_mask=pad)
        return self.norm(x[:, 0])


@torch.no_grad()
def draw_negatives(
    similarity: Tensor, excluded: Tensor, alike: Tensor, hardness: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One negative image per text and one negative text per image, among pairs that differ in their findings.

    ALBEF's rule (salesforce/ALBEF) at ``hardness`` 1 draws in proportion to ``softmax(similarity)``; at 0 all are as
    likely. On a corpus where the most similar reports say the same, hard negatives are none: with them alone the loss stays
    at its prior for ever, so the findings decide who may be drawn and the hardness grows during the training.

    Parameters
    ----------
    similarity : [B, B] logits, images in rows.
    excluded : [B, B] bool, pairs that are no negatives (the diagonal, the same patient).
    alike : [B, B] in [0, 1], what the reports' findings have in common; 1 = surely a false negative.

    Returns
    -------
    image_of_text [B], text_of_image [B] : int64. A row in which all are excluded falls back to its own index.
    """
    draws = []
    for logits, no, same in ((similarity.T, excluded.T, alike.T), (similarity, excluded, alike)):
        # Masked before the softmax: a confident true pair would leave nothing but rounding to the others.
        weights = (hardness * logits.float()).masked_fill(no, -torch.inf).softmax(dim=1).nan_to_num(0.0)
        # The floor keeps a row drawable whose negatives all have vanishing weight.
        weights = (weights * (1 - same) + 1e-8).masked_fill(no, 0)
        none = weights.sum(dim=1) == 0
        weights[none, none.nonzero().squeeze(1)] = 1.0
        draws.append(torch.multinomial(weights.cpu(), 1, generator=generator).squeeze(1).to(similarity.device))
    return draws[0], draws[1]


Says = Callable[[str], Mapping[str, bool]]  # a sentence -> finding: whether it is there


def swap_texts(
    reports: list[Report], patients: Tensor, unit: str, probability: float, generator: torch.Generator, says: Says
) -> tuple[list[int], list[str]]:
    """Reports in which text of another patient's report of the batch, with other findings, took the place of their own.

    With ``unit="sentence"`` a sentence is replaced by a donor's that contradicts the report: it tells a finding that the
    report does not, or denies one that it tells. What is replaced is a sentence about the same finding, where there is one,
    so that the text alone does not give the swap away. With ``"report"`` the whole text is replaced. A report that nobody of
    the batch contradicts is left as it is and not listed.

    Returns
    -------
    Indices of the swapped reports, and their new texts (in the format of ``Report.text``).
    """
    count = len(reports)
    chosen = (torch.rand(count, generator=generator) < probability).tolist()
    orders = torch.rand(count, count, generator=generator).argsort(dim=1).tolist()
    places = torch.rand(count, 2, generator=generator).tolist()
    told = [{f for s in r.sentences for f, there in says(s).items() if there} for r in reports]
    people = patients.tolist()
    index, texts = [], []
    for i, report in enumerate(reports):
        if not chosen[i] or not report.sentences:
            continue
        for j in orders[i]:
            if people[i] == people[j]:
                continue
            against = [(s, f) for s in reports[j].sentences for f, there in says(s).items() if there != (f in told[i])]
            if not against:
                continue
            if unit == "report":
                sentences = list(reports[j].sentences)
            else:
                sentence, finding = against[int(places[i][0] * len(against))]
                sentences = list(report.sentences)
                about = [k for k, s in enumerate(sentences) if finding in says(s)] or list(range(len(sentences)))
                sentences[about[int(places[i][1] * len(about))]] = sentence
            index.append(i)
            texts.append(join_sentences(sentences))
            break
    return index, texts
