"""Checks of what a method says in training: its losses, their gradients, and what they draw from."""

from __future__ import annotations

import copy
import math
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from mlip.contract import Batch, Method
from mlip.errors import UserError
from mlip.run.contract.steps import losses_at, toy_training
from mlip.run.contract.subject import EPOCHS, Subject, same
from mlip.run.contract.world import reports
from mlip.seeding import generator, seed_everything


def check_losses_are_finite_scalars(subject: Subject) -> None:
    """``losses`` returns at least one named term, each a finite scalar tensor, in each epoch."""
    method = subject.fresh().train()
    for step in range(EPOCHS):
        _demand_scalars(subject, "losses", method.losses(subject.batch(method, step)))


def check_losses_work_in_validation(subject: Subject) -> None:
    """``losses`` gives finite scalars in eval mode without gradient too, as the validation calls it."""
    method = subject.fresh().eval()
    with torch.no_grad():
        _demand_scalars(subject, "losses", method.losses(subject.batch(method)), "in eval mode ")


def check_loss_weights_name_terms(subject: Subject) -> None:
    """``loss_weights`` gives finite numbers to terms that ``losses`` returns, and to no others."""
    weights = subject.fresh().train().loss_weights()
    for name, value in weights.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise subject.refusal(
                "loss_weights",
                f"the weight of {name!r} is {value!r}",
                "give a finite number, float(...) of a parameter",
            )
    terms = toy_training(subject).terms
    if unknown := sorted(set(weights) - terms):
        raise subject.refusal(
            "loss_weights",
            f"loss_weights() names {unknown}, losses() returns {sorted(terms)}",
            "use the same names in both",
        )


def check_losses_leave_the_batch_unchanged(subject: Subject) -> None:
    """``losses`` does not write into the batch it is given."""
    method = subject.fresh().train()
    batch = subject.batch(method)
    before = _contents(batch)
    method.losses(batch)
    after = _contents(batch)
    for name, values in before.items():
        if not _equal(values, after[name]):
            raise subject.refusal(
                "losses",
                f"losses() changes batch.{name} in place",
                f"work on a copy: batch.{name.split('.')[0]}.clone()",
            )


def check_losses_repeat(subject: Subject) -> None:
    """The same weights, batch and seeds give the same losses, so that a training can be repeated and resumed."""
    one, again = (losses_at(subject, 0) for _ in range(2))
    if moved := [name for name in one if not same(one[name], again.get(name, one[name] + 1))]:
        raise subject.refusal(
            "losses",
            f"{_listed('the term', moved)} differs between two calls with the same batch and the same seeds",
            "draw from batch.generator only, not from a generator of your own, the clock or an unordered set",
        )


def check_losses_draw_from_the_batch_generator(subject: Subject) -> None:
    """Apart from dropout layers, random choices in ``losses`` come from ``batch.generator``, not from the global state."""
    one, other = (losses_at(subject, seed, dropout=False) for seed in (0, 1))
    if moved := [name for name in one if not same(one[name], other.get(name, one[name] + 1))]:
        raise subject.refusal(
            "losses",
            f"{_listed('the term', moved)} changes with the global seed of torch, numpy or random",
            "give every random call generator=batch.generator (a CPU generator: draw there, then .to(device))",
        )


def check_gradients_reach_every_parameter(subject: Subject) -> None:
    """Over three steps each parameter gets a gradient from the weighted sum of the losses, or has requires_grad False."""
    training = toy_training(subject)
    trained, silent = training.trained, training.silent
    if not trained:
        raise subject.refusal(
            "__init__", "no parameter is trained, all have requires_grad False", "set `trained: false` in method.yaml"
        )
    if len(silent) == len(trained):
        raise subject.refusal("losses", "the losses have no gradient", "compute them from trained layers, undetached")
    if silent:
        parts = _collapsed(silent, trained)
        raise subject.refusal(
            parts[0].split(".")[0].split(" ")[0],
            f"no gradient reaches {', '.join(parts[:4])}{f' and {len(parts) - 4} more' if len(parts) > 4 else ''}",
            "use it in losses(), delete it, or freeze it with requires_grad_(False)",
        )


def check_gradients_are_finite(subject: Subject) -> None:
    """Over three optimiser steps all gradients and weights stay finite."""
    if broken := toy_training(subject).broken:
        raise subject.refusal(
            "losses",
            f"the gradient of {broken[0]} is not finite{f', nor of {len(broken) - 1} more' if len(broken) > 1 else ''}",
            "look for a square root, norm or logarithm at zero, or a softmax over nothing",
        )


