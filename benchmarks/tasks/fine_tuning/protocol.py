"""Everything that moves a number of fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from benchmarks.tasks.shared.augment import Augmentation
from benchmarks.tasks.shared.classification import Target
from benchmarks.tasks.shared.task import Protocol
from mlip.study import Strict


class Training(Strict):
    """How long and how fast one training is; give either ``steps`` or ``epochs``."""

    lr: float = Field(gt=0)
    steps: int | None = Field(None, gt=0)
    epochs: int | None = Field(None, gt=0, description="passes over the training images of the draw")
    warmup: float = Field(0.0, ge=0, description="iterations with a linearly rising rate; below 1: a share of all")

    @model_validator(mode="after")
    def _one_length(self) -> Training:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give one of steps and epochs")
        return self

    def length(self, images: int, batch_size: int, most: int | None) -> tuple[int, int]:
        """Iterations, and how many of them have a rising rate. A training cut to ``most`` warms up the shorter."""
        whole = self.steps if self.steps is not None else (self.epochs or 0) * -(-images // batch_size)
        steps = min(whole, most or whole)
        rising = self.warmup if self.warmup < 1 else self.warmup / whole
        return steps, round(rising * steps)


class FineTuned(Target):
    """A data set: what is predicted on it, and how long it is trained, where a protocol says that by data set."""

    training: dict[int, Training] | None = Field(None, description="by label fraction; null: the protocol's own")


class FineTuningProtocol(Protocol):
    """Keys of ``benchmarks/protocols/fine_tuning/*.yaml``.

    ``training`` has an entry for each label fraction: that of the smallest key that is not below it.
    """

    pool: Literal["method", "mean"] = Field(
        description="what the head sees: the method's pooled feature, or (in a ViT) the mean of the patch tokens"
    )
    head_norm: bool = Field(description="a layer norm between encoder and head (MAE's fc_norm)")
    head_std: float = Field(gt=0, description="deviation of the head's first weights")
    batch_size: int = Field(gt=0)
    optimiser: Literal["sgd", "adamw"]
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    betas: tuple[float, float] = Field((0.9, 0.999), description="of adamw")
    weight_decay: float = Field(ge=0, description="not on biases and norms")
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="the rate of each layer of the encoder as a share of that of the next one"
    )
    schedule: Literal["constant", "cosine", "linear"]
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient")
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="of a ViT's last block, rising from 0; other encoders have none"
    )
    augmentation: Augmentation | None = None
    selection: Literal["last", "best_val"] = Field(
        description="which weights are tested: the last, or those of the best AUROC (macro) on the whole validation part"
    )
    readings: int | None = Field(None, gt=0, description="best_val: evenly spaced readings of the validation part")
    training: dict[int, Training]
    max_steps: int | None = Field(None, gt=0, description="cuts every training, for a study's budget")
    datasets: dict[str, FineTuned]

    @model_validator(mode="after")
    def _is_whole(self) -> FineTuningProtocol:
        for where, table in [("training", self.training), *((n, d.training) for n, d in self.datasets.items())]:
            if table is not None and 100 not in table:
                raise ValueError(f"{where} has no entry for 100 %")
        if (self.selection == "best_val") != (self.readings is not None):
            raise ValueError("readings go with selection: best_val")
        return self
