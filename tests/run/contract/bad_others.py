"""Methods with one mistake in texts, maps, weights or files each."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mlip.contract import TextFeatures
from tests.run.contract.cases import UNTRAINED, refused
from tests.run.contract.good import EVERYTHING, Good

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