def check_pair_terms_name_terms(subject: Subject) -> None:
    """``pair_terms`` gives finite scalars under names of ``losses``, differentiable in the joint embeddings."""
    terms, method = toy_training(subject).terms, subject.ready
    batch = subject.batch(method)
    with torch.no_grad():
        pair = method.encode_image(batch.images).joint, method.encode_text(batch.texts).joint
    image, text = (x.detach().clone().requires_grad_() for x in pair)
    found = method.pair_terms(image, text, batch)
    if unknown := sorted(set(found) - terms):
        raise subject.refusal(
            "pair_terms",
            f"pair_terms() names {unknown}, losses() returns {sorted(terms)}",
            "use the same names in both",
        )
    if found:
        _demand_scalars(subject, "pair_terms", found)
    for name, term in found.items():
        if not term.requires_grad or all(
            g is None for g in torch.autograd.grad(term, (image, text), retain_graph=True, allow_unused=True)
        ):
            raise subject.refusal(
                "pair_terms",
                f"the term {name!r} does not depend on the embeddings given",
                "compute it from image and text",
            )


def check_text_view_draws_from_its_rng(subject: Subject) -> None:
    """``text_view`` returns a text that depends on the report and the ``rng`` it is given alone."""
    views = []
    for seed in (0, 1):
        method = subject.fresh()
        seed_everything("contract-global", seed)
        views.append(_views(subject, method))
    if views[0] != views[1]:
        raise subject.refusal(
            "text_view",
            "text_view() gives different texts for the same report and rng",
            "draw from the rng argument only (numpy's Generator)",
        )


def check_losses_take_reports_without_entities(subject: Subject) -> None:
    """A batch in which no entity was linked gives finite losses."""
    method = subject.fresh().train()
    batch = subject.batch(method)
    batch.entities = torch.full((len(batch.images), 1), -1)
    _demand_scalars(subject, "losses", method.losses(batch), "for reports without entities ")


def check_knowledge_can_be_forgotten(subject: Subject) -> None:
    """``forget_knowledge`` makes all entities alike, and some loss is then another one: the knowledge is used."""
    method = subject.fresh().eval()
    try:
        with torch.no_grad():
            before = method.losses(subject.batch(method))
            method.forget_knowledge()
            after = method.losses(subject.batch(method))
    except NotImplementedError:
        raise subject.refusal(
            "forget_knowledge", "is not there, and the method lists `knowledge`", "override it, see mlip/contract.py"
        ) from None
    if all(torch.equal(before[name], after[name]) for name in before):
        raise subject.refusal(
            "forget_knowledge",
            "changes no loss term",
            "let a term read the knowledge, or take `knowledge` out of method.yaml",
        )


# --- how they are measured --------------------------------------------------------------------------------------------


def _demand_scalars(subject: Subject, function: str, terms: Any, when: str = "") -> None:
    if not isinstance(terms, dict) or not terms:
        raise subject.refusal(
            function, f"{function}() returns {when}{terms if terms == {} else type(terms).__name__}, no term",
            "return a dict of scalar tensors by name",
        )  # fmt: skip
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.ndim:
            got = f"a tensor {tuple(term.shape)}" if isinstance(term, Tensor) else f"a {type(term).__name__}"
            raise subject.refusal(function, f"the term {name!r} is {when}{got}, no scalar", "reduce it: .mean()")
        if not bool(torch.isfinite(term)):
            raise subject.refusal(
                function,
                f"the term {name!r} is {when}{term.item()}, not finite",
                "look for a logarithm or division at zero, or a softmax over nothing",
            )


def _collapsed(silent: list[str], trained: list[str]) -> list[str]:
    """``text_encoder (all 38 parameters)`` instead of the 38: the largest modules of which every parameter is silent."""
    parts: dict[str, None] = {}
    for name in silent:
        pieces = name.split(".")
        for depth in range(1, len(pieces) + 1):
            prefix = ".".join(pieces[:depth])
            below = [n for n in trained if n == prefix or n.startswith(f"{prefix}.")]
            if set(below) <= set(silent):
                parts[prefix if below == [prefix] else f"{prefix} (all {len(below)} parameters)"] = None
                break
    return list(parts)


def _contents(batch: Batch) -> dict[str, Any]:
    """Copies of everything in the batch but its generator, by field."""
    found: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if field.name == "tokens":
            found |= {f"tokens.{name}": tensor.clone() for name, tensor in value.tensors.items()}
        elif field.name != "generator":
            found[field.name] = value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
    return found


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


def _views(subject: Subject, method: Method) -> list[str]:
    rng = generator("contract-text-view")
    views = [method.text_view(report, rng) for _ in range(3) for report in reports()]
    if wrong := next((v for v in views if not isinstance(v, str)), None):
        raise UserError(
            f"text_view() returns a {type(wrong).__name__}", where=subject.line_of("text_view"), fix="return one text"
        )
    return views


def _listed(what: str, names: list[str]) -> str:
    return f"{what} {', '.join(map(repr, names))}"
