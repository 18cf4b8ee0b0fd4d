"""``mlip new-baseline`` and ``mlip check-baseline``: the way a method of one's own enters the tables."""

from __future__ import annotations

import re
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mlip.errors import UserError
from mlip.manifest import read_manifest
from mlip.methods import Entry, entries, method_class, method_folders
from mlip.paths import ROOT
from mlip.study import Study

MANIFEST = """\
id: {name}
title: {name}
paper: where it is described (title, venue, link)
citation: how to cite it
year: 2026
status: external
encoders: {{supports: [cnn, vit], prefers: cnn}}
capabilities: [zero_shot, retrieval]
components:
  text_to_image: {{default: true, doc: the text-to-image direction of the contrast, source: ours}}
parameters:
  dim: {{value: 128, source: ours, where: width of the joint space}}
  temperature: {{value: 0.07, source: ours, where: CLIP's initial value}}
recipes:
  smoke: {{epochs: 1, batch_size: 8, lr: 0.001, weight_decay: 0.05}}
  small: {{epochs: 10, batch_size: 48, lr: 0.001, weight_decay: 0.05}}
  paper: {{epochs: 50, batch_size: 144, lr: 0.00002, weight_decay: 0.05}}
"""

MODEL = '''\
"""{name}: replace this by one sentence on the method and a link to its paper."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from mlip.contract import Batch, ImageFeatures, Method, MethodContext, TextFeatures
from mlip.text.tokenisation import TokenBatch
from mlip.losses.contrastive import info_nce


class {cls}(Method):
    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        dim = self.params["dim"]
        self.image_head = nn.Linear(self.image_encoder.dim, dim)
        self.text_head = nn.Linear(self.text_encoder.dim, dim)

    def _text(self, tokens: TokenBatch) -> Tensor:
        return self.text_head(self.text_encoder(tokens).cls)

    def represent(self, batch: Batch) -> dict[str, Tensor]:
        return {{"image": self.image_head(self.image_encoder(batch.images).pooled), "text": self._text(batch.tokens)}}

    def objective(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        image, text = representations["image"], representations["text"]
        terms = {{"image_to_text": info_nce(image, text, self.params["temperature"])}}
        if self.components["text_to_image"]:
            terms["text_to_image"] = info_nce(text, image, self.params["temperature"])
        return terms

    def encode_image(self, images: Tensor) -> ImageFeatures:
        out = self.image_encoder(images)
        return ImageFeatures(out.pooled, out.grid, functional.normalize(self.image_head(out.pooled), dim=-1))

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        return TextFeatures(functional.normalize(self._text(self.tokenizer(texts).to(self.device)), dim=-1))
'''

README = """\
# {name}

What the method does, and its objective in formulae.

| key | what | where it comes from | default |
|---|---|---|---|
| `text_to_image` | the text-to-image direction of the contrast | ours | on |
| `dim` | width of the joint space | ours | 128 |
| `temperature` | of the contrast | CLIP's initial value | 0.07 |
"""


def new_baseline(name: str, parent: Path = ROOT / "baselines") -> Path:
    """Write ``baselines/<name>``: a plain image-text contrast that trains and passes the checks as it stands.

    Raises
    ------
    UserError : the name is not lower-case letters, digits, - and _, or it is taken.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise UserError(f"{name!r} is no name for a method", fix="use lower-case letters, digits, - and _")
    folder = parent / name
    if folder.exists() or name in method_folders():
        raise UserError("is there already", where=folder, fix="choose another name")
    folder.mkdir(parents=True)
    cls = "".join(part.capitalize() for part in re.split(r"[-_]", name))
    cls = cls if cls[0].isalpha() else f"Method{cls}"
    (folder / "method.yaml").write_text(MANIFEST.format(name=name), encoding="utf-8")
    (folder / "model.py").write_text(MODEL.format(name=name, cls=cls), encoding="utf-8")
    (folder / "README.md").write_text(README.format(name=name), encoding="utf-8")
    return folder


def check_baseline(name: str, verbose: bool = False, study: Study | None = None) -> Iterator[str]:
    """Run the contract suite (``mlip/run/contract``) over a method folder: one line per check, and a count at the end.

    Parameters
    ----------
    name : of a method folder, or its path where it lies outside the checkout; with ``study`` of a row with a checkpoint.
    verbose : print the whole traceback of each mistake below its line.

    Raises
    ------
    UserError : there is no such folder or row, its two files cannot be read, its checkpoint does not fit, or, after the last
        line, a check has failed.
    """
    from mlip.run.contract.subject import explain, shown
    from mlip.run.contract.suite import row_setting, run_suite, settings_of

    entry = _row(name, study) if study else None
    folder = entry.folder if entry else _folder(name)
    manifest = read_manifest(folder)
    try:
        kind = method_class(folder)
    except Exception as error:  # whatever stands at the top level of a method's file
        if verbose:
            yield "".join(traceback.format_exception(error))
        raise explain(error, folder.resolve(), shown(folder / "model.py")) from None
    if entry is not None and study is not None and entry.weights is not None:
        kind.check_weights(entry.weights, entry.encoder, study.input_side, entry.weights_key)
        settings = [row_setting(entry, kind, study)]
    else:
        settings = list(settings_of(manifest, folder, kind))
    yield f"{manifest.title}: {', '.join(setting.label for setting in settings)}"
    count: Counter[str] = Counter()
    for line in run_suite(settings, verbose):
        count[line.status] += 1
        yield line.text
    if count["FAILED"]:
        problem = f"{count['FAILED']} mistakes, {count['ok']} checks passed, {count['skipped']} skipped"
        raise UserError(problem, where=shown(folder), fix="see the lines above")
    yield f"{count['ok']} checks passed"


def _row(name: str, study: Study) -> Entry:
    rows, broken = entries(study)
    if name in broken:
        raise UserError(broken[name])
    if name not in rows or rows[name].weights is None:
        raise UserError(
            f"study {study.study} has no row {name!r} with weights",
            fix=f"one of {', '.join(n for n, e in rows.items() if e.weights)}; without --study a method's folder is checked",
        )
    return rows[name]


def _folder(name: str) -> Path:
    """A method's folder by its name, or by its path where it lies outside the checkout."""
    if (Path(name).expanduser() / "method.yaml").is_file() and "/" in name:
        return Path(name).expanduser().resolve()
    folders = method_folders()
    if name not in folders:
        raise UserError(
            f"there is no method folder {name!r}", where=ROOT / "baselines", fix=f"one of {sorted(folders)}"
        )
    return folders[name]
