from __future__ import annotations

import numpy as np
import pytest
import torch

from mlip.errors import UserError
from mlip.run.contract.world import tiny_batch
from mlip.text.reports import Report, split_sentences
from tests.methods import build, total


def test_text_view_is_one_sentence_and_each_has_its_turn(rng: np.random.Generator) -> None:
    method, sentences = (
        build("convirt", params={"full_report": False}),
        ["No effusion", "The heart is normal", "Clear lungs"],
    )
    views = [method.text_view(Report("", "", sentences), rng) for _ in range(60)]
    assert {tuple(split_sentences(v)) for v in views} == {(s,) for s in sentences}
    whole = build("convirt", params={"full_report": True}).text_view(Report("", "", sentences), rng)
    assert split_sentences(whole) == sentences
    assert min(views.count(v) for v in set(views)) > 8


@pytest.mark.parametrize("pooling", ["max", "mean", "cls"])
def test_pooling_sees_the_pieces_and_no_padding(pooling: str) -> None:
    method = build("convirt", params={"text_pooling": pooling}).eval()
    tokens = method.tokenizer(["Clear .", "There is a small left pleural effusion ."])
    with torch.no_grad():
        pooled = method._pool(tokens)
        for row in range(2):
            count = int(tokens.attention_mask[row].sum())
            hidden = method.text_encoder(tokens).hidden[row, :count]
            expected = {"max": hidden.amax(dim=0), "mean": hidden.mean(dim=0), "cls": hidden[0]}[pooling]
            torch.testing.assert_close(pooled[row], expected)


def test_frozen_layers_stay_and_the_others_learn() -> None:
    method = build("convirt", params={"frozen_layers": 1}).train()
    total(method, method.losses(tiny_batch(method))).backward()
    bert = method.text_encoder.model
    assert all(p.grad is None for m in (bert.embeddings, bert.encoder.layer[0]) for p in m.parameters())
    assert all(p.grad is not None for p in bert.encoder.layer[1].parameters())


@pytest.mark.parametrize("params", [{"text_pooling": "median"}, {"frozen_layers": 3}])
def test_impossible_parameters_name_the_file(params: dict) -> None:
    with pytest.raises(UserError, match=r"baselines/convirt/method\.yaml"):
        build("convirt", params=params)


def test_the_weight_is_on_image_to_text() -> None:
    one_way, other_way = (build("convirt", params={"image_to_text_weight": w}).eval() for w in (1.0, 0.0))
    other_way.load_state_dict(one_way.state_dict())
    batch = tiny_batch(one_way)
    with torch.no_grad():
        image, text = one_way.encode_image(batch.images), one_way.encode_text(batch.texts)
        logits = one_way.similarity(image, text) / one_way.params["temperature"]
        for method, axis in ((one_way, 1), (other_way, 0)):
            expected = -logits.log_softmax(dim=axis).diagonal().mean()
            torch.testing.assert_close(method.losses(batch)["contrast"], expected, rtol=1e-4, atol=1e-5)
