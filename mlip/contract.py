"""What a method is: a folder with a ``method.yaml`` and a ``model.py`` that holds one :class:`Method`.

The training loop (``mlip/pretraining/loop.py``) knows nothing but this file; so do the transfer tasks. Shapes: B reports or
images, L word pieces (padded), W words, S sentences, P = h*w patches, D encoder widths, E joint width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mlip.errors import UserError

if TYPE_CHECKING:
    from mlip.encoders.image import ImageEncoder
    from mlip.encoders.text import TextEncoder
    from mlip.knowledge.entities import Knowledge
    from mlip.study import WeightsConfig
    from mlip.text.reports import Report
    from mlip.text.tokenisation import TokenBatch, Tokenizer


@dataclass
class Batch:
    """One training step's image-report pairs."""

    images: Tensor  # [B, 3, H, W] float, normalised to mean 0.5, std 0.5
    texts: list[str]  # the text view of each report, as the method's `text_view` gave it
    tokens: TokenBatch  # `texts`, tokenised
    reports: list[Report]  # the parsed reports
    patients: Tensor  # [B] int64: equal numbers are the same patient
    entities: Tensor  # [B, N] int64: linked knowledge entities affirmed in the text view, -1 = padding
    epoch: int  # 0..
    step: int  # optimiser steps done
    epochs: int  # of the whole training
    generator: torch.Generator  # CPU generator of this step, for every random choice in the losses
    first: int = 0  # of a part of a batch: which row of the whole batch its first one is
    whole: int | None = None  # of a part of a batch: rows of the whole batch. None: these are all

    @classmethod
    def of(
        cls,
        method: Method,
        reports: list[Report],
        texts: list[str],
        linked: Sequence[Sequence[int]],
        images: Tensor,
        patients: Tensor,
        generator: torch.Generator,
        *,
        epoch: int = 0,
        step: int = 0,
        epochs: int = 1,
    ) -> Batch:
        """The batch of B reports: ``texts`` are tokenised, ``linked`` holds the entities of each text."""
        tokens, entities = method.tokenizer(texts), entity_table(linked)
        return cls(images, texts, tokens, reports, patients, entities, epoch, step, epochs, generator)

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, first: int, count: int) -> Batch:
        """The part of ``count`` rows from row ``first`` on. Its texts are padded as in the whole batch; it has the same
        generator, from which :meth:`draw` takes what the whole batch would.
        """
        part = slice(first, first + count)
        return replace(
            self,
            images=self.images[part],
            texts=self.texts[part],
            tokens=self.tokens.rows(part),
            reports=self.reports[part],
            patients=self.patients[part],
            entities=self.entities[part],
            first=self.first + first,
            whole=self.whole or len(self),
        )

    def draw(self, sample: Callable[[int], Tensor]) -> Tensor:
        """What ``sample(rows)`` draws from :attr:`generator`, one row per pair: drawn for the whole batch, own rows kept, so
        that a pair has the same draw in whichever part of the batch it is.
        """
        drawn = sample(self.whole or len(self))
        return drawn if self.whole is None else drawn[self.first : self.first + len(self)]

    def without_images(self) -> Batch:
        """The batch as :meth:`Method.objective` sees it: with no row in ``images``."""
        return replace(self, images=self.images[:0])

    def to(self, device: torch.device | str) -> Batch:
        moved = {k: getattr(self, k).to(device) for k in ("images", "tokens", "patients", "entities")}
        return replace(self, **moved)


def entity_table(linked: Sequence[Sequence[int]]) -> Tensor:
    """The entities of B texts as :attr:`Batch.entities` holds them: int64 [B, max(1, most)], -1 = padding."""
    table = torch.full((len(linked), max([1, *map(len, linked)])), -1, dtype=torch.int64)
    for row, entities in zip(table, linked, strict=True):
        row[: len(entities)] = torch.tensor(entities, dtype=torch.int64)
    return table


@dataclass
class ImageFeatures:
    """What a method says about B images."""

    pooled: Tensor  # [B, D] the encoder's pooled feature, as the method's head reads it: what a linear probe sees
    grid: Tensor  # [B, h, w, D'] local features in row-major image order
    joint: Tensor  # [B, E] L2-normalised embedding in the image-text space


@dataclass
class TextFeatures:
    """What a method says about B texts."""

    joint: Tensor  # [B, E] L2-normalised
    local: Tensor | None = None  # [B, T, E'] words or sentences, where the method has them
    local_mask: Tensor | None = None  # [B, T] bool, True = padding


