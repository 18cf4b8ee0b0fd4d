"""One bad method per check: the suite names that check, in one line with the file and the fix, and no other."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mlip.contract import ImageFeatures, Method, TextFeatures
from mlip.run.contract.suite import CHECKS
from tests.run.contract.good import EVERYTHING, Good, mistakes

# (class, check, words of the mistake, changes of method.yaml)
CASES: list[tuple[type[Method], str, str, dict[str, Any]]] = []
UNTRAINED = {"trained": False, "recipes": {}}  # what is wrong with features alone is looked for without training


def refused(check: str, words: str, **changes: Any) -> Any:
    def note(kind: type[Method]) -> type[Method]:
        CASES.append((kind, check, words, changes))
        return kind

    return note


# --- training -----------------------------------------------------------------------------------------------------------


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
    def losses(self, batch):
        linked = (batch.entities >= 0).float()
        terms = super().losses(batch)
        return terms | {"local": terms["local"] * (linked.sum() / linked.sum())}


# --- images -------------------------------------------------------------------------------------------------------------


class BadImage(Good):
    """Changes one of the three features."""

    def encode_image(self, images):
        features = super().encode_image(images)
        return ImageFeatures(*self.change(images, features.pooled, features.grid, features.joint))


@refused("check_image_features_have_their_shapes", r"pooled is \(8, 1, 32\) for 8 images, not \[B, D\]", **UNTRAINED)
class PooledOfThreeAxes(BadImage):
    def change(self, images, pooled, grid, joint):
        return pooled.unsqueeze(1), grid, joint


@refused("check_image_features_have_their_shapes", "returns a tuple", **UNTRAINED)
class Tuple(Good):
    def encode_image(self, images):
        features = super().encode_image(images)
        return features.pooled, features.grid, features.joint


@refused("check_image_features_are_finite", "pooled of an image holds NaN", **UNTRAINED)
class NaNPooled(BadImage):
    def change(self, images, pooled, grid, joint):
        return pooled * float("nan"), grid, joint


@refused("check_image_features_are_finite", "grid of an image holds NaN", **UNTRAINED)
class NaNGrid(BadImage):
    def change(self, images, pooled, grid, joint):
        return pooled, grid.masked_fill(grid > grid.mean(), float("nan")), joint


@refused("check_image_features_are_finite", "joint of a blank image holds NaN", **UNTRAINED)
class NaNJoint(BadImage):
    def change(self, images, pooled, grid, joint):
        return pooled, grid, joint / images.std(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0].sign()


@refused("check_image_joint_is_normalised", "joint has lengths from", **UNTRAINED)
class LongImages(BadImage):
    def change(self, images, pooled, grid, joint):
        return pooled, grid, self.image_head(pooled)


@refused("check_image_features_depend_on_the_image", "pooled is the same for all images", **UNTRAINED)
class ConstantPooled(BadImage):
    def change(self, images, pooled, grid, joint):
        return torch.ones_like(pooled) + 0 * pooled, grid, joint


@refused("check_image_features_repeat", "grid is random in eval mode", **UNTRAINED)
class RandomGrid(BadImage):
    def change(self, images, pooled, grid, joint):
        return pooled, functional.dropout(grid, 0.05, training=True), joint


@refused(
    "check_image_features_do_not_depend_on_the_batch", "joint of an image depends on the other images", **UNTRAINED
)
class CentredByTheBatch(BadImage):
    def change(self, images, pooled, grid, joint):
        return pooled, grid, functional.normalize(joint - 0.5 * joint.mean(dim=0), dim=-1)


class BadGrid(BadImage):
    def change(self, images, pooled, grid, joint):
        return pooled, self.turn(grid), joint


@refused("check_grid_is_in_image_order", "h and w are exchanged", **UNTRAINED)
class Transposed(BadGrid):
    def turn(self, grid):
        return grid.transpose(1, 2)


@refused("check_grid_is_in_image_order", "channels stand before h and w", **UNTRAINED)
class ChannelsFirst(BadGrid):
    def turn(self, grid):
        return grid.permute(0, 3, 1, 2)


@refused("check_grid_is_in_image_order", "it is upside down", **UNTRAINED)
class UpsideDown(BadGrid):
    def turn(self, grid):
        return grid.flip(1)


@refused("check_grid_is_in_image_order", r"row-major image order \[B, h, w, D'\]\. Fix", **UNTRAINED)
class NotWhere(BadGrid):
    def turn(self, grid):
        return grid.mean(dim=(1, 2), keepdim=True).expand_as(grid)


class OwnNetwork(Good):
    """An image network beside the study's, which is frozen because nothing reads it."""

    def __init__(self, context):
        super().__init__(context)
        self.image_encoder.requires_grad_(False)
        self.own = nn.Sequential(nn.Conv2d(3, 24, 16, 16), nn.GELU())
        self.image_head, self.patch_head = nn.Linear(24, 16), nn.Linear(24, 16)

    def losses(self, batch):
        grid = self.own(batch.images).permute(0, 2, 3, 1)
        text = self.text(batch.tokens)
        image = self.image_head(grid.mean(dim=(1, 2)))
        local = {"local": self.patch_head(grid).mean(dim=(1, 2))}
        terms = {name: super(OwnNetwork, self).pair_terms(x, text, batch)["contrast"] for name, x in local.items()}
        return self.pair_terms(image, text, batch) | terms

    def encode_image(self, images):
        grid = self.own(images).permute(0, 2, 3, 1)
        pooled = grid.mean(dim=(1, 2))
        return ImageFeatures(pooled, grid, functional.normalize(self.image_head(pooled), dim=-1))

    def maps(self, images, prompt):
        return {"mean": self.own(images).mean(dim=1)}


