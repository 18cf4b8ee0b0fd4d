"""Text encoders: a BERT of transformers behind one output shape, and the sums over words and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mlip.errors import UserError
from mlip.study import TextEncoderConfig
from mlip.text.tokenisation import TokenBatch, pretrained_source


@dataclass
class TextOutput:
    cls: Tensor  # [B, D] last layer's [CLS]
    hidden: Tensor  # [B, L, D] last layer
    layers: Tensor  # [n, B, L, D] the last n layers, the very last at the end; n = 1 holds `hidden` alone
    attention: Tensor | None = None  # [B, L] last layer's attention of [CLS], mean over heads, rows sum to 1


class TextEncoder(nn.Module):
    """A BERT without pooler.

    Parameters
    ----------
    config : sizes of a BERT built from scratch, or ``pretrained`` (local folder or hub name), whose own sizes then count.
    vocabulary : rows of the embedding table, i.e. ``Tokenizer.vocabulary``.

    Raises
    ------
    UserError : ``dim`` is no multiple of ``heads``, the pretrained model cannot be found, is no BERT, lacks a tensor or has
        one too many, has another vocabulary than the tokenizer or fewer positions than ``max_tokens``.
    """

    def __init__(self, config: TextEncoderConfig, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        model: Any = (_pretrained if config.pretrained else _scratch)(config, vocabulary)
        self.model = model
        self.dim = int(model.config.hidden_size)

    @property
    def depth(self) -> int:
        """Number of transformer layers."""
        return len(self.model.encoder.layer)

    def keep_layers(self, count: int) -> None:
        """Keep the first ``count`` layers, as MGCA does with Bio_ClinicalBERT (6 of 12)."""
        if not 1 <= count <= self.depth:
            raise UserError(f"cannot keep {count} of {self.depth} layers", where="encoders.text", fix="choose fewer")
        self.model.encoder.layer = self.model.encoder.layer[:count]
        self.model.config.num_hidden_layers = count

    def forward(self, tokens: TokenBatch, need_attention: bool = False, layers: int = 1) -> TextOutput:
        """Encode B texts of L pieces.

        ``layers`` > 1 also gives that many last hidden states (the input embedding counts as the one before the first
        layer). ``need_attention`` computes the last layer's attention again from its own projections, because the
        fused kernel that the forward pass uses never holds it; attention dropout is not applied to it.
        """
        if not 1 <= layers <= self.depth + 1:
            raise UserError(
                f"asks for {layers} layers of a BERT of {self.depth}", where="encoders.text", fix="ask for fewer"
            )
        wanted = need_attention or layers > 1
        output = self.model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            output_hidden_states=wanted,
            return_dict=True,
        )
        hidden = output.last_hidden_state
        stacked = torch.stack(output.hidden_states[-layers:]) if layers > 1 else hidden[None]
        attention = self._cls_attention(output.hidden_states[-2], tokens.attention_mask) if need_attention else None
        return TextOutput(hidden[:, 0], hidden, stacked, attention)

    def _cls_attention(self, x: Tensor, mask: Tensor) -> Tensor:
        """softmax(q_cls k^T / sqrt(d)) of the last layer on its input [B, L, D], mean over heads: [B, L]."""
        module = self.model.encoder.layer[-1].attention.self
        heads = self.model.config.num_attention_heads
        query = module.query(x[:, :1]).unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, heads, 1, d]
        key = module.key(x).unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, heads, L, d]
        scores = (query @ key.transpose(-2, -1)).squeeze(2) / query.shape[-1] ** 0.5
        scores = scores.masked_fill(mask[:, None] == 0, float("-inf"))
        return scores.softmax(dim=-1).mean(dim=1)


def pool_text(text: TextOutput, tokens: TokenBatch, how: str) -> Tensor:
    """One vector per text [B, D]: ``class`` the last layer's class token, ``words`` the mean word.

    The class token of a BERT trained from scratch carries little for the first hundreds of steps; the mean word does.

    Raises
    ------
    UserError : ``how`` is neither.
    """
    if how == "class":
        return text.cls
    if how != "words":
        raise UserError(f"text_pooling is {how!r}", where="method.yaml", fix="class or words")
    words, pad = aggregate_words(text.hidden, tokens)
    return words.sum(dim=1) / (~pad).sum(dim=1, keepdim=True).clamp_min(1)


def aggregate_words(x: Tensor, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
    """Sum the pieces of each word (GLoRIA's rule): [B, L, D] or [B, L] -> [B, W(, D)], and the pad mask [B, W].

    Special pieces belong to no word. W is the largest word count of the batch, at least 1; True in the mask = padding.
    """
    return _sum_groups(x, tokens.word_ids, tokens.words)


def aggregate_sentences(x: Tensor, tokens: TokenBatch, reduce: Literal["sum", "mean"] = "sum") -> tuple[Tensor, Tensor]:
    """Sum (MaCo's rule) or average the pieces of each sentence: [B, L, D] -> [B, S, D], and the pad mask [B, S].

    Special pieces and closing full stops belong to no sentence. A sentence that truncation cut off whole is not there.
    """
    total, padding = _sum_groups(x, tokens.sentence_ids, tokens.sentences)
    if reduce == "mean":
        count, _ = _sum_groups(torch.ones_like(x[..., 0]), tokens.sentence_ids, tokens.sentences)
        total = total / (count.clamp(min=1) if x.dim() == 2 else count.clamp(min=1)[..., None])
    return total, padding


def _sum_groups(x: Tensor, ids: Tensor, least: int) -> tuple[Tensor, Tensor]:
    count = ids.amax(dim=1) + 1  # [B]; 0 for a text without any
    width = max(int(count.max()), least, 1)
    # Group `width` collects what belongs nowhere and is cut off.
    index = torch.where(ids < 0, width, ids)
    shape = (x.shape[0], width + 1, *x.shape[2:])
    index = index.reshape(*index.shape, *(1,) * (x.dim() - 2)).expand_as(x)
    summed = x.new_zeros(shape).scatter_add(1, index, x)[:, :width]
    return summed, torch.arange(width, device=x.device)[None] >= count[:, None]


def _scratch(config: TextEncoderConfig, vocabulary: int) -> nn.Module:
    from transformers.models.bert import BertConfig, BertModel

    require_heads(config)
    sizes = BertConfig(
        vocab_size=vocabulary,
        hidden_size=config.dim,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.dim,
        max_position_embeddings=config.max_tokens,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
    )
    sizes._attn_implementation = "sdpa"
    return BertModel(sizes, add_pooling_layer=False)


def _pretrained(config: TextEncoderConfig, vocabulary: int) -> nn.Module:
    from mlip.encoders.bert_weights import load_bert

    source = pretrained_source(config.pretrained or "")
    model: Any = load_bert(source)
    if vocabulary > model.config.vocab_size:
        raise UserError(
            f"embeds {model.config.vocab_size} word pieces, the tokenizer gives {vocabulary}",
            where=source,
            fix="use the tokenizer of this very model",
        )
    require_positions(source, model.config.max_position_embeddings, config.max_tokens)
    return model


def require_heads(config: TextEncoderConfig) -> None:
    """Raise UserError where the width of a BERT built from sizes does not divide into its heads."""
    if config.dim % config.heads:
        raise UserError(
            f"dim {config.dim} is no multiple of heads {config.heads}", where="encoders.text", fix="change one of them"
        )


def require_positions(source: str, positions: int, max_tokens: int) -> None:
    """Raise UserError where a pretrained BERT has fewer positions than ``max_tokens``."""
    if max_tokens > positions:
        raise UserError(
            f"has {positions} positions, max_tokens is {max_tokens}", where=source, fix="lower encoders.text.max_tokens"
        )
