"""Feature maps of a method: frozen, computed once per image and shared by all label fractions and draws of a job; or
trained, computed in every batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tasks.shared.dense.protocol import DenseProtocol
from benchmarks.tasks.shared.task import EvalJob
from benchmarks.tasks.shared.training import parameter_groups
from mlip.contract import Method
from mlip.data.pixels import load, to_tensor
from mlip.encoders.check import require_stages
from mlip.encoders.dependence import uses_image_encoder
from mlip.encoders.image import STRIDES
from mlip.errors import UserError

CHUNK = 32  # images encoded at once
CACHE_BYTES = 4 * 2**30  # beyond this the maps are computed anew in every batch


class MethodMaps:
    """A method's feature maps for dense tasks (:meth:`mlip.contract.Method.feature_maps`), finest first.

    A ``pyramid`` is the last ``levels`` of four maps of strides 4, 8, 16, 32; a ``grid`` is one map, a patch grid. It is
    no module, so that heads built on it neither train nor save the method.

    Parameters
    ----------
    method : the pre-trained method, on its device; its gradient is switched off and it goes into eval mode.
    image_size : side of the images in pixels. A ViT of the study sees them at its own input size.
    where : the method's folder, for errors.
    levels : how many maps of a pyramid are used.
    frozen : false: the network that makes the maps has gradients, and is trained as ``network``.
    taps : of a plain ViT the patch grids after these blocks, as of twelve, in place of the one after the last.

    Raises
    ------
    UserError : the method's image features do not come from its image encoder and it gives no maps of its own, or the
        maps are neither a pyramid nor a grid of the images.
    """

    def __init__(
        self,
        method: Method,
        image_size: int,
        where: str | Path,
        levels: int = 4,
        frozen: bool = True,
        taps: list[int] | None = None,
    ) -> None:
        self.method, self.where, self.levels = method.eval().requires_grad_(False), where, levels
        self.network: nn.Module | None = None
        self._taps: list[int] | None = None
        self._own = type(method).feature_maps is not Method.feature_maps
        self.side = image_size if self._own else method.image_encoder.map_side(image_size)
        draw = torch.Generator().manual_seed(0)
        images = torch.randn(2, 3, image_size, image_size, generator=draw).to(method.device)
        if not self._own:
            self._demand_encoder(images)
        with torch.no_grad():
            maps = self._all(images)
        self.kind: Literal["pyramid", "grid"] = "grid" if len(maps) == 1 else "pyramid"
        self._demand_shapes(maps)
        if taps is not None and self.kind == "grid":
            self._taps = self._blocks(taps)
            with torch.no_grad():
                maps = self._all(images)
        self.shapes = [tuple(m.shape[1:]) for m in maps[-levels:]]  # (C, h, w) of each map
        self.channels = [shape[0] for shape in self.shapes]
        self.strides = [self.side // shape[1] for shape in self.shapes]
        if not frozen:
            self.network = (self.method if self._own else self.method.image_encoder).requires_grad_(True)
            self._demand_gradient(images)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """[B, 3, S, S] normalised images -> maps [B, C, h, w], finest first."""
        return self._all(images)[-self.levels :]

    def _all(self, images: Tensor) -> list[Tensor]:
        with torch.set_grad_enabled(self.network is not None and torch.is_grad_enabled()):
            if self._taps is None:
                return self.method.feature_maps(images)
            encoder: Any = self.method.image_encoder
            wanted = sorted(set(self._taps))  # of a shallow ViT one block may stand for two
            grids = encoder.model.forward_intermediates(
                encoder.resize(images), indices=wanted, norm=False, output_fmt="NCHW", intermediates_only=True
            )
            return [grids[wanted.index(block)] for block in self._taps]

    def _blocks(self, taps: list[int]) -> list[int]:
        """The blocks of this ViT that stand for those of one of twelve."""
        model = getattr(self.method.image_encoder, "model", None)
        if self._own or not hasattr(model, "forward_intermediates"):
            raise UserError(
                "taps asks for the maps inside a ViT, which this method does not give",
                where=self.where,
                fix="use a protocol without taps, or an encoder of timm's",
            )
        depth = len(model.blocks)  # type: ignore[union-attr]
        return [max(0, round((tap + 1) * depth / 12) - 1) for tap in taps]

    def _demand_gradient(self, images: Tensor) -> None:
        if not all(m.requires_grad for m in self(images)):
            raise UserError(
                "the method's feature maps have no gradient, and this protocol trains the encoder",
                where=self.where,
                fix="compute feature_maps with one, or use a protocol with a frozen encoder",
            )

    def _demand_encoder(self, images: Tensor) -> None:
        if self.method.image_encoder.has_stages:
            require_stages(self.method.image_encoder, images.shape[-1])
        if not uses_image_encoder(self.method, images):
            raise UserError(
                "the method's image features do not come from its image_encoder, and it gives no feature maps of the "
                "network they come from",
                where=self.where,
                fix="override feature_maps (mlip/contract.py), or set `feature_maps: false` in method.yaml: the cells are then skipped",
            )

    def _demand_shapes(self, maps: list[Tensor]) -> None:
        sizes = [tuple(m.shape[2:]) for m in maps]
        if self.kind == "grid":
            fits = maps[0].ndim == 4 and sizes[0][0] == sizes[0][1] and self.side % sizes[0][0] == 0
        else:
            fits = self.side % 32 == 0 and sizes == [(self.side // s, self.side // s) for s in STRIDES]
        if not fits:
            raise UserError(
                f"feature maps of {', '.join('x'.join(map(str, s)) for s in sizes) or 'nothing'} cells for images of "
                f"{self.side} pixels are neither strides 4, 8, 16, 32 nor one grid that tiles the image",
                where=self.where if self._own else "encoders",
                fix="see feature_maps in mlip/contract.py"
                if self._own
                else "choose another image encoder or image_size",
            )


class TrainedFeatures:
    """The maps of one data set's images by a network that is trained, computed in every batch.

    Parameters
    ----------
    maps : the method's, not frozen.
    images : uint8 [N, S, S], may be memory-mapped.
    device : where batches go.
    """

    def __init__(self, maps: MethodMaps, images: np.ndarray, device: torch.device) -> None:
        assert maps.network is not None
        self.maps, self.images, self.device, self.network = maps, images, device, maps.network
        self._start = {k: v.detach().clone() for k, v in self.network.state_dict().items()}

    def begin(self, head: nn.Module, protocol: DenseProtocol) -> tuple[nn.Module, list[dict[str, Any]]]:
        """The network as it was pre-trained, together with what stands on it, and the optimiser's groups of both."""
        self.network.load_state_dict(self._start)
        groups = parameter_groups(self.network, [head], protocol.weight_decay, protocol.layer_decay)
        return nn.ModuleList([head, self.network]), groups

    def prepare(self, rows: np.ndarray) -> None:
        """Nothing can be computed before it is asked for."""

    def films(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [B, S, S] of these rows."""
        return load(self.images, rows)

    def of_films(self, films: np.ndarray) -> list[Tensor]:
        """Maps of these uint8 films [B, S, S], each float32 [B, C, h, w] on the device, finest first."""
        return self.maps(to_tensor(films, self.device))

    def batch(self, rows: np.ndarray) -> list[Tensor]:
        """Maps of these rows as the store holds them."""
        return self.of_films(self.films(rows))


class FrozenFeatures:
    """The maps of one data set's images, kept in memory once computed.

    Parameters
    ----------
    maps : the frozen method's maps.
    images : uint8 [N, S, S], may be memory-mapped.
    rows : every row that may be asked for; memory is only touched for those that are.
    device : where batches go.
    """

    def __init__(self, maps: MethodMaps, images: np.ndarray, rows: np.ndarray, device: torch.device) -> None:
        self.maps, self.images, self.device = maps, images, device
        rows = np.unique(rows)
        size = 4 * len(rows) * sum(int(np.prod(shape)) for shape in maps.shapes)
        self.cached = size <= CACHE_BYTES
        self._slot = np.full(len(images), -1, dtype=np.int64)
        if self.cached:
            self._slot[rows] = np.arange(len(rows))
            self._store = [torch.empty(len(rows), *shape) for shape in maps.shapes]
            self._done = np.zeros(len(rows), dtype=bool)

    def begin(self, head: nn.Module, protocol: DenseProtocol) -> tuple[nn.Module, None]:
        """What is trained: the head alone, in one group."""
        return head, None

    def prepare(self, rows: np.ndarray) -> None:
        """Compute the maps of these rows now, in chunks, where they are cached and not yet there."""
        if not self.cached:
            return
        rows = np.unique(rows)
        rows = rows[~self._done[self._slot[rows]]]
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            slots = self._slot[chunk]
            for store, value in zip(self._store, self._encode(chunk), strict=True):
                store[torch.from_numpy(slots)] = value.cpu()
            self._done[slots] = True

    def batch(self, rows: np.ndarray) -> list[Tensor]:
        """Maps of these rows in their order, each float32 [B, C, h, w] on the device, finest first."""
        if not self.cached:
            return self._encode(rows)
        self.prepare(rows)
        slots = torch.from_numpy(self._slot[rows])
        return [store[slots].to(self.device) for store in self._store]

    def _encode(self, rows: np.ndarray) -> list[Tensor]:
        with torch.no_grad():
            return self.maps(to_tensor(load(self.images, rows), self.device))


Features = FrozenFeatures | TrainedFeatures


def features_of(
    job: EvalJob, images: np.ndarray, known: np.ndarray, levels: int = 4, taps: list[int] | None = None
) -> Features:
    """The features of the job's pre-trained method, frozen or trained as its protocol says.

    ``known`` [N] bool: the images that maps are asked of. Errors are those of :class:`MethodMaps` and of the checkpoint.
    """
    from mlip.pretraining.checkpoints import load_method

    assert job.entry is not None
    frozen = job.protocol.frozen
    method = load_method(job.study, job.entry, job.seed).to(job.device)
    maps = MethodMaps(method, job.study.image_size, job.entry.folder, levels, frozen, taps)
    return (
        FrozenFeatures(maps, images, np.flatnonzero(known), job.device)
        if frozen
        else TrainedFeatures(maps, images, job.device)
    )
