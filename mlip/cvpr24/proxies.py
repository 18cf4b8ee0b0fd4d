"""The two proxy tasks on fused image-text features: image-text matching and text swapping."""

from __future__ import annotations

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
def hard_negatives(
    similarity: Tensor, excluded: Tensor, generator: torch.Generator, down_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One negative image per text and one negative text per image, likelier the more similar (salesforce/ALBEF).

    Parameters
    ----------
    similarity : [B, B] logits, images in rows.
    excluded : [B, B] bool, pairs that are no negatives (the diagonal, the same patient).
    down_weight : [B, B] in [0, 1] multiplied onto the sampling weights (0 = surely a false negative).

    Returns
    -------
    image_of_text [B], text_of_image [B] : int64. A row in which all are excluded falls back to its own index.
    """
    draws = []
    for logits, no, down in (
        (similarity.T, excluded.T, None if down_weight is None else down_weight.T),
        (similarity, excluded, down_weight),
    ):
        # Masked before the softmax: a confident true pair would leave nothing but rounding to the others.
        weights = logits.float().masked_fill(no, -torch.inf).softmax(dim=1).nan_to_num(0.0)
        if down is not None:
            weights = weights * down
        # The floor keeps a row drawable whose negatives all have vanishing weight.
        weights = (weights + 1e-8).masked_fill(no, 0)
        none = weights.sum(dim=1) == 0
        weights[none, none.nonzero().squeeze(1)] = 1.0
        draws.append(torch.multinomial(weights.cpu(), 1, generator=generator).squeeze(1).to(similarity.device))
    return draws[0], draws[1]


def swap_texts(
    reports: list[Report], patients: Tensor, unit: str, probability: float, generator: torch.Generator
) -> tuple[list[int], list[str]]:
    """Reports in which text of another patient's report of the batch took the place of their own.

    With ``unit="sentence"`` one sentence is replaced by a donor's sentence that the report does not hold; with
    ``"report"`` the whole text is. A report for which the donor has nothing else to say is left as it is and not listed.

    Returns
    -------
    Indices of the swapped reports, and their new texts (in the format of ``Report.text``).
    """
    count = len(reports)
    chosen = torch.rand(count, generator=generator) < probability
    donors = torch.randint(count, (count,), generator=generator).tolist()
    places = torch.rand(count, 2, generator=generator).tolist()
    index, texts = [], []
    for i, report in enumerate(reports):
        donor = reports[donors[i]]
        if not chosen[i] or patients[i] == patients[donors[i]] or not report.sentences:
            continue
        own = {s.lower() for s in report.sentences}
        new = [s for s in donor.sentences if s.lower() not in own]
        if not new:
            continue
        if unit == "report":
            sentences = list(donor.sentences)
        else:
            sentences = list(report.sentences)
            sentences[int(places[i][0] * len(sentences))] = new[int(places[i][1] * len(new))]
        index.append(i)
        texts.append(join_sentences(sentences))
    return index, texts
