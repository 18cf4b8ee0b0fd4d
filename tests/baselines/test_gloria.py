from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from mlip.errors import UserError
from mlip.run.contract.world import tiny_batch
from mlip.seeding import seed_everything
from mlip.text.reports import parse_report
from tests.methods import build, total

TEXTS = ["No pneumothorax .", "There is a small left pleural effusion .", "Clear ."]


@torch.no_grad()
def test_zero_shot_similarity_is_the_mean_of_best_word_and_cosine() -> None:
    method = build("gloria").eval()
    image, text = method.encode_image(tiny_batch(method).images), method.encode_text(TEXTS)
    assert text.local is not None and text.local_mask is not None
    scores = method.similarity(image, text)
    for i in range(len(scores)):
        regions = image.grid[i].flatten(0, 1)
        for j in range(len(TEXTS)):
            words = text.local[j][~text.local_mask[j]]
            attention = (4 * (regions @ words.T).softmax(dim=1)).softmax(dim=0)  # [P, L]
            best = functional.cosine_similarity(words, attention.T @ regions, dim=1).max()
            torch.testing.assert_close(
                scores[i, j], (5 * best + image.joint[i] @ text.joint[j]) / 2, rtol=1e-4, atol=1e-5
            )


@torch.no_grad()
def test_words_are_cls_and_sums_of_pieces_over_the_last_layers() -> None:
    method = build("gloria").eval()
    tokens = method.tokenizer(["There is a small left pleural effusion ."])
    _, words, pad = method._text(tokens)
    # The toy BERT has two layers: both are summed where the parameter asks for four.
    hidden = method.text_encoder(tokens, layers=2).layers.sum(dim=0)[0]
    ids = tokens.word_ids[0]
    expected = [hidden[0], *(hidden[ids == k].sum(dim=0) for k in range(int(ids.max()) + 1))]
    torch.testing.assert_close(words[0], torch.stack(expected))
    assert not pad.any()


@torch.no_grad()
def test_sentence_has_the_direction_of_the_mean_over_all_positions() -> None:
    method = build("gloria").eval()
    tokens = method.tokenizer(TEXTS)
    hidden = method.text_encoder(tokens, layers=2).layers.sum(dim=0)
    for row, joint in enumerate(method.encode_text(TEXTS).joint):
        padded = hidden[row] * tokens.attention_mask[row, :, None]
        torch.testing.assert_close(joint, functional.normalize(padded.mean(dim=0), dim=0))


def test_centred_global_features_have_mean_0_over_the_batch_and_the_local_ones_stay() -> None:
    plain, centred = (build("gloria", params={"centred_heads": on}).train() for on in (False, True))
    centred.load_state_dict(plain.state_dict(), strict=False)
    for method in (plain, centred):
        method.text_encoder.eval()  # no dropout
    batch = tiny_batch(plain)
    with torch.no_grad():
        one, two = plain.represent(batch), centred.represent(batch)
    for name in ("image", "text"):
        assert one[name].mean(dim=0).abs().max() > 0.01
        torch.testing.assert_close(two[name].mean(dim=0), torch.zeros(two[name].shape[1]), atol=1e-5, rtol=0)
    for name in ("grid", "words"):
        torch.testing.assert_close(one[name], two[name])
    eval_joint = centred.eval().encode_image(batch.images).joint
    assert not torch.allclose(eval_joint, plain.eval().encode_image(batch.images).joint), "evaluation centres too"


def test_heatmap_is_a_map_of_attention_over_the_image() -> None:
    method = build("gloria").eval()
    maps = method.heatmap(tiny_batch(method).images, "small left pleural effusion")
    assert maps.shape == (8, method.image_encoder.grid_size, method.image_encoder.grid_size)
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.ones(8))
    assert maps[0].std() > 0
    with pytest.raises(UserError, match="local"):
        build("gloria", components={"local": False}).heatmap(tiny_batch(method).images, "effusion")


def test_without_the_global_contrast_the_unread_stage_is_frozen_and_the_numbers_stay() -> None:
    history = []
    for frozen in (True, False):
        method = build("gloria", components={"global": False}).train()
        still = [n for n, p in method.named_parameters() if not p.requires_grad]
        assert {n.split(".")[0] for n in still} == {"image_encoder", "head_global"}
        assert all("layer4" in n for n in still if n.startswith("image_encoder"))
        if not frozen:
            method.requires_grad_(True)
        optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3, weight_decay=0.05)
        for step in range(3):
            seed_everything("gloria", step)
            loss = total(method, method.losses(tiny_batch(method, step)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        history += [p.double().sum().item() for p in method.parameters()]
    half = len(history) // 2
    assert history[:half] == history[half:]


def test_plain_words_reach_the_training_and_the_prompts() -> None:
    report, rng = parse_report("IMPRESSION: No effusion; heart-size normal (AP)."), np.random.default_rng(0)
    assert build("gloria").text_view(report, rng) == "No effusion; heart-size normal (AP) ."
    plain = build("gloria", params={"words": "plain", "full_report": False}).eval()
    assert plain.text_view(report, rng) == "no effusion heart size normal ap"
    told = plain.encode_text(["No effusion; heart-size normal (AP).", "no effusion heart size normal ap"]).joint
    torch.testing.assert_close(told[0], told[1])
    with pytest.raises(UserError, match="words is 'loud'"):
        build("gloria", params={"words": "loud"})
