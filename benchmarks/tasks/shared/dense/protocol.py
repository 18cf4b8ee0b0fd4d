"""Protocol keys common to detection and segmentation: how the head, and the encoder where it is not frozen, is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, model_validator

from benchmarks.tasks.shared.augment import Augmentation
from benchmarks.tasks.shared.task import Protocol, entry_at
from mlip.study import Strict

if TYPE_CHECKING:
    from benchmarks.tasks.shared.training import Recipe

Number = TypeVar("Number", int, float)


class DenseProtocol(Protocol):
    """Training of a pyramid or decoder on an encoder, which is frozen or trained with it.

    ``iterations``, ``batch_size``, ``lr``, ``warmup`` and ``validate_every`` are one number, or one per label fraction: the entry of the smallest
    key that is not below the fraction. Where ``iterations`` is null, ``epochs`` passes over the training images are
    made; a study's budget may therefore cap a lineage's epochs by setting ``iterations``.
    """

    frozen: bool = Field(
        True, description="false: the encoder is trained too, batch norms and dropout in training mode"
    )
    layer_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="frozen: false: the rate of each layer of the encoder as a share of that of the next one",
    )
    augmentation: Augmentation | None = Field(
        None, description="frozen: false: what happens to training films; a frozen encoder's maps are computed once"
    )
    iterations: int | dict[int, int] | None = None
    epochs: int | None = Field(None, gt=0)
    batch_size: int | dict[int, int]
    lr: float | dict[int, float]
    optimiser: Literal["adamw"] = "adamw"
    weight_decay: float = Field(ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine", "linear"]
    warmup: float | dict[int, float] = Field(0.0, description="share of the iterations with linearly rising rate")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient")
    average: float | None = Field(
        None, gt=0, lt=1, description="decay per iteration of the moving average of the weights that is read and tested"
    )
    selection: Literal["last", "best_val"] = Field(description="which weights are tested")
    patience: int | None = Field(None, gt=0, description="best_val: readings without improvement before stopping")
    min_gain: float = Field(
        0.0, ge=0, description="best_val: what counts as an improvement, beyond the last one that did"
    )
    validate_every: int | dict[int, int] | None = Field(
        None, description="best_val: iterations between two readings; null: an epoch"
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
        for key in ("iterations", "batch_size", "lr", "warmup", "validate_every"):
            value = getattr(self, key)
            if isinstance(value, dict) and 100 not in value:
                raise ValueError(f"{key} has no entry for 100 %")
        warmup = self.warmup.values() if isinstance(self.warmup, dict) else [self.warmup]
        if not all(0 <= share < 1 for share in warmup):
            raise ValueError("warmup is a share of the iterations, from 0 to below 1")
        if self.frozen and (self.layer_decay is not None or self.augmentation is not None):
            raise ValueError("layer_decay and augmentation need frozen: false")
        return self

    def recipe(self, fraction: int, images: int) -> Recipe:
        """The numbers of one training on ``images`` images."""
        from benchmarks.tasks.shared.training import Recipe

        return Recipe(
            protocol=self.name,
            lr=at_fraction(self.lr, fraction),
            weight_decay=self.weight_decay,
            spacing=self.spacing(fraction, images),
            schedule=self.schedule,
            warmup=round(at_fraction(self.warmup, fraction) * self.length(fraction, images)),
            betas=self.betas,
            clip=self.clip,
            average=self.average,
            selection=self.selection,
            patience=self.patience,
            min_gain=self.min_gain,
        )

    def length(self, fraction: int, images: int) -> int:
        """Iterations of one training on ``images`` images."""
        if self.iterations is not None:
            return at_fraction(self.iterations, fraction)
        assert self.epochs is not None
        return self.epochs * self.epoch(fraction, images)

    def most_seen(self, fraction: int, images: int) -> int:
        """How many different ones of ``images`` images the longest training can see."""
        return min(images, self.length(fraction, images) * at_fraction(self.batch_size, fraction))

    def spacing(self, fraction: int, images: int) -> int:
        """Iterations between two readings of the validation."""
        if self.validate_every is None:
            return self.epoch(fraction, images)
        return at_fraction(self.validate_every, fraction)

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
    return entry_at(value, fraction)
