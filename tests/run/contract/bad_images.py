"""Methods with one mistake in what they say of images each."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from mlip.contract import ImageFeatures
from tests.run.contract.cases import UNTRAINED, refused
from tests.run.contract.good import Good


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
