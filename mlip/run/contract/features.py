"""Checks of what a method says about images, in eval mode without gradient."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from mlip.contract import ImageFeatures, Method
from mlip.errors import UserError
from mlip.run.contract.subject import Subject, same
from mlip.seeding import seed_everything, torch_generator

FEATURES = ("pooled", "grid", "joint")
CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))  # (up or down, left or right)
LEAST = 0.05  # of half the image: a centre of response that moves less does not follow the image


def check_image_features_have_their_shapes(subject: Subject) -> None:
    """``encode_image`` returns ``pooled`` [B, D], ``grid`` [B, h, w, D'] and ``joint`` [B, E] in floating point."""
    features = _encode(subject)
    if not isinstance(features, ImageFeatures):
        raise _wrong(
            subject, f"encode_image() returns a {type(features).__name__}", "return mlip.contract.ImageFeatures"
        )
    for name, letters in (("pooled", "B, D"), ("grid", "B, h, w, D'"), ("joint", "B, E")):
        value = getattr(features, name)
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if not isinstance(value, Tensor) or value.ndim != letters.count(",") + 1 or len(value) != len(subject.images):
            raise _wrong(subject, f"{name} is {shape} for 8 images, not [{letters}]", f"return it as [{letters}]")
        if not value.is_floating_point():
            raise _wrong(subject, f"{name} is {value.dtype}", "return floating point numbers")


def check_image_features_are_finite(subject: Subject) -> None:
    """``pooled``, ``grid`` and ``joint`` hold no NaN and no infinity, for a blank image neither."""
    method = subject.ready
    with torch.no_grad():
        for what, images in (("an image", subject.images), ("a blank image", torch.zeros_like(subject.images[:2]))):
            features = method.encode_image(images)
            for name in FEATURES:
                if not bool(torch.isfinite(getattr(features, name)).all()):
                    raise _wrong(subject, f"{name} of {what} holds NaN or infinity", "look for a division by zero")


def check_image_joint_is_normalised(subject: Subject) -> None:
    """Each image's ``joint`` has unit length."""
    demand_unit_length(subject, "encode_image", _encode(subject).joint)


def check_image_features_depend_on_the_image(subject: Subject) -> None:
    """``pooled``, ``grid`` and ``joint`` differ between different images."""
    features = _encode(subject)
    for name in FEATURES:
        value = getattr(features, name)
        if same(value, value[:1].expand_as(value), 1e-5):
            raise _wrong(subject, f"{name} is the same for all images", "compute it from the images")


def check_image_features_repeat(subject: Subject) -> None:
    """``encode_image`` gives the same features twice, whatever the global generators hold."""
    method = subject.ready
    one, again = (_seeded(method, subject.images, seed) for seed in (0, 1))
    for name in FEATURES:
        if not same(getattr(one, name), getattr(again, name)):
            raise _wrong(
                subject, f"{name} is random in eval mode", "switch randomness off where self.training is False"
            )


def check_image_features_do_not_depend_on_the_batch(subject: Subject) -> None:
    """An image has the same features alone as among others."""
    method = subject.ready
    with torch.no_grad():
        together = method.encode_image(subject.images)
        for i in (0, 5):
            alone = method.encode_image(subject.images[i : i + 1])
            for name in FEATURES:
                if not same(getattr(together, name)[i : i + 1], getattr(alone, name), 1e-3):
                    raise _wrong(
                        subject,
                        f"{name} of an image depends on the other images of the batch",
                        "use no statistics of the batch in eval mode (batch norms in train mode, a mean over dim 0)",
                    )


def check_grid_is_in_image_order(subject: Subject) -> None:
    """``grid`` [B, h, w, D'] lies as the image does: what changes up on the right changes it up on the right."""
    response = _corner_responses(subject)
    if _in_order(response):
        return
    turns = {
        "h and w are exchanged": response.transpose(1, 2),
        "channels stand before h and w": response.permute(0, 2, 3, 1),
        "channels stand before w and h": response.permute(0, 3, 2, 1),
        "it is upside down": response.flip(1),
        "left and right are exchanged": response.flip(2),
    }
    guess = next((f": {words}" for words, turned in turns.items() if _in_order(turned)), "")
    raise _wrong(subject, f"grid is not in row-major image order [B, h, w, D']{guess}", "see ImageFeatures.grid")


def check_own_image_network_has_feature_maps(subject: Subject) -> None:
    """A method that does not read ``image_encoder`` gives its own ``feature_maps`` to detection and segmentation."""
    method = subject.fresh().eval()
    with torch.no_grad():
        before = method.encode_image(subject.images)
        draw = torch_generator("contract-own-network")
        for p in method.image_encoder.parameters():
            p.add_(torch.randn(p.shape, generator=draw).to(p) * (p.std(correction=0) + 0.1))
        after = method.encode_image(subject.images)
    if any(not same(getattr(before, name), getattr(after, name), 1e-6) for name in FEATURES):
        return
    if not subject.entry.manifest.feature_maps:
        return  # detection and segmentation skip the method
    if not overrides_feature_maps(subject):
        raise _wrong(
            subject,
            "encode_image() has an image network of its own, and detection and segmentation would score the unused image_encoder",
            "define feature_maps(images) -> one grid or four maps [B, C, h, w], or set `feature_maps: false` in method.yaml",
        )


def check_feature_maps(subject: Subject) -> None:
    """``feature_maps``, where a method has its own, gives one finite grid or four maps [B, C, h, w], each half the last."""
    if not overrides_feature_maps(subject):
        return
    with torch.no_grad():
        maps: list[Tensor] = list(subject.ready.feature_maps(subject.images))  # type: ignore[operator]
    shapes = [tuple(m.shape) for m in maps]
    formed = len(maps) in (1, 4) and all(len(s) == 4 and s[0] == len(subject.images) for s in shapes)
    # Sides that are no multiple of 32 are rounded at each stage.
    if not formed or any(abs(2 * after[2] - before[2]) > 2 for before, after in pairwise(shapes)):
        raise subject.refusal(
            "feature_maps",
            f"feature_maps() gives {shapes}",
            "return one grid [B, C, h, w], or four maps of strides 4, 8, 16 and 32, finest first",
        )
    if not all(bool(torch.isfinite(m).all()) for m in maps):
        raise subject.refusal("feature_maps", "feature_maps() holds NaN or infinity", "look for a division by zero")


def overrides_feature_maps(subject: Subject) -> bool:
    """Whether the class defines ``feature_maps`` itself."""
    inherited = getattr(Method, "feature_maps", None)
    return getattr(subject.kind, "feature_maps", inherited) is not inherited


# --- how they are measured --------------------------------------------------------------------------------------------


def demand_unit_length(subject: Subject, function: str, joint: Tensor) -> None:
    """Refuse a ``joint`` [B, E] whose rows are not of length 1 within a thousandth."""
    lengths = joint.norm(dim=1)
    if not torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3):
        raise subject.refusal(
            function,
            f"joint has lengths from {lengths.min():.3g} to {lengths.max():.3g}, not 1",
            "wrap it in functional.normalize(..., dim=-1)",
        )