refused("check_own_image_network_has_feature_maps", r"define feature_maps\(images\)")(OwnNetwork)


@refused("check_feature_maps", r"feature_maps\(\) gives \[\(8, 3, 1, 1\), .*\(8, 3, 12, 12\)\]", **UNTRAINED)
class CoarseToFine(OwnNetwork):
    def feature_maps(self, images):
        return [images[:, :, ::stride, ::stride] for stride in (48, 16, 8, 4)]


@refused("check_feature_maps", r"feature_maps\(\) gives \[\(8, 3, 3, 24\), \(8, 3, 3, 24\)\]", **UNTRAINED)
class TwoMaps(OwnNetwork):
    def feature_maps(self, images):
        return [self.encode_image(images).grid, self.encode_image(images).grid]


@refused("check_feature_maps", r"feature_maps\(\) holds NaN", **UNTRAINED)
class NaNFeatureMaps(OwnNetwork):
    def feature_maps(self, images):
        return [self.own(images).log()]


# --- texts --------------------------------------------------------------------------------------------------------------


class BadText(Good):
    def encode_text(self, texts):
        features = super().encode_text(texts)
        return TextFeatures(self.change(texts, features.joint), features.local, features.local_mask)


@refused("check_text_features_have_their_shapes", r"joint is \(4, 8\) for 4 texts, images have width 16", **UNTRAINED)
class NarrowText(BadText):
    def change(self, texts, joint):
        return joint[:, :8]


@refused("check_text_features_are_finite", "joint holds NaN", **UNTRAINED)
class NaNText(BadText):
    def change(self, texts, joint):
        return joint * float("nan")


@refused("check_empty_text_is_encoded", "joint of an empty text holds NaN", **UNTRAINED)
class NaNForNothing(BadText):
    def change(self, texts, joint):
        words = torch.tensor([len(text.split()) for text in texts]).unsqueeze(1)
        return functional.normalize(joint / words * words, dim=-1)


@refused("check_text_joint_is_normalised", "joint has lengths from 2 to 2, not 1", **UNTRAINED)
class LongTexts(BadText):
    def change(self, texts, joint):
        return 2 * joint


@refused("check_text_features_depend_on_the_text", "joint is the same for all texts", **UNTRAINED)
class ConstantText(BadText):
    def change(self, texts, joint):
        return functional.normalize(torch.ones_like(joint), dim=-1)


@refused("check_text_features_repeat", "joint is random in eval mode", **UNTRAINED)
class RandomText(BadText):
    def change(self, texts, joint):
        return functional.normalize(joint + 0.1 * torch.randn_like(joint), dim=-1)


@refused("check_text_features_do_not_depend_on_the_batch", "depends on the other texts", **UNTRAINED)
class CountsPadding(Good):
    def text(self, tokens):
        return self.text_head(self.text_encoder(tokens).hidden.mean(dim=1))


@refused("check_similarity", r"similarity\(\) is \(4, 8\) for 8 images and 4 texts", **UNTRAINED)
class TurnedSimilarity(Good):
    def similarity(self, image, text):
        return super().similarity(image, text).T


