"""What every reader must give for a fixed fixture: counts, label sums, and pixels to within a tolerance.

``golden.json`` holds the expected values. After a change that is *meant* to move them:
``python -m tests.data.golden > tests/data/golden.json``, and the change is explained in the commit.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mlip.data.catalogue import readers
from mlip.data.records import Reader, Record
from mlip.paths import ROOT
from mlip.study import TwinConfig, load_study
from mlip.twin.anatomy import build_anatomies
from mlip.twin.catalogue import twin_writer

EXPECTED = Path(__file__).with_suffix(".json")
HOSPITALS = {
    "mimic_cxr": "reference",
    "chexpert": "west",
    "rsna": "portable",
    "siim": "bright",
    "covidx": "pandemic",
    "object_cxr": "township",
    "nih": "reference",
    "iu_xray": "reference",
    "covid_chestxray": "pandemic",
    "image_csv": "portable",
}
# Of the reader that reads nothing but what the study asks for, all that the smoke study asks for.
OPTIONS: dict[str, dict[str, Any]] = {
    name: config.options
    for name, config in load_study(ROOT / "config" / "smoke.yaml").datasets.items()
    if config.options
}
FILMS, SIZE, SEED = 40, 64, 11
GRID = 4  # cells per side of the coarse picture
GREY = (
    1.0  # grey levels that a cell's mean, a film's mean or its standard deviation may move: decoders round differently
)


def write_fixtures(folder: Path) -> None:
    """One folder of virtual patients per reader."""
    build_anatomies(folder / "anatomy.npz", TwinConfig(anatomies=2, size=SIZE, datasets={}), SEED, 1)
    for name, hospital in HOSPITALS.items():
        twin_writer(name).write(folder / name, folder / "anatomy.npz", FILMS, hospital, SIZE, SEED, workers=1)


def summary(name: str, root: Path) -> dict[str, Any]:
    """What a reader gives, in numbers."""
    options = readers()[name].Options.model_validate(OPTIONS.get(name, {}))
    reader = readers()[name].configured(options)
    version, records = reader.verify(root, options), reader.records(root, options)
    films = [reader.load_image(r) for r in records]
    return {
        "version": version,
        "images": len(records),
        "patients": len({r.patient_id for r in records}),
        "parts": {p: sum(r.official_split == p for r in records) for p in sorted({r.official_split for r in records})},
        "report_words": sum(len(r.report.split()) for r in records),
        "labels": {label: _cases(records, label) for label in reader.labels},
        "boxes": sum(len(r.boxes) for r in records),
        "box_area": round(sum(b.width * b.height for r in records for b in r.boxes), 1),
        "mask_pixels": _mask_pixels(reader, records),
        "shapes": sorted({film.shape for film in films}),
        "means": [round(float(film.mean()), 2) for film in films],
        "deviations": [round(float(film.std()), 2) for film in films],
        "coarse": [np.round(coarse(film), 1).tolist() for film in films[:3]],
    }


def coarse(film: np.ndarray) -> np.ndarray:
    """Mean grey of ``GRID`` x ``GRID`` cells, [GRID * GRID]."""
    return np.array([cell.mean() for band in np.array_split(film, GRID) for cell in np.array_split(band, GRID, axis=1)])


def _cases(records: list[Record], label: str) -> list[int]:
    """Number of positive, negative, uncertain and unknown films."""
    values = np.array([r.labels[label] for r in records])
    return [int((values == v).sum()) for v in (1, 0, -1)] + [int(np.isnan(values).sum())]


def _mask_pixels(reader: Reader, records: list[Record]) -> int:
    masks = [reader.load_mask(r) for r in records if r.mask is not None]
    return int(sum(int(m.sum()) for m in masks if m is not None))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        write_fixtures(Path(name))
        found = {reader: summary(reader, Path(name) / reader) for reader in sorted(HOSPITALS)}
    lines = ",\n".join(
        f'"{reader}": {{\n' + ",\n".join(f' "{k}": {json.dumps(v)}' for k, v in values.items()) + "\n}"
        for reader, values in found.items()
    )
    sys.stdout.write(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