def _encode(subject: Subject) -> ImageFeatures:
    method = subject.ready
    with torch.no_grad():
        return method.encode_image(subject.images)


def _seeded(method: Method, images: Tensor, seed: int) -> ImageFeatures:
    seed_everything("contract-global", seed)
    with torch.no_grad():
        return method.encode_image(images)


def _wrong(subject: Subject, problem: str, fix: str) -> UserError:
    return subject.refusal("encode_image", problem, fix)


def _corner_responses(subject: Subject, draws: int = 4) -> Tensor:
    """How much each cell of the grid changes where noise is put into one quarter of a grey image: [4, h, w, D']."""
    method, half = subject.ready, subject.size // 2
    noise = torch.rand(draws, 3, half, half, generator=torch_generator("contract-corners")) * 2 - 1
    grey = torch.zeros(draws, 3, subject.size, subject.size)
    found = []
    with torch.no_grad():
        blank = method.encode_image(grey).grid
        for down, right in CORNERS:
            images = grey.clone()
            rows = slice(0, half) if down < 0 else slice(-half, None)
            columns = slice(0, half) if right < 0 else slice(-half, None)
            images[:, :, rows, columns] = noise
            found.append((method.encode_image(images).grid - blank).abs().mean(dim=0))
    return torch.stack(found)


def _in_order(response: Tensor) -> bool:
    """Whether the centre of the response moves down with the rows and right with the columns, and not across."""
    energy = response.double().sum(dim=3)
    energy = energy / energy.sum(dim=(1, 2), keepdim=True).clamp_min(1e-300)
    (h, w), corners = energy.shape[1:], torch.tensor(CORNERS, dtype=energy.dtype)
    down = (energy.sum(dim=2) * torch.linspace(-1, 1, h, dtype=energy.dtype)).sum(dim=1)
    right = (energy.sum(dim=1) * torch.linspace(-1, 1, w, dtype=energy.dtype)).sum(dim=1)
    moved = torch.stack([down, right]) @ corners / 4  # [centre's row, column] by [corner's row, column]
    along, across = moved.diagonal(), moved.flip(1).diagonal().abs()
    return bool((along > across + LEAST).all())
