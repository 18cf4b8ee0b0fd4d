"""Random weights in the place of those that a study loads from the Hugging Face hub, laid out as the hub's cache on disk.

For a rehearsal where there is no network: timm and transformers load them as they load the real ones, by the same names,
files and tensors, where ``HF_HUB_CACHE`` names the folder and ``HF_HUB_OFFLINE=1`` forbids to ask the hub. Nothing in a study
changes, and nothing that comes of it means anything.
"""

from __future__ import annotations

import json
import re
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip.errors import UserError
from mlip.methods import entries
from mlip.seeding import seed_everything
from mlip.text.tokenisation import SPECIAL

if TYPE_CHECKING:
    from mlip.study import Study

REVISION = "0" * 40  # a commit that no repository has
PIECES = 28996  # of Bio_ClinicalBERT's vocabulary, which is BERT-base cased's; its other sizes are BertConfig's own
UNUSED = 99


def write_stand_ins(study: Study, folder: Path) -> list[str]:
    """Write what the study's rows ask of the hub into ``folder``; what is there is left. The names of the repositories.

    Raises
    ------
    UserError : ``folder`` is a cache that holds a real revision of one of them: its files are not to be replaced.
    """
    from timm.models import get_pretrained_cfg

    rows, _ = entries(study)
    configs = [entry.image_config(study) for entry in rows.values() if not entry.external]
    written = []
    for name in sorted({config.name for config in configs if config.pretrained == "hub"}):
        found = get_pretrained_cfg(name)
        assert found is not None and found.hf_hub_id  # the study's check has asked
        written.append(str(found.hf_hub_id))
        if place := _place(folder, written[-1]):
            _write_image(place, name, study.seed)
    text = study.encoders.text.pretrained
    if text and not Path(text).expanduser().is_dir():
        written.append(text)
        if place := _place(folder, text):
            _write_bert(place, study.seed)
    return written


def _place(folder: Path, repository: str) -> Path | None:
    """An empty snapshot of a repository in the cache; None where this module has written one before."""
    home = folder / f"models--{repository.replace('/', '--')}"
    pointer = home / "refs" / "main"
    if pointer.is_file():
        if pointer.read_text(encoding="utf-8").strip() == REVISION:
            return None
        raise UserError(f"holds {repository} itself", where=folder, fix="name another folder for the stand-ins")
    place = home / "snapshots" / REVISION
    place.mkdir(parents=True, exist_ok=True)
    return place


def _done(place: Path) -> None:
    """The pointer to a snapshot is written last: without it there is none."""
    pointer = place.parent.parent / "refs" / "main"
    pointer.parent.mkdir(exist_ok=True)
    pointer.write_text(REVISION, encoding="utf-8")


def _write_image(place: Path, name: str, seed: int) -> None:
    """``model.safetensors`` of timm: the network with the classifier that its weights were trained with."""
    import timm
    from safetensors.torch import save_file

    seed_everything(seed, "stand-in", name)
    state = timm.create_model(name, pretrained=False).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, place / "model.safetensors")
    _done(place)


def _write_bert(place: Path, seed: int) -> None:
    """What Bio_ClinicalBERT's repository holds: a pre-training model with prefix and heads as a torch file, and a vocabulary."""
    import torch
    from transformers.models.bert import BertConfig, BertForPreTraining

    seed_everything(seed, "stand-in", "bert")
    config = BertConfig(vocab_size=PIECES)
    torch.save(BertForPreTraining(config).state_dict(), place / "pytorch_model.bin")
    config.save_pretrained(place)
    (place / "vocab.txt").write_text("\n".join(_vocabulary()) + "\n", encoding="utf-8")
    settings: dict[str, Any] = {"do_lower_case": False, "model_max_length": 512}
    (place / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    _done(place)


def _vocabulary() -> list[str]:
    """28,996 pieces: BERT's special ones, letters, the words of virtual reports, and as many unused as are left."""
    letters = [c for c in string.printable if not c.isspace()]
    words = sorted(set(re.findall(r"[A-Za-z]{2,}", _written())))
    pieces = ["[PAD]", *(f"[unused{n}]" for n in range(1, UNUSED + 1)), *(s for s in SPECIAL if s != "[PAD]")]
    pieces += [*letters, *(f"##{c}" for c in letters), *words]
    return [*pieces, *(f"[unused{n}]" for n in range(UNUSED + 1, UNUSED + 1 + PIECES - len(pieces)))]


def _written() -> str:
    """The sentences that virtual radiologists choose from."""
    from mlip.twin import phrases

    return " ".join(str(value) for name, value in vars(phrases).items() if name.isupper())
