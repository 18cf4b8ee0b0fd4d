"""What holds for every baseline beside the contract suite (tests/run/contract): switches, learning, recipes."""

from __future__ import annotations

import pytest
import torch

from mlip.errors import UserError
from mlip.manifest import read_manifest
from mlip.paths import ROOT
from mlip.run.contract.world import tiny_batch
from tests.methods import build, total

TRAINED = ("convirt", "gloria", "mgca")
SWITCHES = [("gloria", "global"), ("gloria", "local"), ("mgca", "ita"), ("mgca", "cta"), ("mgca", "cpa")]


@pytest.mark.parametrize(("name", "component"), SWITCHES)
def test_a_component_switched_off_has_no_term(name: str, component: str) -> None:
    method = build(name, components={component: False}).train()
    others = {c for n, c in SWITCHES if n == name} - {component}
    terms = method.losses(tiny_batch(method))
    assert set(terms) == set(method.loss_weights()) == others
    method.eval()
    with torch.no_grad():
        image, text = method.encode_image(tiny_batch(method).images), method.encode_text(["No effusion .", "Clear ."])
        assert method.similarity(image, text).shape == (8, 2)


@pytest.mark.parametrize("name", ["gloria", "mgca"])
def test_a_method_without_components_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="all components are off"):
        build(name, components={c: False for n, c in SWITCHES if n == name})


@pytest.mark.parametrize(("name", "steps"), [("convirt", 20), ("gloria", 20), ("mgca", 40)])
def test_learns_to_tell_eight_pairs_apart(name: str, steps: int) -> None:
    method = build(name).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    batch = tiny_batch(method)
    history = []
    for _ in range(steps):
        loss = total(method, method.losses(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.75 * history[0]


@pytest.mark.parametrize("name", [*TRAINED, "random"])
def test_a_text_is_encoded_the_same_in_any_batch(name: str) -> None:
    method = build(name).eval()
    with torch.no_grad():
        texts = ["Clear .", "There is a small left pleural effusion . The heart is normal in size ."]
        together, alone = method.encode_text(texts), method.encode_text(texts[:1])
        image = method.encode_image(tiny_batch(method).images)
        both, one = method.similarity(image, together), method.similarity(image, alone)
    torch.testing.assert_close(together.joint[:1], alone.joint, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[:, :1], one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.joint.norm(dim=1), torch.ones(1))


def test_all_methods_have_the_same_optimiser_at_the_small_tiers() -> None:
    """Equal tuning budgets: no row may have a rate of its own."""
    for name in TRAINED:
        recipes = read_manifest(ROOT / "baselines" / name).recipes
        for tier, budget in (("smoke", (1, 8)), ("small", (10, 48))):
            r = recipes[tier]
            assert (r.epochs, r.batch_size) == budget
            assert (r.lr, r.weight_decay, r.betas, r.warmup, r.clip) == (1e-3, 0.05, (0.9, 0.999), 0.1, 1.0)
        assert "paper" in recipes


def test_the_control_is_never_trained() -> None:
    method = build("random")
    assert not read_manifest(ROOT / "baselines" / "random").trained
    with pytest.raises(UserError, match="never trained"):
        method.losses(tiny_batch(method))
