"""MLIP (CVPR 2024), part by part: divergence, fusion, knowledge, prototypes, proxies, false negatives."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.analyses.false_negatives import closeness, pair_groups
from mlip.cvpr24.distinct import band_hinge, distribution_divergence
from mlip.cvpr24.divergence import DivergenceEncoder, distinct_part, divergence_loss
from mlip.cvpr24.false_negatives import finding_sets, observations_of, overlap_of, soft_info_nce, soft_targets
from mlip.cvpr24.fusion import TuckerFusion
from mlip.cvpr24.knowledge_alignment import (
    CosineAttention,
    EntityEmbeddings,
    Prototypes,
    VocabularyAttention,
    WordKnowledge,
    entity_contrast,
    report_mean,
)
from mlip.cvpr24.proxies import FusionEncoder, draw_negatives, swap_texts
from mlip.cvpr24.word_patch import word_patch_similarity
from mlip.losses.contrastive import info_nce
from mlip.seeding import torch_generator
from mlip.text.reports import Report, split_sentences


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch_generator("unit", seed)), dim=-1)


def at_cosine(x: torch.Tensor, cosine: float) -> torch.Tensor:
    """A unit vector at the given cosine to each row of x."""
    other = unit(*x.shape, seed=9)
    other = functional.normalize(other - (other * x).sum(1, keepdim=True) * x, dim=-1)
    return cosine * x + math.sqrt(1 - cosine**2) * other


# ---- divergence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [16, 128, 768])
def test_neither_a_copy_nor_noise_is_optimal(dim: int) -> None:
    x = unit(16, dim)
    for loss in (band_hinge, distribution_divergence):
        copy, noise, between = (loss(x, at_cosine(x, c)).item() for c in (1.0, 0.0, 0.85))
        assert between < copy - 1e-3
        assert between < noise - 1e-3
    assert band_hinge(x, at_cosine(x, 0.7)).item() == pytest.approx(0.0, abs=1e-6)
    assert band_hinge(x, at_cosine(x, 0.3)).item() == pytest.approx(0.2, abs=1e-5)
    assert band_hinge(x, at_cosine(x, 0.95)).item() == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize("form", ["band", "kl"])
@pytest.mark.parametrize("start", ["copy", "noise"])
def test_the_divergence_encoder_settles_between_copy_and_noise(form: str, start: str) -> None:
    torch.manual_seed(0)
    x, draw = unit(64, 32), torch_generator("noise")
    encoder = DivergenceEncoder(32, 4, 8, strength=0.01 if start == "copy" else 10.0)

    def cosine() -> float:
        return (x * encoder(x, draw)).sum(1).mean().item()

    before = cosine()
    assert before > 0.97 if start == "copy" else before < 0.4
    optimizer = torch.optim.Adam(encoder.parameters(), 3e-2)
    for _ in range(150):
        loss = divergence_loss(x, encoder(x, draw), form, 0.5, 0.9, 2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 0.45 < cosine() < 0.95


def test_the_noise_drives_the_counterpart() -> None:
    torch.manual_seed(0)
    encoder, x = DivergenceEncoder(16, 4, 16, 0.8), unit(64, 16)
    one, same = (encoder(x, torch_generator("a")) for _ in range(2))
    assert torch.equal(one, same)
    assert (one - encoder(x, torch_generator("b"))).norm(dim=1).min() > 1e-2
    torch.testing.assert_close(one.norm(dim=1), torch.ones(64))


def test_the_distinct_part_is_no_constant_vector() -> None:
    """A bias that is the same for everybody is taken away, however large it is."""
    torch.manual_seed(0)
    encoder, x = DivergenceEncoder(16, 4, 16, 0.8), unit(64, 16)
    with torch.no_grad():
        encoder.mlp[2].bias.add_(50.0)
    distinct = distinct_part(x, encoder(x, torch_generator("a")))
    torch.testing.assert_close((distinct * x).sum(1), torch.zeros(64), atol=1e-5, rtol=0)
    assert distinct.mean(dim=0).square().sum() < 0.1


def test_the_reference_is_not_moved() -> None:
    x, y = unit(4, 8).requires_grad_(), unit(4, 8, seed=1).requires_grad_()
    for loss in (band_hinge, distribution_divergence):
        gx, gy = torch.autograd.grad(loss(x, y), (x, y), allow_unused=True)
        assert gx is None and gy.abs().sum() > 0


# ---- fusion ---------------------------------------------------------------------------------------------------------


def test_tucker_fusion_is_the_full_bilinear_form() -> None:
    torch.manual_seed(0)
    fusion = TuckerFusion(5, 4, 3, rank=2)
    x, k = torch.randn(6, 5), torch.randn(6, 4)
    a, b = fusion.factor_x(x), fusion.factor_k(k)
    expected = torch.zeros(6, 2)
    for i, j, o in itertools.product(range(2), repeat=3):
        expected[:, o] += fusion.core[i, j, o] * a[:, i] * b[:, j]
    torch.testing.assert_close(fusion(x, k), fusion.out(expected))


def test_fused_features_of_different_inputs_differ() -> None:
    torch.manual_seed(0)
    fusion, x = TuckerFusion(128, 128, 128, rank=32), unit(16, 128)
    z = functional.normalize(fusion(x, unit(1, 128, seed=1).expand(16, -1)), dim=-1)
    off = (z @ z.T)[~torch.eye(16, dtype=torch.bool)]
    assert off.abs().max() < 0.8  # nearly orthogonal inputs stay apart, also where the knowledge is the same


# ---- knowledge ------------------------------------------------------------------------------------------------------


def test_words_without_entities_stay_as_they_are() -> None:
    torch.manual_seed(0)
    layer, words = WordKnowledge(16, 4, 0.1), unit(2, 5, 16)
    knowledge = torch.randn(2, 3, 16, requires_grad=True)
    pad = torch.tensor([[False, False, True], [True, True, True]])
    out = layer(words, knowledge, pad)
    torch.testing.assert_close(out[1], words[1])
    assert (out[0] - words[0]).abs().max() > 1e-3
    (grad,) = torch.autograd.grad(out.sum(), knowledge)
    assert torch.isfinite(grad).all() and grad[0, :2].abs().sum() > 0
    assert grad[1].abs().sum() == 0 and grad[0, 2].abs().sum() == 0


def test_report_mean_and_vocabulary_attention() -> None:
    knowledge = torch.arange(12.0).reshape(2, 3, 2)
    pad = torch.tensor([[False, False, True], [True, True, True]])
    mean = report_mean(knowledge, pad, fallback=torch.full((2, 2), -1.0))
    torch.testing.assert_close(mean, torch.tensor([[2.0, 4.0], [-1.0, -1.0]]) / torch.tensor([[20**0.5], [1.0]]))
    torch.manual_seed(0)
    layer, x, vocabulary = VocabularyAttention(8, 2, 0.1), unit(3, 8), torch.randn(10, 8)
    together = layer(x, vocabulary)
    torch.testing.assert_close(together, torch.cat([layer(row[None], vocabulary) for row in x]))
    torch.testing.assert_close(together, layer(x, vocabulary.flip(0)), rtol=1e-4, atol=1e-5)


def test_what_is_read_depends_on_the_query_and_on_the_knowledge() -> None:
    """With a dot product over sqrt(d) the weights of unit vectors are uniform, and everybody reads the same."""
    torch.manual_seed(0)
    attention, x, vocabulary = CosineAttention(64, 4, 0.1), unit(20, 64), unit(321, 64, seed=1)
    read = attention(x[:, None], vocabulary[None]).squeeze(1)
    torch.testing.assert_close(read.norm(dim=1), torch.ones(20))
    off = (read @ read.T)[~torch.eye(20, dtype=torch.bool)]
    assert off.mean() < 0.8
    assert (
        functional.cosine_similarity(read, attention(x[:, None], vocabulary.roll(5, 0)[None] * 0 + 1).squeeze(1)).mean()
        < 0.5
    )
    words, pad = unit(1, 7, 64, seed=2), torch.zeros(1, 3, dtype=torch.bool)
    with_one, with_other = (WordKnowledge(64, 4, 0.1)(words, unit(1, 3, 64, seed=k), pad) for k in (3, 4))
    assert functional.cosine_similarity(with_one, with_other, dim=-1).max() < 0.95


def test_entities_are_told_from_their_common_part() -> None:
    torch.manual_seed(0)
    table = torch.randn(30, 8) + 20.0  # nearly one direction
    vocabulary = EntityEmbeddings(table, 16).vocabulary()
    off = (vocabulary @ vocabulary.T)[~torch.eye(30, dtype=torch.bool)]
    assert off.mean().abs() < 0.2


def test_word_patch_similarity_is_the_sum_over_words_of_attended_cosines() -> None:
    patches, words = unit(3, 5, 8).double(), unit(2, 4, 8, seed=1).double()
    weights = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25]]).double()
    found = word_patch_similarity(patches, words, weights, 0.1)
    for i, j in itertools.product(range(3), range(2)):
        total = 0.0
        for k in range(4):
            context = ((words[j, k] @ patches[i].T) / 0.1).softmax(dim=0) @ patches[i]
            total += weights[j, k].item() * functional.cosine_similarity(words[j, k], context, dim=0).item()
        assert found[i, j].item() == pytest.approx(total, abs=1e-6)


def test_entity_contrast_rewards_alignment_and_spares_twins() -> None:
    entities = torch.tensor([[0, 1], [2, -1], [0, -1]])
    table = unit(3, 16)
    knowledge = table[entities.clamp_min(0)]
    keys = torch.stack([table[[0, 1]], table[[2, 2]], table[[0, 0]]])  # what each report's words show
    aligned = entity_contrast(knowledge, entities, keys, None, 0.1)
    wrong = entity_contrast(knowledge, entities, keys.roll(1, 0), None, 0.1)
    # Entity 0 in two reports with the same context: were twins negatives, the loss could not fall below ln 2 / 2.
    assert aligned < 0.05 < wrong
    pad = torch.tensor([[False, True]] * 3)
    assert not torch.allclose(entity_contrast(knowledge, entities, keys, pad, 0.1), aligned)
    assert entity_contrast(knowledge, torch.full((3, 2), -1), keys, None, 0.1) == 0


def test_prototypes_are_anchored_to_the_knowledge() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(6, 4)
    prototypes = Prototypes(embeddings, 8, count=10, anchors=8)  # more anchors asked for than entities
    assert prototypes.anchors.shape == (6, 4) and prototypes.free.shape == (4, 8)
    out = prototypes()
    torch.testing.assert_close(out.norm(dim=1), torch.ones(10))
    with torch.no_grad():
        prototypes.project.weight.mul_(-1)
    torch.testing.assert_close(prototypes()[:6], -out[:6])  # anchored rows move with W only ...
    torch.testing.assert_close(prototypes()[6:], out[6:])  # ... the others do not
    # With fewer anchors than entities, the anchors are cluster centres: here, three tight groups of two.
    groups = torch.eye(4)[[0, 0, 1, 1, 2, 2]] + 0.01 * torch.randn(6, 4)
    centres = Prototypes(groups, 8, count=5, anchors=3).anchors
    assert (centres @ torch.eye(4)[:3].T).max(dim=0).values.min() > 0.99
    assert Prototypes(embeddings, 8, count=5, anchors=0).project is None
    assert Prototypes(embeddings, 8, count=5, anchors=5).free is None


# ---- proxies --------------------------------------------------------------------------------------------------------


def test_negatives_differ_in_findings_and_grow_harder() -> None:
    logits = torch.zeros(4, 4)
    logits[0, 2] = logits[3, 1] = 12.0
    logits[0, 0] = 30.0
    excluded, alike = torch.eye(4, dtype=torch.bool), torch.eye(4)
    own = torch.arange(4)
    images, texts = draw_negatives(logits, excluded, alike, 1.0, torch_generator("n"))
    assert texts[0] == 2 and texts[3] == 1 and images[2] == 0 and images[1] == 3
    assert (images != own).all() and (texts != own).all()
    # At hardness 0 all are as likely, whatever the similarity says.
    easy = [draw_negatives(logits, excluded, alike, 0.0, torch_generator("n", i))[1][0].item() for i in range(90)]
    assert all(20 <= easy.count(k) <= 40 for k in (1, 2, 3))
    # Who has the same findings is no negative, an excluded row falls back to itself.
    alike[0, 2] = 1.0
    draws = [draw_negatives(logits, excluded, alike, 1.0, torch_generator("n", i))[1][0].item() for i in range(50)]
    assert draws.count(2) < 5
    images, texts = draw_negatives(logits, torch.ones(4, 4, dtype=torch.bool), alike, 1.0, torch_generator("n"))
    assert torch.equal(images, own) and torch.equal(texts, own)


SAYS = {
    "An effusion": {"effusion": True},
    "No effusion": {"effusion": False},
    "A mass": {"mass": True},
    "No mass": {"mass": False},
    "Quiet": {},
}


def test_swapped_sentences_contradict_the_report_and_stand_in_its_place() -> None:
    reports = [Report(sentences=s) for s in (["Quiet", "An effusion"], ["No effusion", "Quiet"], ["A mass", "Quiet"])]
    told = [{"effusion"}, set(), {"mass"}]
    seen = set()
    for trial in range(40):
        index, texts = swap_texts(reports, torch.arange(3), "sentence", 1.0, torch_generator(trial), SAYS.__getitem__)
        assert index == [0, 1, 2]
        for i, text in zip(index, texts, strict=True):
            sentences = split_sentences(text)
            (foreign,) = [s for s in sentences if s not in reports[i].sentences]
            ((finding, there),) = SAYS[foreign].items()
            assert there != (finding in told[i]) and len(sentences) == 2
            mentioned = [k for k, s in enumerate(reports[i].sentences) if finding in SAYS[s]]
            if mentioned:  # the sentence about the same finding is gone: the text does not contradict itself
                assert sentences[mentioned[0]] == foreign
            seen.add((i, foreign))
    assert {(0, "No effusion"), (0, "A mass"), (1, "An effusion"), (2, "An effusion")} <= seen
    assert (1, "No mass") not in seen
    index, texts = swap_texts(reports, torch.arange(3), "report", 1.0, torch_generator("r"), SAYS.__getitem__)
    assert all(
        not set(split_sentences(t)) - {"Quiet"} & set(reports[i].sentences) for i, t in zip(index, texts, strict=True)
    )
    assert swap_texts(reports, torch.arange(3), "sentence", 0.0, torch_generator("s"), SAYS.__getitem__) == ([], [])


def test_whom_nobody_contradicts_is_not_swapped() -> None:
    reports = [Report(sentences=["No effusion", "Quiet"]), Report(sentences=["Quiet", "No mass"])]
    for trial in range(5):
        found = swap_texts(reports, torch.arange(2), "sentence", 1.0, torch_generator(trial), SAYS.__getitem__)
        assert found == ([], [])
    same = [Report(sentences=["An effusion"]), Report(sentences=["No effusion"])]
    one_patient = torch.zeros(2, dtype=torch.int64)
    assert swap_texts(same, one_patient, "sentence", 1.0, torch_generator("p"), SAYS.__getitem__) == ([], [])


def test_fusion_reads_image_and_text_but_no_padding() -> None:
    torch.manual_seed(0)
    fusion = FusionEncoder(8, 6, 16, 2, 2)
    hidden, patches = torch.randn(2, 5, 8), torch.randn(2, 4, 6)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    base = fusion(hidden, mask, patches)
    assert base.shape == (2, 16)
    padded, word, image = hidden.clone(), hidden.clone(), patches.clone()
    padded[0, 3:], word[0, 2], image[0, 1] = 7.0, 7.0, 7.0
    torch.testing.assert_close(fusion(padded, mask, patches), base)
    for changed in (fusion(word, mask, patches), fusion(hidden, mask, image)):
        assert (changed[0] - base[0]).abs().max() > 1e-3
        torch.testing.assert_close(changed[1], base[1])


# ---- false negatives ------------------------------------------------------------------------------------------------


def test_overlap_is_jaccard_s_index_of_findings() -> None:
    # Entities 0 and 3 stand for the same observation, 2 is anatomy.
    observations = observations_of(["effusion", "mass", None, "effusion", "edema"])
    entities = torch.tensor([[0, 1, -1], [1, 4, -1], [3, 1, 2], [2, -1, -1], [-1, -1, -1], [1, 4, 2]])
    sets = finding_sets(entities, observations)
    names = [{0, 1}, {1, 2}, {0, 1}, set(), set(), {1, 2}]
    assert [set(row.nonzero().squeeze(1).tolist()) for row in sets] == names
    for empty in (0.0, 1.0):
        overlap = overlap_of(sets, empty)
        for i, j in itertools.product(range(6), repeat=2):
            union = len(names[i] | names[j])
            expected = 1.0 if i == j else len(names[i] & names[j]) / union if union else empty
            assert overlap[i, j].item() == pytest.approx(expected)


def test_soft_targets_and_their_loss() -> None:
    overlap = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    targets = soft_targets(overlap, 0.3)
    torch.testing.assert_close(targets.sum(1), torch.ones(3))
    torch.testing.assert_close(targets[0], torch.tensor([0.7 + 0.2, 0.1, 0.0]))
    assert torch.equal(targets[2], torch.tensor([0.0, 0.0, 1.0]))
    a, b = unit(3, 8), unit(3, 8, seed=1)
    torch.testing.assert_close(soft_info_nce(a, b, 0.07, torch.eye(3)), info_nce(a, b, 0.07))


def test_soft_targets_bring_false_negatives_closer_than_plain_infonce() -> None:
    """Free embeddings of 12 pairs in 4 groups of equal findings, trained with and without knowledge overlap."""
    entities = torch.arange(4).repeat(3).unsqueeze(1)
    findings = [{str(e)} for e in entities.squeeze(1).tolist()]
    similarity = {}
    for weight in (0.0, 0.3):
        image, text = unit(12, 8).requires_grad_(), unit(12, 8, seed=1).requires_grad_()
        sets = finding_sets(entities, observations_of(list("abcd")))
        targets = soft_targets(overlap_of(sets, 0.0), weight)
        optimizer = torch.optim.Adam([image, text], 0.05)
        for _ in range(150):
            loss = soft_info_nce(image, text, 0.1, targets) + soft_info_nce(text, image, 0.1, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        similarity[weight] = functional.normalize(image, dim=1) @ functional.normalize(text, dim=1).T
    groups = pair_groups(findings, np.arange(12))
    plain, soft = (closeness(similarity[w].detach().numpy(), groups) for w in (0.0, 0.3))
    assert soft["equal findings"] > plain["equal findings"] + 0.2
    assert soft["auroc"] > 0.95 > plain["auroc"]
