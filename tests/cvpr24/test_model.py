"""MLIP (CVPR 2024) as a whole: gradients, switches, readings, and that the image branch cannot read the report."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from mlip.contract import Batch, Method, entity_table
from mlip.errors import UserError
from mlip.losses.prototypes import sinkhorn_codes
from mlip.run.contract.world import reports, tiny_batch
from mlip.seeding import torch_generator
from tests.methods import build, learn, total

TERMS = {"global", "augmented", "divergence", "local", "category", "itm", "text_swap"}


def _reached(method: Method) -> list[str]:
    """Parameters without gradient. A ResNet's residual branches start at zero, so their inner layers get none yet."""
    zero_start = [n for n, p in method.named_parameters() if n.startswith("image_encoder") and n.endswith("bn2.weight")]
    blocks = {n.removesuffix("bn2.weight") for n in zero_start}
    return [
        n
        for n, p in method.named_parameters()
        if (p.grad is None or not p.grad.abs().sum() > 0)
        and not any(n.startswith(b) and n[len(b) :].startswith(("conv1", "bn1", "conv2")) for b in blocks)
    ]


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_losses_are_finite_and_reach_every_parameter(kind: str) -> None:
    # The band loss is zero inside its band; the narrow one of this test makes it active.
    method = build("cvpr24", kind, params={"divergence_low": 0.98, "divergence_high": 0.99}).train()
    terms = method.losses(tiny_batch(method))
    assert set(terms) == TERMS == set(method.loss_weights())
    assert all(t.ndim == 0 and torch.isfinite(t) for t in terms.values())
    assert terms["divergence"] > 0
    total(method, terms).backward()
    assert _reached(method) == []


@pytest.mark.parametrize(
    "off,gone",
    [
        ({"global"}, {"global"}),
        ({"divergence"}, {"augmented", "divergence"}),
        ({"soft_targets"}, set()),
        ({"local"}, {"local"}),
        ({"category"}, {"category"}),
        ({"itm"}, {"itm"}),
        ({"text_swap"}, {"text_swap"}),
        ({"divergence", "soft_targets", "local", "category", "itm", "text_swap"}, TERMS - {"global"}),
    ],
)
def test_components_switch_off(off: set[str], gone: set[str]) -> None:
    method = build("cvpr24", "cnn", components=dict.fromkeys(off, False)).train()
    terms = method.losses(tiny_batch(method))
    assert set(terms) == TERMS - gone == set(method.loss_weights())
    total(method, terms).backward()
    unused = [n for n, p in method.named_parameters() if p.grad is None]
    assert unused == []  # what is off has no parameters either


@pytest.mark.parametrize(
    "params",
    [
        {"divergence_form": "kl"},
        {"alignment": "two-step"},
        {"alignment": "plain"},
        {"text_knowledge": "attended"},
        {"text_pooling": "class"},
        {"swap_unit": "report"},
        {"anchored_share": 0.0},
        {"anchored_share": 1.0, "prototypes": 16},
    ],
)
def test_other_readings_train(params: dict[str, object]) -> None:
    method = build("cvpr24", "cnn", params=params).train()
    terms = method.losses(tiny_batch(method))
    assert all(torch.isfinite(t) for t in terms.values())
    total(method, terms).backward()


def _image_assignment(method: Method, batch: Batch) -> dict[str, torch.Tensor]:
    """Run the real training step and catch what the image branch of the category contrast put out."""
    caught: dict[str, torch.Tensor] = {}
    original, text = method.category_image, method.category_text

    def spy(v: torch.Tensor) -> torch.Tensor:
        caught["z"] = original(v)
        return caught["z"]

    def spy_text(t: torch.Tensor, entities: torch.Tensor) -> torch.Tensor:
        caught["text"] = text(t, entities)
        return caught["text"]

    method.category_image, method.category_text = spy, spy_text
    try:
        method.losses(batch)
    finally:
        del method.category_image, method.category_text
    caught["codes"] = sinkhorn_codes(caught["z"] @ method.prototypes().T)
    return caught


