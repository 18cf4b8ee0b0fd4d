from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mlip.encoders.text import aggregate_words
from mlip.run.contract.world import tiny_batch
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