@refused("check_similarity", r"similarity\(\) holds NaN", **UNTRAINED)
class NaNSimilarity(Good):
    def similarity(self, image, text):
        return (super().similarity(image, text) - 2).sqrt()


@refused("check_local_text_features", "lists local_alignment but `local` is None", **UNTRAINED)
class NoLocalText(Good):
    def encode_text(self, texts):
        return TextFeatures(super().encode_text(texts).joint)


# --- maps ---------------------------------------------------------------------------------------------------------------


@refused("check_maps_are_there", r"lists `maps` among its capabilities but maps\(\) gives \{\}", **UNTRAINED)
class NoMaps(Good):
    def maps(self, images, prompt):
        return {}


@refused("check_maps_have_their_shapes", r"'cosine' is \(3, 3\) for 8 images", **UNTRAINED)
class OneMap(Good):
    def maps(self, images, prompt):
        return {name: values[0] for name, values in super().maps(images, prompt).items()}


@refused("check_maps_are_finite", "'cosine' holds NaN", **UNTRAINED)
class NaNMaps(Good):
    def maps(self, images, prompt):
        return {name: (values - 2).sqrt() for name, values in super().maps(images, prompt).items()}


@refused("check_maps_repeat", "'cosine' is random in eval mode", **UNTRAINED)
class RandomMaps(Good):
    def maps(self, images, prompt):
        return {name: values * torch.rand(1) for name, values in super().maps(images, prompt).items()}


@refused("check_maps_are_listed", "gives maps that method.yaml does not list", **UNTRAINED, capabilities=EVERYTHING[:3])
class Unlisted(Good):
    pass


# --- weights and files --------------------------------------------------------------------------------------------------


@refused("check_same_seed_gives_the_same_weights", "begin.* with other weights each time", **UNTRAINED)
class OtherWeights(Good):
    def __init__(self, context):
        super().__init__(context)
        self.image_head.bias.data.fill_(float(np.random.default_rng().random()))


@refused("check_image_encoder_is_exported", "Missing key", **UNTRAINED)
class OtherEncoder(Good):
    def __init__(self, context):
        super().__init__(context)
        self.image_encoder.model.layer2[0].bn1 = nn.Identity()


@refused("check_weights_load_strictly", "Unexpected key", **UNTRAINED)
class LazyLayer(Good):
    def encode_image(self, images):
        features = super().encode_image(images)
        if not hasattr(self, "late"):
            self.late = nn.Linear(2, 2).requires_grad_(False)
        return features


@refused("check_weights_load_strictly", "change when the weights are written and read back")
class ForgetsItsQueue(Good):
    def __init__(self, context):
        super().__init__(context)
        self.seen = torch.zeros(16)

    def losses(self, batch):
        terms = super().losses(batch)
        self.seen = self.seen + 1
        return terms

    def encode_image(self, images):
        features = super().encode_image(images)
        features.joint = functional.normalize(features.joint + self.seen, dim=-1)
        return features


@refused("check_method_builds", "has no tokenizer", **UNTRAINED)
class LosesItsTokenizer(Good):
    def __init__(self, context):
        super().__init__(context)
        del self.tokenizer


@refused("check_recipes", "has no recipe 'small'", recipes={"smoke": {"epochs": 1, "batch_size": 8, "lr": 0.1, "weight_decay": 0}})  # fmt: skip
class NoSmallRecipe(Good):
    pass


@refused("check_preferred_encoder_is_supported", "prefers vit, supports",
         encoders={"supports": ["cnn"], "prefers": "vit"}, **UNTRAINED)  # fmt: skip
class PrefersAnother(Good):
    pass


@pytest.mark.parametrize(("kind", "check", "words", "changes"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_exactly_this_check_refuses_it(kind: type[Method], check: str, words: str, changes: dict[str, Any]) -> None:
    found = mistakes(kind, **changes)
    assert set(found) == {check}, found
    line = found[check]
    assert re.search(words, line), line
    assert "\n" not in line and ". Fix: " in line
    assert re.search(r"test_refusals\.py:\d+: |good\.py:\d+: |method\.yaml: ", line), line


def test_every_check_has_a_method_that_it_refuses() -> None:
    refused_by = {check for _, check, _, _ in CASES}
    assert {c.__name__ for c in CHECKS} - refused_by == {"check_readme_is_there"}  # in test_suite.py