def test_the_image_branch_cannot_read_the_report_s_knowledge() -> None:
    method = build("cvpr24", "cnn").train()
    method.image_encoder.eval()  # its running statistics would move between the two runs
    batch = tiny_batch(method)
    base = _image_assignment(method, batch)
    texts = batch.texts[::-1]
    other = replace(
        tiny_batch(method),
        texts=texts,
        tokens=method.tokenizer(texts),
        reports=reports()[::-1],
        entities=entity_table([[7, 8], [9], [10, 11], [], [12], [13, 14], [15], []]),
    )
    changed = _image_assignment(method, other)
    assert torch.equal(base["z"], changed["z"]) and torch.equal(base["codes"], changed["codes"])
    assert (base["text"] - changed["text"]).abs().max() > 1e-2  # the text branch does read them
    # ... and no path leads from the image's assignment back to the text.
    silent = torch.autograd.grad(base["z"].sum(), list(method.text_encoder.parameters()), allow_unused=True)
    assert all(g is None for g in silent)
    # The image itself does decide.
    moved = replace(tiny_batch(method), images=batch.images.flip(0))
    turned = _image_assignment(method, moved)["z"]
    torch.testing.assert_close(turned, base["z"].flip(0), rtol=1e-3, atol=1e-4)
    assert functional.cosine_similarity(turned, base["z"]).mean() < 0.9


def test_one_batch_can_be_learnt() -> None:
    history = learn(build("cvpr24", "cnn", components={"soft_targets": False}), 16)
    for name, share in (("global", 0.5), ("augmented", 0.5), ("category", 0.9), ("local", 0.9)):
        assert history[-1][name] < share * history[0][name], name


def test_the_batch_generator_decides_all_random_choices() -> None:
    method = build("cvpr24", "cnn").eval()  # eval: without BERT's dropout, which draws from the global state
    with torch.no_grad():
        one, same = (method.losses(tiny_batch(method)) for _ in range(2))
        batch = tiny_batch(method)
        batch.generator = torch_generator("a third")  # of "another", too, no text is swapped
        other = method.losses(batch)
    assert all(torch.equal(one[k], same[k]) for k in one)
    for name in ("augmented", "itm", "text_swap"):
        assert not torch.equal(one[name], other[name])
    assert torch.equal(one["local"], other["local"]) and torch.equal(one["global"], other["global"])


def test_padding_of_the_batch_s_words_does_not_reach_the_local_loss_of_others() -> None:
    method = build("cvpr24", "cnn").eval()
    texts = [reports()[5].text, reports()[0].text]
    with torch.no_grad():
        alone = method.encode_text(texts[:1]).local[0]
        padded = method.encode_text(texts)
        mask = padded.local_mask[0]
        torch.testing.assert_close(padded.local[0][~mask], alone, rtol=1e-4, atol=1e-5)
        assert mask.any()


def test_features() -> None:
    method = build("cvpr24", "cnn").eval()
    images = tiny_batch(method).images
    with torch.no_grad():
        image, text = method.encode_image(images), method.encode_text([r.text for r in reports()[:3]])
        assert torch.equal(image.pooled, method.image_encoder(images).pooled)
        torch.testing.assert_close(image.joint.norm(dim=1), torch.ones(8))
        torch.testing.assert_close(method.similarity(image, text), image.joint @ text.joint.T)
        linked = method._link(["Edema, effusion.", "Clear lungs.", "No effusion."])
        known = [[method.knowledge.entities[i].name for i in row[row >= 0]] for row in linked]
        assert known == [["Pulmonary edema", "Pleural effusion"], [], []] and linked.shape == (3, 2)
        bare = build("cvpr24", "cnn", params={"alignment": "plain"}).eval()
        bare.load_state_dict({k: v for k, v in method.state_dict().items() if k in bare.state_dict()})
        words = bare.encode_text([reports()[0].text]).local[0]
        alike = functional.cosine_similarity(words, text.local[0][: len(words)], dim=-1)
        assert (alike < 0.9999).all()  # with an entity in the report, every word carries knowledge


def test_prototypes_rest_in_the_first_epochs() -> None:
    method = build("cvpr24", "cnn", params={"freeze_prototypes_epochs": 1}).train()
    for epoch, still in ((0, True), (1, False)):
        method.zero_grad()
        batch = replace(tiny_batch(method), epoch=epoch)
        total(method, method.losses(batch)).backward()
        method.on_backward(batch)
        assert all((p.grad is None) == still for p in method.prototypes.parameters())


def test_mistakes_name_the_fix() -> None:
    with pytest.raises(UserError, match="alignment"):
        build("cvpr24", params={"alignment": "both"})
    everything = ("global", "divergence", "local", "category", "itm", "text_swap")
    with pytest.raises(UserError, match="off"):
        build("cvpr24", components=dict.fromkeys(everything, False))
