"""Each method at the papers' size: builds, and takes a training step on the CPU with two pairs and random weights."""

from __future__ import annotations

import pytest
import torch

from mlip.contract import Batch, MethodContext
from mlip.encoders.image import ImageEncoder
from mlip.encoders.text import TextEncoder
from mlip.knowledge.entities import build_knowledge
from mlip.methods import entries, method_class, recipe_of
from mlip.pretraining.loop import _decay_groups
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
    image = STUDY.encoders.cnn if entry.encoder == "cnn" else STUDY.encoders.vit
    text = STUDY.encoders.text.model_copy(update={"pretrained": None})
    seed_everything("paper", name)
    pairs = reports()[:2]
    tokenizer = train_tokenizer([r.text for r in reports()], 300, text.max_tokens)
    needs_knowledge = "knowledge" in entry.manifest.capabilities
    context = MethodContext(
        ImageEncoder(image.model_copy(update={"pretrained": None}), entry.encoder, STUDY.image_size),
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
    images = torch.rand(2, 3, STUDY.image_size, STUDY.image_size, generator=torch_generator("paper")) * 2 - 1
    draw = torch_generator("paper-method")
    batch = Batch.of(method, pairs, texts, [[0, 1], [2]], images, torch.arange(2), draw, epoch=1, epochs=recipe.epochs)
    optimizer = torch.optim.AdamW(_decay_groups(method, recipe.weight_decay), lr=recipe.lr, betas=recipe.betas)
    before = {n: p.detach().clone() for n, p in method.named_parameters() if n.startswith("head")}
    loss = total(method, method.losses(batch))
    assert torch.isfinite(loss)
    loss.backward()
    method.on_backward(batch)
    optimizer.step()
    after = dict(method.named_parameters())
    assert any(not torch.equal(value, after[n]) for n, value in before.items())
    assert all(bool(torch.isfinite(p).all()) for p in after.values())
