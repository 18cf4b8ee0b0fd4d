"""The archives that the providers give, made from the mini data sets in the readers' layouts, and address files that name them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import yaml

from mlip.fetch.addresses import FOLDER
from tests.data.layouts import WRITERS
from tests.fetch.server import Served, Server


def tar(members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> bytes:
    """An archive of these files by their path; a ``TarInfo`` is put in as it is (links)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                archive.addfile(info)
    return out.getvalue()


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def provided(name: str, folder: Path) -> dict[str, bytes]:
    """What the provider of a data set gives, by the names of its address file, with what else lies in its archives."""
    WRITERS[name](folder)
    held = files_below(folder)
    if name == "iu_xray":
        films = {k.removeprefix("NLMCXR_png/"): v for k, v in held.items() if k.startswith("NLMCXR_png/")}
        reports = {k: v for k, v in held.items() if k.startswith("ecgen-radiology/")}
        return {"NLMCXR_png.tgz": tar({**films, "._left.png": b"x"}), "NLMCXR_reports.tgz": tar(reports)}
    if name == "covid_chestxray":
        top, boxes = "covid-chestxray-dataset-master", "annotations/imageannotation_ai_lung_bounding_boxes.json"
        kept = {f"{top}/{k}": v for k, v in held.items() if k == "metadata.csv" or k.startswith("images/")}
        kept |= {f"{top}/{boxes}": held["annotations/annotations.json"], f"{top}/volumes/ct.nii.gz": b"not wanted"}
        return {"covid-chestxray-dataset.tar.gz": tar({**kept, f"{top}/README.md": b"read"})}
    found = {n: held[n] for n in ("train_val_list.txt", "test_list.txt")}
    found["Data_Entry_2017_v2020.csv"] = held["Data_Entry_2017.csv"]
    for part in ("images_001", "images_002"):
        films = {k.removeprefix(f"{part}/"): v for k, v in held.items() if k.startswith(f"{part}/")}
        found[f"{part}.tar.gz"] = tar(films)
    return found


def serve(name: str, server: Server, tmp_path: Path, addresses: Path) -> dict[str, bytes]:
    """Serve a data set, and write its real address file into ``addresses`` with local addresses in place of the real ones."""
    (tmp_path / "provider").mkdir(parents=True, exist_ok=True)
    given = provided(name, tmp_path / "provider")
    raw = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    raw["files"] = [file for file in raw["files"] if file["name"] in given]
    for file in raw["files"]:
        server.files[file["name"]] = Served(given[file["name"]])
        file["url"] = server.url(file["name"])
    addresses.mkdir(exist_ok=True)
    (addresses / f"{name}.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return given
