"""Building methods from their folder, and loading what pre-training exported. Weights are always loaded strictly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_model

from mlip.data.catalogue import namespace_of
from mlip.data.privacy import hash_id, read_salt
from mlip.encoders.image import ImageEncoder
from mlip.encoders.text import TextEncoder
from mlip.errors import UserError
from mlip.knowledge.entities import Knowledge
from mlip.methods import Entry, method_class
from mlip.paths import StudyPaths
from mlip.seeding import seed_everything
from mlip.study import NORMALISATIONS
from mlip.text.tokenisation import Tokenizer

if TYPE_CHECKING:
    from mlip.contract import Method
    from mlip.study import Study

HALF = NORMALISATIONS["half"]


def build_method(study: Study, entry: Entry, seed: int = 0, start: bool = True) -> Method:
    """A freshly initialised method on the CPU. Without ``start`` its image encoder does not read the weights that it starts
    from: for a method that is about to be loaded.

    The image encoder, the text encoder and the method's heads are seeded separately, so that all methods with the
    same encoder (the random control too) start from the very same encoder weights.
    """
    from mlip.contract import MethodContext

    paths = StudyPaths(study)
    tokenizer = Tokenizer.load(paths.tokenizer)
    image_encoder = build_image_encoder(study, entry, seed, start)
    seed_everything(study.seed, "init-text", entry.training_seed(seed))
    text_encoder = TextEncoder(study.encoders.text, tokenizer.vocabulary)
    knowledge = Knowledge.load(paths.knowledge) if entry.reads_knowledge else None
    seed_everything(study.seed, "init-heads", entry.training_seed(seed))
    context = MethodContext(
        image_encoder, text_encoder, tokenizer, knowledge, dict(entry.params), dict(entry.components)
    )
    if entry.weights is None:
        return method_class(entry.folder)(context)
    context.weights, context.key, context.hashed = entry.weights, entry.weights_key, _hashed(study)
    context.released = entry.manifest.released
    method = method_class(entry.folder)(context)
    if start:
        method.load_weights(entry.weights, entry.weights_key)
    return method


def _hashed(study: Study) -> Callable[[str], list[str]]:
    """A film's own identifier -> those that it has in the stores of the study's data sets."""
    salt, namespaces = read_salt(StudyPaths(study).salt), sorted({namespace_of(study, name) for name in study.datasets})
    return lambda raw: [hash_id(f"{namespace}/image", raw, salt) for namespace in namespaces]


def build_image_encoder(study: Study, entry: Entry, seed: int = 0, start: bool = True) -> ImageEncoder:
    """A freshly initialised image encoder of the row's kind."""
    config = entry.image_config(study)
    seed_everything(study.seed, "init-image", entry.training_seed(seed))
    if entry.weights is None:
        used = config if start else config.without_weights()
        return ImageEncoder(used, entry.encoder, study.input_side, where=entry.encoder_key)
    return ImageEncoder(
        config, entry.encoder, study.input_side, grey=entry.weights.grey or HALF, where=entry.weights_key
    )


def load_method(study: Study, entry: Entry, seed: int) -> Method:
    """The pre-trained method in eval mode on the CPU.

    Raises
    ------
    UserError : the checkpoint is missing or does not fit the method as configured.
    """
    path = StudyPaths(study).pretrain(entry.name, seed) / "method.safetensors"
    method = build_method(study, entry, seed, start=False)
    _require(path)
    try:
        load_model(method, path, strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise _misfit(path, error) from None
    return method.eval()


def read_card(folder: Path) -> dict[str, Any]:
    """``card.json`` of a training: its fingerprint, code, cost, versions.

    Raises
    ------
    UserError : there is none, or it is damaged.
    """
    path = folder / "card.json"
    _require(path)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        raise UserError("is not valid JSON", where=path, fix="delete its folder and run again") from None


def _require(path: Path) -> None:
    if not path.is_file():
        raise UserError("has not been trained yet", where=path, fix="run snakemake, which trains what is missing")


def _misfit(path: Path, error: Exception) -> UserError:
    first = " ".join(str(error).split())[:200]
    return UserError(
        f"does not fit the method as configured ({first})",
        where=path,
        fix="delete the folder, snakemake trains it anew",
    )
