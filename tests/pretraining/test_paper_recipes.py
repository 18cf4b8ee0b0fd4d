"""Each method at the papers' size: builds, and takes a training step on the CPU with two pairs and random weights."""

from __future__ import annotations

import pytest
import torch

from mlip.contract import Batch, MethodContext
from mlip.encoders.image import ImageEncoder
from mlip.encoders.text import TextEncoder
from mlip.knowledge.entities import build_knowledge
from mlip.methods import entries, method_class, recipe_of
from mlip.pretraining.optimizers import build_optimizer
from mlip.run.contract.world import reports
from mlip.seeding import generator, seed_everything, torch_generator
from mlip.study import KnowledgeConfig, load_study
from mlip.text.tokenisation import train_tokenizer
from tests.conftest import ROOT
from tests.methods import total
from tests.ours import our_methods

STUDY = load_study(ROOT / "config" / "paper.yaml")
OURS = set(our_methods().values())
ROWS = {name: e for name, e in entries(STUDY)[0].items() if e.manifest.trained and e.folder in OURS}
BERT_PIECES = 28996  # Bio_ClinicalBERT's vocabulary, which is BERT-base cased's


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_paper_recipe_takes_a_step(name: str) -> None:
    entry, recipe = ROWS[name], recipe_of(ROWS[name], STUDY)
    image = entry.image_config(STUDY)
    text = STUDY.encoders.text.model_copy(update={"pretrained": None})
    seed_everything("paper", name)
    pairs = reports()[:2]
    tokenizer = train_tokenizer([r.text for r in reports()], 300, text.max_tokens)
    needs_knowledge = "knowledge" in entry.manifest.capabilities
    context = MethodContext(
        ImageEncoder(image.model_copy(update={"pretrained": None}), entry.encoder, STUDY.input_side),
        TextEncoder(text, BERT_PIECES),
        tokenizer,
        build_knowledge(KnowledgeConfig(dim=STUDY.knowledge.dim, epochs=1), 0) if needs_knowledge else None,
        dict(entry.params),
        dict(entry.components),
    )
    method = method_class(entry.folder)(context).train()
    assert sum(p.numel() for p in method.image_encoder.parameters()) > 20e6
    assert method.text_encoder.dim == 768 and method.text_encoder.depth in (6, 12)

    rng = generator("paper-text")
    texts = [method.text_view(report, rng) for report in pairs]
    images = torch.rand(2, 3, STUDY.input_side, STUDY.input_side, generator=torch_generator("paper")) * 2 - 1
    draw = torch_generator("paper-method")
    batch = Batch.of(method, pairs, texts, [[0, 1], [2]], images, torch.arange(2), draw, epoch=1, epochs=recipe.epochs)
    optimizer = build_optimizer(method, recipe)
    before = {n: p.detach().clone() for n, p in method.named_parameters() if n.startswith("head")}
    loss = total(method, method.losses(batch))
    assert torch.isfinite(loss)
    loss.backward()
    method.on_backward(batch)
    optimizer.step()
    after = dict(method.named_parameters())
    assert any(not torch.equal(value, after[n]) for n, value in before.items())
    assert all(bool(torch.isfinite(p).all()) for p in after.values())


STARTS = {  # row -> network and weights, and the side that it sees
    "convirt": ("resnet50.tv_in1k", None),
    "gloria": ("resnet50.tv_in1k", 299),
    "mgca": ("resnet50.tv_in1k", 299),
    "mgca-vit": ("deit_base_patch16_224.fb_in1k", None),
    "cvpr24": ("resnet50.tv_in1k", 299),
    "cvpr24-vit": ("deit_base_patch16_224.fb_in1k", None),
    "isbi24": ("vit_base_patch16_224.mae", None),
}


def test_rows_start_from_what_their_recipe_names_and_each_start_has_its_control() -> None:
    rows = entries(STUDY)[0]
    found = {name: (rows[name].image_config(STUDY).name, rows[name].image_config(STUDY).input_size) for name in ROWS}
    assert found == STARTS
    assert all(rows[name].image_config(STUDY).pretrained == "hub" for name in STARTS)
    shown = [e.image_config(STUDY) for e in rows.values() if e.manifest.id == "imagenet"]
    assert {(c.name, c.input_size, c.pretrained) for c in shown} == {(*start, "hub") for start in STARTS.values()}
    own = STUDY.model_copy(update={"encoders": STUDY.encoders.model_copy(update={"start": "study"})})
    assert {e.image_config(own).name for n, e in entries(own)[0].items() if n in STARTS} == {
        STUDY.encoders.cnn.name,
        STUDY.encoders.vit.name,
    }


def test_recipes_are_the_official_codes() -> None:
    """What stands in the official codes (mgca_module.py, gloria/builder.py, MaCo's main_pretrain.py, ConVIRT-pytorch's train.py)."""
    found = {n: (r.optimizer, r.decay, r.precision, r.clip) for n, e in ROWS.items() for r in [recipe_of(e, STUDY)]}
    assert found["mgca"] == found["cvpr24"] == ("adamw", "all", "32-true", None)
    assert found["gloria"] == ("adam", "all", "16-mixed", 0.25)
    assert found["convirt"] == ("adam", "all", "32-true", None)
    assert found["isbi24"] == ("adamw", "no_norm_bias", "16-mixed", None)
    assert (STUDY.image_size, STUDY.crop_size) == (256, 224)
