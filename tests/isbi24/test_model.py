"""MLIP (ISBI 2024) as a whole: gradients, switches, readings, features."""

from __future__ import annotations

import pytest
import torch

from mlip.errors import UserError
from mlip.isbi24.integrity import integrity_contrast
from mlip.run.contract.world import reports, tiny_batch
from mlip.seeding import generator, torch_generator
from tests.methods import build, learn, total


def test_losses_are_finite_and_reach_every_parameter() -> None:
    method = build("isbi24", "vit").train()
    terms = method.losses(tiny_batch(method))
    assert set(terms) == {"contrast", "matching", "reconstruction"} == set(method.loss_weights())
    assert all(t.ndim == 0 and torch.isfinite(t) for t in terms.values())
    total(method, terms).backward()
    silent = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


@pytest.mark.parametrize(
    "off,terms",
    [
        ({"matching"}, {"contrast", "reconstruction"}),
        ({"reconstruction"}, {"contrast", "matching"}),
        ({"integrity"}, {"contrast", "matching", "reconstruction"}),
        ({"masking", "reconstruction"}, {"contrast", "matching"}),
        ({"masking", "reconstruction", "integrity", "matching"}, {"contrast"}),
    ],
)
def test_components_switch_off(off: set[str], terms: set[str]) -> None:
    method = build("isbi24", "vit", components=dict.fromkeys(off, False)).train()
    found = method.losses(tiny_batch(method))
    assert set(found) == terms == set(method.loss_weights())
    total(method, found).backward()
    assert all(p.grad is not None for n, p in method.named_parameters())


@pytest.mark.parametrize(
    "params",
    [
        {"integrity_form": "share"},
        {"matching_form": "matched"},
        {"solver": "entropic"},
        {"normalise_pixels": True},
        {"image_pooling": "both", "text_pooling": "class"},
        {"image_pooling": "class", "text_view": "shuffled"},
    ],
)
def test_other_readings_train(params: dict[str, object]) -> None:
    method = build("isbi24", "vit", params=params).train()
    terms = method.losses(tiny_batch(method))
    assert all(torch.isfinite(t) for t in terms.values())
    total(method, terms).backward()


def test_one_batch_can_be_learnt() -> None:
    history = learn(build("isbi24", "vit"), 25)
    assert history[-1]["contrast"] < 0.6 * history[0]["contrast"]
    assert history[-1]["matching"] < 0.9 * history[0]["matching"]


def test_the_batch_generator_alone_decides_the_masks() -> None:
    method = build("isbi24", "vit").eval()  # eval: without dropout, which draws from the global state
    with torch.no_grad():
        one, same = (method.losses(tiny_batch(method)) for _ in range(2))
        batch = tiny_batch(method)
        batch.generator = torch_generator("another")
        other = method.losses(batch)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["reconstruction"], other["reconstruction"])


def test_features_heatmap_and_phi() -> None:
    method = build("isbi24", "vit").eval()
    images = tiny_batch(method).images
    with torch.no_grad():
        image, text = method.encode_image(images), method.encode_text([r.text for r in reports()[:3]])
        expected = method.image_encoder(images).grid.flatten(1, 2).mean(dim=1)
        torch.testing.assert_close(image.pooled, expected)  # what the contrast reads
        assert image.grid.shape == (8, 4, 4, 32)
        torch.testing.assert_close(image.joint.norm(dim=1), torch.ones(8))
        assert text.local is not None and text.local_mask is not None
        assert (~text.local_mask).sum(dim=1).tolist() == [len(r.sentences) for r in reports()[:3]]
        assert method.similarity(image, text).shape == (8, 3)
    heat = method.heatmap(images, "There is a small left pleural effusion.")
    assert heat.shape == (8, 4, 4) and heat.abs().max() <= 1 + 1e-6
    brighter = images.clone()
    brighter[0, :, 36:, 36:] = 1.0
    assert not torch.allclose(method.heatmap(brighter, "There is a small left pleural effusion.")[0], heat[0])
    method.integrity.phi.data = torch.arange(16.0)
    torch.testing.assert_close(method.phi_map(), torch.arange(16.0).reshape(4, 4))


def test_joint_is_pooled_as_in_training() -> None:
    """Without masking, the training's image embedding is encode_image's."""
    method = build("isbi24", "vit", components={"masking": False, "reconstruction": False}).eval()
    batch = tiny_batch(method)
    with torch.no_grad():
        v, t = method.encode_image(batch.images).joint, method.encode_text(batch.texts).joint
        sigma = method.integrity(torch.ones(8, 16, dtype=torch.bool))
        expected = integrity_contrast(v @ t.T, method.logit_scale.exp(), sigma)
        torch.testing.assert_close(method.losses(batch)["contrast"], expected)


def test_shuffled_text_view_keeps_a_random_part_of_the_sentences() -> None:
    method = build("isbi24", "vit", params={"text_view": "shuffled"})
    report = reports()[0]
    rng = generator("views")
    views = [method.text_view(report, rng) for _ in range(60)]
    counts = {view.count(" .") for view in views}
    assert counts == set(range(1, len(report.sentences) + 1))
    assert all(any(s in view for s in report.sentences) for view in views)
    assert build("isbi24", "vit").text_view(report, rng) == report.text


def test_mistakes_name_the_fix() -> None:
    with pytest.raises(UserError, match="vit"):
        build("isbi24", "cnn")
    with pytest.raises(UserError, match="reconstruction"):
        build("isbi24", "vit", components={"masking": False})
    with pytest.raises(UserError, match="solver"):
        build("isbi24", "vit", params={"solver": "simplex"})
    bare = build("isbi24", "vit", components={"matching": False, "integrity": False})
    with pytest.raises(UserError, match="matching"):
        bare.heatmap(torch.zeros(1, 3, 48, 48), "effusion")
    with pytest.raises(UserError, match="integrity"):
        bare.phi_map()
