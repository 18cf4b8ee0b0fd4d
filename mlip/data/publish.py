"""A division written with the data set's own identifiers, for others who hold the data; ``lists:<folder>`` reads it again."""

from __future__ import annotations

import json
from pathlib import Path

from mlip.data.catalogue import namespace_of, resolve
from mlip.data.privacy import hash_id, read_salt
from mlip.data.splits import part_rows, read_splits
from mlip.data.store import open_store
from mlip.errors import UserError
from mlip.paths import ROOT, StudyPaths
from mlip.study import Study

PARTS = ("train", "val", "test")


def export_splits(study: Study, name: str, folder: Path) -> dict[str, int]:
    """Write ``train.txt``, ``val.txt`` and ``test.txt`` (an image a line, raw identifiers) and ``about.json`` into a new folder.

    Returns the number of images by part.

    Raises
    ------
    UserError : the folder is not empty or lies in the results, the splits are not built, or a film is in two parts.
    """
    paths = StudyPaths(study)
    for results in (study.results, ROOT / "results"):
        if folder.resolve().is_relative_to(results.resolve()):
            raise UserError(
                "lies among the results, which never hold raw identifiers", where=folder, fix="name another folder"
            )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("is there and not empty", where=folder, fix="name a new folder")
    reader, options = resolve(study, name)
    config, store, splits = study.datasets[name], open_store(paths.data(name)), read_splits(paths.splits(name))
    salt = read_salt(paths.salt)
    kind = f"{namespace_of(study, name)}/image"
    raw = {hash_id(kind, r.image_id, salt): r.image_id for r in reader.records(config.root, options)}
    images = store.records.image_id.to_numpy()
    if unknown := sum(image not in raw for image in images):
        raise UserError(
            f"holds {unknown} images that are not in {config.root} under this salt",
            where=paths.data(name),
            fix="build the store of this data set again",
        )
    lists = {part: [raw[image] for image in images[part_rows(splits, part)]] for part in PARTS}
    if twice := sum(map(len, lists.values())) - len(set().union(*lists.values())):
        raise UserError(
            f"has {twice} images in two parts ({config.split}), which lists cannot say",
            where=paths.splits(name),
            fix=f"publish the rule: datasets.{name}.split: {config.split}",
        )
    if broken := [image for image in raw.values() if image != image.strip() or not image.isprintable()]:
        raise UserError(f"{len(broken)} identifiers are no line of text", where=config.root, fix="rename these images")
    side = json.loads(paths.splits(name).with_suffix(".json").read_text(encoding="utf-8"))
    about = {
        "data": reader.title,
        "reader": config.reader,
        "version": store.manifest["version"],
        "rule": config.split,
        "seed": study.seed,
        "counts": {part: len(names) for part, names in lists.items()},
        "notes": side["notes"],
        "content": side["content"],  # of rows, parts and label draws: equal where another holder gets the same
    }
    folder.mkdir(parents=True, exist_ok=True)
    for part, names in lists.items():
        (folder / f"{part}.txt").write_text("".join(f"{image}\n" for image in names), encoding="utf-8")
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return {part: len(names) for part, names in lists.items()}
