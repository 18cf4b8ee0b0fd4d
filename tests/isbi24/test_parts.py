"""MLIP (ISBI 2024), part by part: masks, semantic integrity, transport, reconstruction."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch

from mlip.isbi24.integrity import SemanticIntegrity, integrity_contrast
from mlip.isbi24.masking import (
    PatchDecoder,
    encode_visible,
    masked_mean,
    patch_errors,
    patchify,
    random_keep,
    visible_mask,
)
from mlip.isbi24.matching import matched_distances, matching_contrast, transport_distances
from mlip.seeding import torch_generator
from tests.methods import build


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch_generator("unit", seed)), dim=-1)


# ---- masking --------------------------------------------------------------------------------------------------------


def test_random_keep_is_uniform_without_replacement_and_seeded() -> None:
    keep = random_keep(4000, 16, 0.5, torch_generator("keep"))
    assert keep.shape == (4000, 8)
    assert (keep.diff(dim=1) > 0).all()
    share = visible_mask(keep, 16).float().mean(dim=0)
    assert (share - 0.5).abs().max() < 0.05
    assert torch.equal(keep, random_keep(4000, 16, 0.5, torch_generator("keep")))
    assert random_keep(1, 16, 0.0, torch_generator("keep")).shape == (1, 1)


def test_all_patches_kept_is_the_plain_encoder_and_a_hidden_patch_is_not_seen() -> None:
    encoder = build("isbi24", "vit").image_encoder.eval()
    images = torch.rand(2, 3, 48, 48, generator=torch_generator("images"))
    everything = torch.arange(16).expand(2, -1)
    with torch.no_grad():
        prefix, patches = encode_visible(encoder, images, everything)
        plain = encoder(images)
        torch.testing.assert_close(prefix[:, 0], plain.pooled)
        torch.testing.assert_close(patches, plain.grid.flatten(1, 2))

        keep = torch.tensor([[1, 2, 5], [1, 2, 5]])
        first = encode_visible(encoder, images, keep)[1]
        changed = images.clone()
        changed[:, :, :12, :12] = 0.7  # patch 0, which is hidden
        torch.testing.assert_close(encode_visible(encoder, changed, keep)[1], first, rtol=0, atol=0)
        changed[:, :, :12, 12:24] = 0.7  # patch 1, which is visible
        assert (encode_visible(encoder, changed, keep)[1] - first).abs().max() > 1e-3


# ---- semantic integrity ---------------------------------------------------------------------------------------------


def test_integrity_starts_neutral_and_the_loss_is_then_plain_infonce() -> None:
    visible = visible_mask(random_keep(5, 9, 0.5, torch_generator("v")), 9)
    maco, share = SemanticIntegrity(9, "maco"), SemanticIntegrity(9, "share")
    torch.testing.assert_close(maco(visible), torch.full((5,), float(np.log(2))))
    torch.testing.assert_close(share(visible), torch.ones(5))
    cosine = unit(5, 8) @ unit(5, 8, seed=1).T
    own = torch.arange(5)
    plain = sum(torch.nn.functional.cross_entropy(10 * c, own) for c in (cosine, cosine.T)) / 2
    torch.testing.assert_close(integrity_contrast(cosine, torch.tensor(10.0), torch.ones(5)), plain)


def test_integrity_contrast_is_maco_s_formula() -> None:
    cosine, sigma, scale = unit(4, 8) @ unit(4, 8, seed=1).T, torch.tensor([0.2, 0.7, 1.5, 0.4]), torch.tensor(12.0)
    own = torch.arange(4)
    expected = 0.0
    for logits in (scale * cosine, scale * cosine.T):
        expected += torch.nn.functional.cross_entropy(sigma.unsqueeze(1) * logits, own)
        expected += torch.nn.CrossEntropyLoss(weight=sigma)(logits, own)  # as the official code weights samples
    torch.testing.assert_close(integrity_contrast(cosine, scale, sigma), expected / 4)


@pytest.mark.parametrize("form", ["maco", "share"])
def test_phi_learns_which_patches_matter_and_does_not_collapse(form: str) -> None:
    """Pairs whose patches 0-3 are visible match well, the others are noise: phi must rise there, weights stay spread."""
    torch.manual_seed(0)
    module = SemanticIntegrity(16, form)
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    for step in range(150):
        visible = visible_mask(random_keep(32, 16, 0.5, torch_generator("phi", step)), 16)
        quality = visible[:, :4].float().mean(dim=1, keepdim=True)
        text = unit(32, 8, seed=step)
        image = torch.nn.functional.normalize(quality * text + (1 - quality) * unit(32, 8, seed=1000 + step), dim=-1)
        loss = integrity_contrast(image @ text.T, torch.tensor(10.0), module(visible))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    phi = module.phi.detach()
    assert phi[:4].min() > phi[4:].max()
    sigma = module(visible).detach()
    assert torch.isfinite(sigma).all() and sigma.min() > 0
    share = sigma / sigma.sum()
    assert share.max() < 0.5  # no single image took all the weight


def test_the_weighting_path_carries_no_gradient() -> None:
    sigma = torch.ones(4, requires_grad=True)
    cosine = unit(4, 8) @ unit(4, 8, seed=1).T
    logits = 10 * cosine
    (grad,) = torch.autograd.grad(integrity_contrast(cosine, torch.tensor(10.0), sigma), sigma)
    scaled = torch.ones(4, requires_grad=True)
    own = torch.arange(4)
    only_scale = sum(torch.nn.functional.cross_entropy(scaled.unsqueeze(1) * x, own) for x in (logits, logits.T)) / 4
    torch.testing.assert_close(grad, torch.autograd.grad(only_scale, scaled)[0])


# ---- optimal transport ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patches,sentences", [(98, 6), (64, 4), (32, 8)])
def test_proximal_transport_agrees_with_the_exact_linear_program(patches: int, sentences: int) -> None:
    p, s = unit(3, patches, 32), unit(3, sentences, 32, seed=1)
    pad = torch.zeros(3, sentences, dtype=torch.bool)
    pad[1, sentences // 2 :] = True
    proximal = transport_distances(p, s, pad, "proximal", 0.5, 0.05, 50)
    entropic = transport_distances(p, s, pad, "entropic", 0.5, 0.05, 100)
    for i in range(3):
        for j in range(3):
            cost = (1 - p[i] @ s[j][~pad[j]].T).double().numpy()
            a, b = np.full(len(cost), 1 / len(cost)), np.full(cost.shape[1], 1 / cost.shape[1])
            exact = ot.emd2(a, b, cost)
            assert abs(proximal[i, j].item() / exact - 1) < 0.01
            assert 0 < entropic[i, j].item() / exact - 1 < 0.12  # the entropy makes the plan dearer


def test_the_diagonal_of_all_pairs_is_the_matched_distance_and_chunks_do_not_matter(monkeypatch) -> None:
    p, s, pad = unit(5, 12, 8), unit(5, 3, 8, seed=1), torch.zeros(5, 3, dtype=torch.bool)
    pad[2:, 2] = True
    for solver in ("proximal", "entropic"):
        whole = transport_distances(p, s, pad, solver, 0.5, 0.05, 20)
        torch.testing.assert_close(matched_distances(p, s, pad, solver, 0.5, 0.05, 20), whole.diagonal())
        with monkeypatch.context() as patch:
            patch.setattr("mlip.isbi24.matching.CHUNK", 40)
            torch.testing.assert_close(transport_distances(p, s, pad, solver, 0.5, 0.05, 20), whole)


def test_padding_changes_nothing_and_the_gradient_goes_through_the_cost() -> None:
    p, s = unit(2, 6, 8).requires_grad_(), unit(2, 3, 8, seed=1)
    short = transport_distances(p, s, torch.zeros(2, 3, dtype=torch.bool), "proximal", 0.5, 0.05, 30)
    longer = torch.cat([s, unit(2, 2, 8, seed=2)], dim=1)
    pad = torch.tensor([[False] * 3 + [True] * 2] * 2)
    torch.testing.assert_close(transport_distances(p, longer, pad, "proximal", 0.5, 0.05, 30), short)
    (grad,) = torch.autograd.grad(short.sum(), p)
    assert (grad.abs().sum(dim=2) > 0).all()


def test_contrastive_matching_prefers_the_true_pairs() -> None:
    s, pad = unit(4, 3, 16, seed=1), torch.zeros(4, 3, dtype=torch.bool)
    p = s.repeat(1, 4, 1)  # patches that show exactly the sentences
    aligned = transport_distances(p, s, pad, "proximal", 0.5, 0.05, 50)
    assert (aligned.argmin(dim=1) == torch.arange(4)).all()
    assert aligned.diagonal().max() < 0.05
    shifted = transport_distances(p.roll(1, 0), s, pad, "proximal", 0.5, 0.05, 50)
    assert matching_contrast(aligned, 0.1) < 0.1 < matching_contrast(shifted, 0.1)


# ---- reconstruction -------------------------------------------------------------------------------------------------


def test_reconstruction_counts_masked_patches_only() -> None:
    images = torch.rand(2, 3, 24, 24, generator=torch_generator("images"))
    target = patchify(images, 12)
    assert target.shape == (2, 4, 432)
    torch.testing.assert_close(target[0, 1].reshape(3, 12, 12), images[0, :, :12, 12:])
    visible = torch.tensor([[True, False, True, True], [False, True, True, True]])
    wrong = target + (~visible).unsqueeze(2) * 2.0 + visible.unsqueeze(2) * 100.0
    torch.testing.assert_close(masked_mean(patch_errors(wrong, target, False), visible), torch.tensor(4.0))
    assert masked_mean(patch_errors(target, target, False), visible) == 0
    standard = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
    assert masked_mean(patch_errors(standard, target, True), visible) < 1e-8


def test_decoder_puts_visible_tokens_at_their_place() -> None:
    torch.manual_seed(0)
    decoder = PatchDecoder(8, 1, 4, 12, 16, 1, 2)
    prefix, tokens = unit(1, 1, 8), unit(1, 2, 8, seed=1)
    one = decoder(prefix, tokens, torch.tensor([[0, 3]]))
    assert one.shape == (1, 4, 12)
    torch.testing.assert_close(one, decoder(prefix, tokens.flip(1), torch.tensor([[3, 0]])))
    assert not torch.allclose(one, decoder(prefix, tokens.flip(1), torch.tensor([[0, 3]])))
