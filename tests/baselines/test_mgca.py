from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mlip.encoders.text import aggregate_words
from mlip.errors import UserError
from mlip.run.contract.world import tiny_batch
from mlip.text.reports import parse_report
from tests.methods import build, total


def test_prototypes_stay_during_the_first_epoch_only() -> None:
    method = build("mgca").train()
    for epoch, frozen in ((0, True), (1, False)):
        batch = replace(tiny_batch(method), epoch=epoch)
        method.zero_grad()
        total(method, method.losses(batch)).backward()
        assert method.prototypes.weight.grad is not None
        method.on_backward(batch)
        assert (method.prototypes.weight.grad is None) == frozen


@torch.no_grad()
def test_the_closing_sep_is_a_word_and_cls_is_none() -> None:
    method = build("mgca").eval()
    texts = ["Clear .", "There is a small left pleural effusion ."]
    tokens = method.tokenizer(texts)
    plain, _ = aggregate_words(method.text_encoder(tokens).hidden, tokens)
    features = method.encode_text(texts)
    assert features.local is not None and features.local_mask is not None
    words = tokens.word_ids.amax(dim=1) + 1
    torch.testing.assert_close((~features.local_mask).sum(dim=1), words + 1)
    assert features.local.shape[1] == plain.shape[1] + 1
    # All attention of [CLS] but that to itself is on words.
    from baselines.mgca.model import _with_sep

    attention = method.text_encoder(tokens, need_attention=True).attention
    assert attention is not None
    torch.testing.assert_close(aggregate_words(attention, _with_sep(tokens))[0].sum(dim=1), 1 - attention[:, 0])


def test_a_deep_bert_is_cut() -> None:
    assert build("mgca", params={"bert_layers": 1}).text_encoder.depth == 1
    assert build("mgca").text_encoder.depth == 2


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_the_vit_form_weights_patches_by_attention(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = build("mgca", kind).train()
    module = __import__(type(method).__module__, fromlist=["mgca_local_pairs"])
    seen = {}

    def spy(patches, words, pad, word_weights, patch_weights, temperature, encoder):  # type: ignore[no-untyped-def]
        seen.update(patch_weights=patch_weights, word_weights=word_weights, encoder=encoder)
        nothing = (patches.sum() + words.sum()) * 0
        return nothing.expand(len(patches)), nothing.expand(len(patches))

    monkeypatch.setattr(module, "mgca_local_pairs", spy)
    method.losses(tiny_batch(method))
    torch.testing.assert_close(seen["word_weights"].sum(dim=1), torch.ones(8))
    if kind == "cnn":
        assert seen["encoder"] == "resnet" and seen["patch_weights"] is None
    else:
        assert seen["encoder"] == "vit"
        assert seen["patch_weights"].shape == (8, method.image_encoder.patches)
        torch.testing.assert_close(seen["patch_weights"].sum(dim=1), torch.ones(8))
        assert seen["patch_weights"].std() > 0


def test_shifted_weights_are_those_that_the_official_loop_pairs_with_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """``aggregate_tokens`` of the official encoder walks over the pieces from [CLS] on, and over the attention from the first
    piece on: each piece meets the attention of the one after it, and [SEP] the padding's 0.
    """
    found = {}
    for choice in ("aligned", "shifted"):
        method = build("mgca", params={"word_weights": choice}).eval()
        module = __import__(type(method).__module__, fromlist=["clipped_weights"])
        monkeypatch.setattr(
            module, "clipped_weights", lambda x, c=choice: found.setdefault(c, x) / x.sum(1, keepdim=True)
        )
        batch = tiny_batch(method)
        method.losses(batch)
    attention = method.text_encoder(batch.tokens, need_attention=True).attention
    assert attention is not None
    for row, (ids, mask) in enumerate(zip(batch.tokens.word_ids, batch.tokens.attention_mask, strict=True)):
        length, expected = int(mask.sum()), {}
        for piece, seen in zip(range(length), [*attention[row, 1:length].tolist(), 0.0], strict=True):
            word = int(ids[piece]) if piece < length - 1 else int(ids.max()) + 1  # [SEP] is the last word
            expected[word] = expected.get(word, 0.0) + seen
        expected.pop(-1)  # [CLS] is cut off after the loop
        torch.testing.assert_close(found["shifted"][row, : len(expected)], torch.tensor(list(expected.values())))
        assert not found["shifted"][row, len(expected) - 1 :].any()
    assert not torch.allclose(found["aligned"], found["shifted"])


def test_plain_words_reach_the_training_and_the_prompts() -> None:
    """Of the paper's recipe: no full stop, no capital, no sentence of one word; and the same of texts that come later."""
    report = parse_report("IMPRESSION: Stable. No effusion; heart-size normal (AP).")
    rng = np.random.default_rng(0)
    assert build("mgca").text_view(report, rng) == "Stable . No effusion; heart-size normal (AP) ."
    plain = build("mgca", params={"words": "plain"}).eval()
    assert plain.text_view(report, rng) == "no effusion heart size normal ap"
    told = plain.encode_text(["No effusion; heart-size normal (AP).", "no effusion heart size normal ap"]).joint
    torch.testing.assert_close(told[0], told[1])
    with pytest.raises(UserError, match="words is 'loud'"):
        build("mgca", params={"words": "loud"})
