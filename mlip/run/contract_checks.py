"""The contract suite: what every method folder must pass, ours and third parties' (``mlip check-baseline``)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mlip.contract import Batch, Method, MethodContext
from mlip.encoders.image import ImageEncoder
from mlip.encoders.text import TextEncoder
from mlip.errors import UserError
from mlip.knowledge.entities import build_knowledge
from mlip.methods import Entry, method_class
from mlip.seeding import generator, seed_everything, torch_generator
from mlip.study import ImageEncoderConfig, KnowledgeConfig, TextEncoderConfig
from mlip.text.reports import Report, parse_report
from mlip.text.tokenisation import train_tokenizer

SIZE = 48
REPORTS = [
    "FINDINGS: There is a small left pleural effusion. The heart is normal in size. IMPRESSION: Small left pleural effusion.",
    "FINDINGS: Right lower lobe consolidation. No pneumothorax. IMPRESSION: Right lower lobe pneumonia.",
    "FINDINGS: The lungs are clear. There is no pneumothorax or effusion. IMPRESSION: No acute process.",
    "FINDINGS: Moderate cardiomegaly. Mild pulmonary edema. IMPRESSION: Cardiomegaly with mild edema.",
    "FINDINGS: Large right pneumothorax. A chest tube is in place. IMPRESSION: Right pneumothorax.",
    "FINDINGS: Linear atelectasis at the left base. Otherwise clear. IMPRESSION: Left basilar atelectasis.",
    "IMPRESSION: Possible nodule in the right upper lobe. Recommend follow-up.",
    "FINDINGS: Bilateral effusions, unchanged. IMPRESSION: Stable bilateral pleural effusions.",
]


def tiny_method(entry: Entry) -> Method:
    """The method with toy encoders, as the contract suite and the tests build it."""
    config = (
        ImageEncoderConfig(name="resnet", args={"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]})
        if entry.encoder == "cnn"
        else ImageEncoderConfig(name="vit", args={"patch_size": 12, "embed_dim": 32, "depth": 2, "num_heads": 2})
    )
    seed_everything("contract", entry.name)
    text = TextEncoderConfig(layers=2, dim=32, heads=2, vocabulary=300, max_tokens=48)
    tokenizer = train_tokenizer([r.text for r in reports()], text.vocabulary, text.max_tokens)
    knowledge = (
        build_knowledge(KnowledgeConfig(dim=16, epochs=1), 0) if "knowledge" in entry.manifest.capabilities else None
    )
    context = MethodContext(
        ImageEncoder(config, entry.encoder, SIZE),
        TextEncoder(text, tokenizer.vocabulary),
        tokenizer,
        knowledge,
        dict(entry.params),
        dict(entry.components),
    )
    return method_class(entry.folder)(context)


def reports() -> list[Report]:
    return [parse_report(raw) for raw in REPORTS]


def tiny_batch(method: Method, step: int = 0) -> Batch:
    """Eight made-up pairs; the same for the same step."""
    parsed, rng = reports(), generator("contract-text", step)
    texts = [method.text_view(report, rng) for report in parsed]
    draw = torch_generator("contract-images", step)
    return Batch(
        images=torch.rand(len(parsed), 3, SIZE, SIZE, generator=draw) * 2 - 1,
        texts=texts,
        tokens=method.tokenizer(texts),
        reports=parsed,
        patients=torch.arange(len(parsed)),
        entities=torch.tensor([[0, 1], [2, -1], [-1, -1], [3, 4], [5, -1], [1, -1], [-1, -1], [0, -1]]),
        epoch=0,
        step=step,
        epochs=1,
        generator=torch_generator("contract-method", step),
    )


def run_contract(entry: Entry) -> Iterator[str]:
    """Each check as a printed line; raises UserError at the first that fails."""
    where = entry.folder / "model.py"

    def demand(truth: bool, problem: str, fix: str) -> None:
        if not truth:
            raise UserError(problem, where=where, fix=fix)

    method = tiny_method(entry)
    if entry.manifest.trained:
        method.train()
        terms = method.losses(tiny_batch(method))
        demand(bool(terms), "losses() returns no term", "return at least one scalar")
        for name, term in terms.items():
            demand(
                term.ndim == 0 and bool(torch.isfinite(term)),
                f"the term {name!r} is not a finite scalar",
                "reduce it over the batch",
            )
        unknown = set(method.loss_weights()) - set(terms)
        demand(
            not unknown, f"loss_weights() names {sorted(unknown)}, which losses() does not return", "use the same names"
        )
        sum(terms.values()).backward()  # type: ignore[union-attr]
        for part in ("image_encoder", "text_encoder"):
            grads = [p.grad for p in getattr(method, part).parameters() if p.grad is not None]
            demand(
                any(bool(g.abs().sum() > 0) for g in grads),
                f"no gradient reaches the {part}",
                "use its output in the loss",
            )
        yield f"losses {', '.join(terms)}"
    method.eval()
    with torch.no_grad():
        images = tiny_batch(method).images
        one, again = method.encode_image(images), method.encode_image(images)
        demand(
            one.pooled.shape == (len(images), method.image_encoder.dim),
            "pooled is not the encoder's own feature [B, D]",
            "return image_encoder(images).pooled",
        )
        demand(
            one.grid.ndim == 4 and one.grid.shape[0] == len(images),
            "grid is not [B, h, w, D']",
            "return the patch grid",
        )
        demand(
            torch.equal(one.joint, again.joint),
            "encode_image is random in eval mode",
            "switch randomness off when not training",
        )
        yield f"encode_image joint {tuple(one.joint.shape)}, grid {tuple(one.grid.shape)}"
        if "zero_shot" in entry.manifest.capabilities:
            text = method.encode_text([r.text for r in reports()[:3]])
            scores = method.similarity(one, text)
            demand(
                scores.shape == (len(images), 3) and bool(torch.isfinite(scores).all()),
                "similarity is not finite [B_image, B_text]",
                "see mlip/contract.py",
            )
            yield f"similarity {tuple(scores.shape)}"
    state = method.state_dict()
    fresh = tiny_method(entry)
    fresh.load_state_dict(state, strict=True)
    yield "weights load strictly"
