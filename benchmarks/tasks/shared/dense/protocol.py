"""Protocol keys common to detection and segmentation: how the head on a frozen encoder is trained."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from benchmarks.tasks.shared.task import Protocol
from mlip.study import Strict

Number = TypeVar("Number", int, float)


class DenseProtocol(Protocol):
    """Training of a pyramid or decoder on a frozen encoder.

    ``iterations``, ``batch_size`` and ``lr`` are one number, or one per label fraction: the entry of the smallest
    key that is not below the fraction. Where ``iterations`` is null, ``epochs`` passes over the training images are
    made; a study's budget may therefore cap a lineage's epochs by setting ``iterations``.
    """

    frozen: Literal[True] = True
    iterations: int | dict[int, int] | None = None
    epochs: int | None = Field(None, gt=0)
    batch_size: int | dict[int, int]
    lr: float | dict[int, float]
    optimiser: Literal["adamw"] = "adamw"
    weight_decay: float = Field(ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine"]
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the iterations with linearly rising rate")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient")
    average: float | None = Field(
        None, gt=0, lt=1, description="decay per iteration of the moving average of the weights that is read and tested"
    )
    selection: Literal["last", "best_val"] = Field(description="which weights are tested")
    patience: int | None = Field(None, gt=0, description="best_val: readings without improvement before stopping")
    min_gain: float = Field(
        0.0, ge=0, description="best_val: what counts as an improvement, beyond the last one that did"
    )
    validate_every: int | None = Field(
        None, gt=0, description="best_val: iterations between two readings; null: an epoch"
    )
    validation_images: int | None = Field(
        None, gt=0, description="best_val: read on so many films of the validation part, half of them positive, the same for "
        "all rows and fractions; null: on all"
    )  # fmt: skip
    balanced: list[str] = Field(
        default_factory=list, description="readers whose batches hold as many positive as negative images"
    )

    @model_validator(mode="after")
    def _has_a_length(self) -> DenseProtocol:
        if self.iterations is None and self.epochs is None:
            raise ValueError("one of iterations and epochs must be given")
        for key in ("iterations", "batch_size", "lr"):
            value = getattr(self, key)
            if isinstance(value, dict) and 100 not in value:
                raise ValueError(f"{key} has no entry for 100 %")
        return self

    def length(self, fraction: int, images: int) -> int:
        """Iterations of one training on ``images`` images."""
        if self.iterations is not None:
            return at_fraction(self.iterations, fraction)
        assert self.epochs is not None
        return self.epochs * self.epoch(fraction, images)

    def spacing(self, fraction: int, images: int) -> int:
        """Iterations between two readings of the validation."""
        return self.validate_every or self.epoch(fraction, images)

    def epoch(self, fraction: int, images: int) -> int:
        """Iterations of one pass over ``images`` images."""
        return max(1, -(-images // at_fraction(self.batch_size, fraction)))


class DenseTarget(Strict):
    """What a study may say of a data set."""

    balanced: bool = Field(description="whether its batches hold as many positive as negative images")


def with_balance(protocol: DenseProtocol, reader: str, target: dict[str, Any]) -> Any:
    """The protocol with a study's :class:`DenseTarget` for the data set of this reader."""
    others = [name for name in protocol.balanced if name != reader]
    balanced = [*others, reader] if DenseTarget.model_validate(target).balanced else others
    return protocol.model_copy(update={"balanced": balanced})


def at_fraction(value: Number | dict[int, Number], fraction: int) -> Number:
    """One number, or the entry of the smallest key that is not below ``fraction`` (percent)."""
    if not isinstance(value, dict):
        return value
    return value[min(k for k in value if k >= fraction)]