@dataclass
class MethodContext:
    """Everything a method is built from."""

    image_encoder: ImageEncoder
    text_encoder: TextEncoder
    tokenizer: Tokenizer
    knowledge: Knowledge | None
    params: dict[str, Any]  # method.yaml `parameters`, with the recipe's and the variant's overrides applied
    components: dict[str, bool]  # method.yaml `components`, switched
    weights: WeightsConfig | None = None  # of a row that others trained
    released: Sequence[tuple[str, str | None]] = ()  # method.yaml `released`: how others name the tensors
    key: str = "weights"  # of the configuration that names them, for errors
    hashed: Callable[[str], list[str]] | None = (
        None  # a film's own identifier -> those it may have in the study's stores
    )


class Method(nn.Module, ABC):
    """Base of every method. A subclass builds its heads in ``__init__`` after calling ``super().__init__(context)``.

    Raises
    ------
    TypeError : it defines neither ``represent`` and ``objective`` nor ``losses``.
    """

    def __init__(self, context: MethodContext) -> None:
        super().__init__()
        if type(self).losses is Method.losses and not self.splits():
            raise TypeError(f"{type(self).__name__} lacks the abstract methods represent and objective")
        self.image_encoder = context.image_encoder
        self.text_encoder = context.text_encoder
        self.tokenizer = context.tokenizer
        self.params = context.params
        self.components = context.components
        self.released = context.released

    _autocast: torch.dtype | None = None  # of the networks in an objective that is being computed

    def load_weights(self, weights: WeightsConfig, key: str) -> None:
        """Take over a checkpoint that others trained, whole or not at all (``mlip/encoders/foreign.py``).

        Parameters
        ----------
        key : of the configuration that names it, for errors.

        Default: by the key map ``released`` of ``method.yaml``.

        Raises
        ------
        UserError : it does not fit tensor by tensor, or the method does not know the names of anyone else's checkpoints.
        """
        from mlip.encoders.foreign import load_renamed

        if not self.released:
            raise UserError(
                f"{type(self).__name__} does not say how others name its tensors",
                where=key,
                fix="write `released` in its method.yaml, or take the image encoder alone: method: weights",
            )
        load_renamed(self, weights, key, self.released)

    @classmethod
    def check_weights(cls, weights: WeightsConfig, kind: Literal["cnn", "vit"], image_size: int, key: str) -> None:
        """Before anything runs: raise UserError where a checkpoint cannot be read, or is seen to be of something else."""
        from mlip.encoders.foreign import read_foreign

        if weights.file is None:
            raise UserError("names a folder", where=key, fix="name the weights file in it")
        read_foreign(weights, key, meta=True)

    @classmethod
    def example_weights(cls, kind: Literal["cnn", "vit"], folder: Path) -> WeightsConfig | None:
        """For ``mlip check-baseline`` of a method that is nothing but a checkpoint (``start: weights``): a tiny one of random
        weights, written into ``folder``. None: the toy encoder of the check stands in its place.
        """
        return None

    def text_view(self, report: Report, rng: np.random.Generator) -> str:
        """The text that one training step sees of a report. Default: impression then findings, whole."""
        return report.text

    def represent(self, batch: Batch) -> dict[str, Tensor]:
        """All that the losses need of each pair of the batch, or of a part of it: tensors [B, ...] by name.

        A row depends on its own pair alone (and, where there is a batch norm, on its statistics). Random numbers come from
        :meth:`Batch.draw`. Parts are put together by their rows; a dimension in which they differ is padded with zeros, so
        that a mask says True for what is there. Losses of single pairs may be computed here: [B].
        """
        raise NotImplementedError(f"{type(self).__name__} does not define represent")

    def objective(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Scalar loss terms by name, from what :meth:`represent` gave of all rows of the batch.

        With several processes, or in chunks, it sees the whole batch. Computed in float32 whatever ``pretrain.precision``
        says. ``batch.images`` has no row here. Random numbers come from ``batch.generator``, for all rows.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define objective")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar loss terms by name. The training loss is their sum weighted by :meth:`loss_weights`.

        A method that overrides this instead of the two above trains on one device, in one piece.
        """
        return self.terms(self.represent(batch), batch)

    def terms(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """:meth:`objective` in float32, whatever precision it is called in; :meth:`networks` leads back to that."""
        kind = self.device.type
        self._autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        with torch.autocast(kind, enabled=False):
            return self.objective({k: _full(v) for k, v in representations.items()}, batch.without_images())

    def networks(self) -> torch.autocast:
        """The training's precision for networks that :meth:`objective` itself runs: ``with self.networks(): ...``. What they
        give is to be made ``.float()`` before pairs are compared.
        """
        return torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None)

    @classmethod
    def splits(cls) -> bool:
        """Whether the losses are made of :meth:`represent` and :meth:`objective`."""
        both = cls.represent is not Method.represent and cls.objective is not Method.objective
        return both and cls.losses is Method.losses

    def loss_weights(self) -> dict[str, float]:
        """Weights of the terms; a term not named has weight 1."""
        return {}

    def on_backward(self, batch: Batch) -> None:
        """Called between backward and the optimiser's step, e.g. to freeze a layer's gradient."""

    @abstractmethod
    def encode_image(self, images: Tensor) -> ImageFeatures:
        """[B, 3, H, W] normalised images -> features. Called in eval mode without gradient."""

    def of_films(self, images: Tensor, image_ids: Sequence[str]) -> ImageFeatures:
        """Features of films of a store: [B, 3, H, W] images and their hashed identifiers. What the transfer tasks ask.

        Default: :meth:`encode_image`. A method whose features were computed elsewhere looks them up.
        """
        return self.encode_image(images)

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        """Texts -> features. Called in eval mode without gradient."""

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """What detection and segmentation build on: [B, 3, H, W] normalised images -> maps [B, C, h, w], finest first.

        Either four maps of strides 4, 8, 16 and 32 over images whose side is a multiple of 32 (a pyramid), or one map
        whose cells tile the image (a patch grid). Default: the stages of an image encoder that has them (a ``cnn``, a
        ``vit`` on a CNN's stem), else the grid.
        A method whose image features come from a network of its own, not through ``image_encoder``, must override it;
        those two tasks refuse it otherwise. Called in eval mode without gradient.
        """
        if self.image_encoder.has_stages:
            return self.image_encoder.stages(images)
        return [self.image_encoder(images).grid.permute(0, 3, 1, 2).contiguous()]

    def similarity(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """[B_image, B_text] scores, higher = better match. Default: cosine of the joint embeddings."""
        return functional.normalize(image.joint, dim=-1) @ functional.normalize(text.joint, dim=-1).T

    def maps(self, images: Tensor, prompt: str) -> dict[str, Tensor]:
        """Where the method looks on each image for a prompt, by the name of the map: [B, 3, H, W] -> [B, h, w] each.

        Larger = more; the unit is the method's own. A map that does not depend on the image is given B times over. {}
        where the part of the method that aligns locally is switched off. A method that has maps lists ``maps`` among
        its capabilities. Called in eval mode without gradient.
        """
        return {}

    def pair_terms(self, image: Tensor, text: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Those terms of :meth:`losses` that see the pairs through their joint embeddings [B, E] alone, by name.

        What they do to two patients with equal findings can be read from their gradient
        (``benchmarks/analyses/false_negatives.py``). {} where a method has no such term.
        """
        return {}

    def diagnostics(self, batch: Batch) -> dict[str, float]:
        """What the method's parts do that no loss term shows, by name, for ``results/<study>/parts.md``; mostly {}.

        Called in eval mode without gradient.
        """
        return {}

    def learnt(self) -> dict[str, Tensor]:
        """Vectors on which trainings with other seeds should agree if they mean something (a weight over positions), by name.

        ``results/<study>/parts.md`` holds their agreement against that of vectors in random order; mostly {}.
        """
        return {}

    def forget_knowledge(self) -> None:
        """Make all knowledge entities alike, in the method's buffers and weights, to see whether it uses them.

        Raises
        ------
        NotImplementedError : a method that lists ``knowledge`` among its capabilities must say how.
        """
        raise NotImplementedError(f"{type(self).__name__} reads knowledge and must override forget_knowledge")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class Untrained(Method):
    """Base of the controls: nothing is optimised, and without a text side of its own there is none."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise self._refusal("is a control and is never trained", "keep trained: false")

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        raise self._refusal("has no text side", "list no text capability")

    def _refusal(self, problem: str, fix: str) -> UserError:
        folder = type(self).__module__.removesuffix(".model").replace(".", "/")
        return UserError(problem, where=f"{folder}/method.yaml", fix=fix)
