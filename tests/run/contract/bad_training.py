"""Methods with one mistake in training each."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn

from tests.run.contract.cases import refused
from tests.run.contract.good import EVERYTHING, Good


@refused("check_losses_are_finite_scalars", r"'local' is a tensor \(8,\), no scalar")
class VectorTerm(Good):
    def losses(self, batch):
        return super().losses(batch) | {"local": self.image_encoder(batch.images).pooled.mean(dim=1)}


@refused("check_losses_are_finite_scalars", "'local' is nan, not finite")
class NotFiniteTerm(Good):
    def losses(self, batch):
        terms = super().losses(batch)
        return terms | {"local": terms["local"] / 0 * 0}


@refused("check_losses_are_finite_scalars", r"returns \{\}, no term")
class NoTerm(Good):
    def losses(self, batch):
        return {}


@refused("check_losses_work_in_validation", "not finite")
class NaNInValidation(Good):
    def losses(self, batch):
        terms = super().losses(batch)
        return terms if self.training else {name: term * float("nan") for name, term in terms.items()}


@refused("check_loss_weights_name_terms", r"names \['locla'\], losses\(\) returns \['contrast', 'local'\]")
class UnknownWeight(Good):
    def loss_weights(self):
        return {"locla": 0.5}


@refused("check_losses_leave_the_batch_unchanged", "changes batch.images in place")
class WritesIntoTheBatch(Good):
    def losses(self, batch):
        batch.images.mul_(0.5)
        return super().losses(batch)


@refused("check_losses_repeat", "'local' differs between two calls")
class OwnGenerator(Good):
    def losses(self, batch):
        terms = super().losses(batch)
        return terms | {"local": terms["local"] * np.random.default_rng().random()}


@refused("check_losses_draw_from_the_batch_generator", "'contrast' changes with the global seed")
class GlobalTorch(Good):
    def pair_terms(self, image, text, batch):
        return super().pair_terms(image + 0.1 * torch.randn_like(image), text, batch)


@refused("check_losses_draw_from_the_batch_generator", "'local' changes with the global seed")
class GlobalPython(Good):
    def losses(self, batch):
        terms = super().losses(batch)
        return terms | {"local": terms["local"] * random.random()}


@refused("check_gradients_reach_every_parameter", r"no gradient reaches unused \(all 2 parameters\)")
class UnusedLayer(Good):
    def __init__(self, context):
        super().__init__(context)
        self.unused = nn.Linear(4, 4)


@refused("check_gradients_reach_every_parameter", r"no gradient reaches text_encoder \(all \d+ parameters\), text_head")
class DetachedText(Good):
    def text(self, tokens):
        return super().text(tokens).detach()


@refused("check_gradients_reach_every_parameter", "the losses have no gradient")
class NoGradient(Good):
    def losses(self, batch):
        return {name: term.detach() for name, term in super().losses(batch).items()}

    def pair_terms(self, image, text, batch):
        return super().pair_terms(image, text, batch)


@refused("check_gradients_reach_every_parameter", "no parameter is trained")
class AllFrozen(Good):
    def __init__(self, context):
        super().__init__(context)
        self.requires_grad_(False)


@refused("check_gradients_are_finite", "gradient of image_head.weight is not finite")
class RootAtZero(Good):
    def losses(self, batch):
        terms = super().losses(batch)
        return terms | {"local": terms["local"] + (self.image_head.weight * 0).sum().sqrt()}


@refused("check_pair_terms_name_terms", r"names \['contrasts'\]")
class UnknownPairTerm(Good):
    def losses(self, batch):
        return {name.removesuffix("s"): term for name, term in super().losses(batch).items()}

    def loss_weights(self):
        return {}

    def pair_terms(self, image, text, batch):
        return {"contrasts": super().pair_terms(image, text, batch)["contrast"]}


@refused("check_text_view_draws_from_its_rng", "different texts for the same report and rng")
class GlobalTextView(Good):
    def text_view(self, report, rng):
        return random.choice(report.sentences)


@refused("check_losses_take_reports_without_entities", "'local' is for reports without entities nan",
         capabilities=[*EVERYTHING, "knowledge"])  # fmt: skip
class NeedsEntities(Good):
    def __init__(self, context):
        super().__init__(context)
        self.register_buffer("known", torch.ones(1))

    def losses(self, batch):
        linked = (batch.entities >= 0).float()
        terms = super().losses(batch)
        return terms | {"local": terms["local"] * (self.known.sum() * linked.sum() / linked.sum())}

    def forget_knowledge(self):
        self.known.zero_()


@refused("check_knowledge_can_be_forgotten", "changes no loss term", capabilities=[*EVERYTHING, "knowledge"])
class DeafToKnowledge(Good):
    def forget_knowledge(self):
        pass
