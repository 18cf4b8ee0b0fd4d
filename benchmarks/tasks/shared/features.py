"""Frozen features: every image of a store is encoded once per method and pre-training seed; all probes read the file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mlip.errors import UserError
from mlip.log import progress

if TYPE_CHECKING:
    import torch

    from mlip.contract import ImageFeatures, Method
    from mlip.data.store import Store
    from mlip.methods import Entry
    from mlip.study import Study

BATCH = 64


def fingerprint(store: Store) -> str:
    """16 hex characters that change with the images of a store, their order or their size.

    Taken from the manifest's size and the hashed ids and perceptual hashes in the records, so that a store of hundreds
    of gigabytes is not read again to be recognised.
    """
    digest = hashlib.sha256(f"{store.images.shape}".encode())
    for column in ("image_id", "dhash"):
        digest.update("\x1f".join(store.records[column].astype(str)).encode())
    return digest.hexdigest()[:16]


def encode_images(
    method: Method,
    images: np.ndarray,
    rows: Sequence[int] | np.ndarray,
    device: torch.device,
    title: str,
    ids: Sequence[str] | np.ndarray = (),
    crop: int | None = None,
) -> Iterator[tuple[np.ndarray, ImageFeatures]]:
    """Encode ``images[rows]`` (uint8 [N, S, S]) in batches of 64; yields (positions in ``rows`` [B], features of them).

    ``ids``: the hashed identifiers of ``images`` [N], for methods that look films up. ``crop``: the study's ``crop_size``.
    """
    import torch

    from mlip.data.pixels import centre, to_tensor

    rows = np.asarray(rows, dtype=np.int64)
    with progress() as bar:
        task = bar.add_task(title, total=len(rows))
        for start in range(0, len(rows), BATCH):
            positions = np.arange(start, min(start + BATCH, len(rows)))
            with torch.inference_mode():
                batch = to_tensor(centre(np.asarray(images[rows[positions]]), crop)).to(device)
                names = [ids[row] for row in rows[positions]] if len(ids) else []
                features = method.of_films(batch, names)
            yield positions, features
            bar.advance(task, len(positions))


def extract(study: Study, entry: Entry, seed: int, dataset: str, device: torch.device, made_by: str = "") -> None:
    """Write ``pooled`` [N, D] (float32, rows as in records.parquet) of one method on one data set.

    The file appears only when it is complete. Its metadata holds the method, the seed, the data set, the store's
    :func:`fingerprint`, which :func:`read_features` compares, and ``made_by``, the fingerprint of the file itself.

    Raises
    ------
    UserError : a store or the checkpoint is missing, or the method gives numbers that are not finite.
    """
    from safetensors.numpy import save_file

    from mlip.data.store import open_store
    from mlip.paths import StudyPaths
    from mlip.pretraining.checkpoints import load_method

    method, paths = load_method(study, entry, seed).to(device), StudyPaths(study)
    store = open_store(paths.data(dataset))
    count = len(store.records)
    pooled: np.ndarray | None = None
    title, ids = f"{entry.name} {dataset}", store.records["image_id"].to_numpy()
    crop = study.crop_size
    for positions, features in encode_images(method, store.images, np.arange(count), device, title, ids, crop):
        values = features.pooled.float().cpu().numpy()
        if not np.isfinite(values).all():
            raise UserError(
                f"the features of {dataset} are not finite",
                where=paths.pretrain(entry.name, seed),
                fix="look for a diverged loss in metrics.jsonl and train again",
            )
        if pooled is None:
            pooled = np.empty((count, values.shape[1]), dtype=np.float32)
        pooled[positions] = values
    assert pooled is not None  # a store holds at least one image
    path = paths.features(entry.name, seed, dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    about = {"method": entry.name, "seed": str(seed), "dataset": dataset, "store": fingerprint(store)}
    about["fingerprint"] = made_by
    try:
        save_file({"pooled": pooled}, part, metadata=about)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def fingerprint_of_features(path: Path) -> str:
    """By what a features file was made, "" where it does not say; UserError where it is missing or damaged."""
    with _opened(path) as file:
        return (file.metadata() or {}).get("fingerprint", "")


def read_features(path: Path, store: Store) -> np.ndarray:
    """The pooled features of a store, float32 [N, D], rows as in records.parquet.

    Raises
    ------
    UserError : the file is missing or damaged, or it was made from another store than ``store``.
    """
    with _opened(path) as file:
        made_from = (file.metadata() or {}).get("store")
        pooled = file.get_tensor("pooled")
    if made_from != fingerprint(store):
        raise UserError(
            "was made from other images than the store now holds",
            where=path,
            fix="delete it; snakemake extracts it anew",
        )
    return pooled


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise UserError("features have not been extracted yet", where=path, fix="run snakemake, which extracts them")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"is not readable ({error})", where=path, fix="delete it; snakemake extracts it anew") from None
