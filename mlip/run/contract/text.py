"""Checks of what a method says about texts and pairs, in eval mode without gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip.contract import Method, TextFeatures
from mlip.run.contract.features import demand_unit_length
from mlip.run.contract.subject import Subject, same
from mlip.run.contract.world import reports
from mlip.seeding import seed_everything

TEXTS = ["Clear .", *(report.text for report in reports()[:3])]  # of different lengths, the shortest first


def check_text_features_have_their_shapes(subject: Subject) -> None:
    """``encode_text`` returns ``joint`` [B, E] of the images' width E, and ``local`` [B, T, E'] with its mask if any."""
    method = subject.ready
    text = _encode(method, TEXTS)
    if not isinstance(text, TextFeatures) or not isinstance(text.joint, Tensor):
        raise subject.refusal("encode_text", f"returns a {type(text).__name__}", "return mlip.contract.TextFeatures")
    with torch.no_grad():
        width = method.encode_image(subject.images[:1]).joint.shape[-1]
    if tuple(text.joint.shape) != (len(TEXTS), width):
        raise subject.refusal(
            "encode_text",
            f"joint is {tuple(text.joint.shape)} for {len(TEXTS)} texts, images have width {width}",
            "return [B, E] in the space of the images",
        )
    if text.local is None:
        return
    mask = text.local_mask
    if text.local.ndim != 3 or len(text.local) != len(TEXTS):
        raise subject.refusal("encode_text", f"local is {tuple(text.local.shape)}", "return [B, T, E']")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != text.local.shape[:2]):
        raise subject.refusal(
            "encode_text", f"local_mask is {mask.dtype} {tuple(mask.shape)}", "return bool [B, T], True = padding"
        )


def check_text_features_are_finite(subject: Subject) -> None:
    """The ``joint`` of texts holds no NaN and no infinity."""
    if not bool(torch.isfinite(_encode(subject.ready, TEXTS).joint).all()):
        raise subject.refusal("encode_text", "joint holds NaN or infinity", "look for a division by zero")


def check_empty_text_is_encoded(subject: Subject) -> None:
    """An empty text has a finite ``joint``, alone and among others."""
    method = subject.ready
    for texts in ([""], ["", *TEXTS]):
        if not bool(torch.isfinite(_encode(method, texts).joint).all()):
            raise subject.refusal(
                "encode_text",
                "joint of an empty text holds NaN or infinity",
                "an empty text has no words: divide by count.clamp_min(1), or use the class token",
            )


def check_text_joint_is_normalised(subject: Subject) -> None:
    """Each text's ``joint`` has unit length."""
    demand_unit_length(subject, "encode_text", _encode(subject.ready, TEXTS).joint)


def check_text_features_depend_on_the_text(subject: Subject) -> None:
    """``joint`` differs between different texts."""
    joint = _encode(subject.ready, TEXTS).joint
    if same(joint, joint[:1].expand_as(joint), 1e-5):
        raise subject.refusal("encode_text", "joint is the same for all texts", "compute it from the texts")


def check_text_features_repeat(subject: Subject) -> None:
    """``encode_text`` gives the same ``joint`` twice, whatever the global generators hold."""
    method = subject.ready
    seed_everything("contract-global", 0)
    one = _encode(method, TEXTS).joint
    seed_everything("contract-global", 1)
    if not same(one, _encode(method, TEXTS).joint):
        raise subject.refusal(
            "encode_text", "joint is random in eval mode", "switch randomness off where self.training is False"
        )


def check_text_features_do_not_depend_on_the_batch(subject: Subject) -> None:
    """A text has the same ``joint`` alone as padded among longer ones."""
    method = subject.ready
    if not same(_encode(method, TEXTS).joint[:1], _encode(method, TEXTS[:1]).joint, 1e-3):
        raise subject.refusal(
            "encode_text",
            "joint of a text depends on the other texts of the batch",
            "leave padding out by tokens.attention_mask, and use no statistics of the batch in eval mode",
        )


def check_similarity(subject: Subject) -> None:
    """``similarity`` is finite [B_image, B_text], also where the two numbers differ."""
    method = subject.ready
    with torch.no_grad():
        image, text = method.encode_image(subject.images), method.encode_text(TEXTS)
        scores = method.similarity(image, text)
    if tuple(scores.shape) != (len(subject.images), len(TEXTS)):
        raise subject.refusal(
            "similarity",
            f"similarity() is {tuple(scores.shape)} for {len(subject.images)} images and {len(TEXTS)} texts",
            "return [B_image, B_text]",
        )
    if not bool(torch.isfinite(scores).all()):
        raise subject.refusal("similarity", "similarity() holds NaN or infinity", "look for a division by zero")


def check_local_text_features(subject: Subject) -> None:
    """A method that lists ``local_alignment`` gives finite ``local`` features of texts."""
    text = _encode(subject.ready, TEXTS)
    if text.local is None:
        raise subject.refusal(
            "encode_text", "lists local_alignment but `local` is None", "return words or sentences [B, T, E'] as local"
        )
    there = text.local if text.local_mask is None else text.local[~text.local_mask]
    if not bool(torch.isfinite(there).all()):
        raise subject.refusal("encode_text", "local holds NaN or infinity", "look for a division by zero")


def _encode(method: Method, texts: list[str]) -> TextFeatures:
    with torch.no_grad():
        return method.encode_text(texts)
