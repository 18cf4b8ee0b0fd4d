"""Batch norms of an untrained encoder, set on training films: without it a random network is worse than it need be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from mlip.data.pixels import centre, load, to_tensor
from mlip.data.splits import part_rows, read_splits
from mlip.data.store import open_store
from mlip.paths import StudyPaths

if TYPE_CHECKING:
    from mlip.study import Study

FILMS, BATCH = 512, 64


def calibrate(encoder: nn.Module, study: Study) -> None:
    """Replace the running mean and variance of each batch norm by those of the first 512 training films, no label read.

    A fresh batch norm passes its input on as it is (mean 0, variance 1), which in a deep random network lets the
    activations shrink to nothing. Does nothing where the encoder has no batch norm.
    """
    films = []
    for name in study.pretrain.datasets:
        store = open_store(StudyPaths(study).data(name))
        rows = part_rows(read_splits(StudyPaths(study).splits(name)), "train")[: FILMS // len(study.pretrain.datasets)]
        films += [load(store.images, chunk) for chunk in np.array_split(rows, -(-len(rows) // BATCH)) if len(chunk) > 1]
    with torch.no_grad():
        update_bn([to_tensor(centre(chunk, study.crop_size)) for chunk in films], encoder)
