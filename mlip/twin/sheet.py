"""A contact sheet: one film per finding with its outlines, to be looked at."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mlip.seeding import generator
from mlip.twin.anatomy import read_anatomies
from mlip.twin.chest import Chest
from mlip.twin.devices import draw_device
from mlip.twin.findings import Plan, draw
from mlip.twin.hospital import hospital
from mlip.twin.radiograph import Film, expose

# name, side, place, severity, kind, hospital, view
EXAMPLES: tuple[tuple[str, str, str, float, str, str, str], ...] = (
    ("No Finding", "", "", 0.0, "", "reference", "PA"),
    ("Pneumonia", "right", "right lower lobe", 0.6, "lobar", "reference", "PA"),
    ("Pneumonia", "left", "left upper lobe", 0.4, "lobar", "portable", "AP"),
    ("Pneumonia", "bilateral", "", 0.6, "covid", "pandemic", "AP"),
    ("Pleural Effusion", "right", "", 0.35, "", "reference", "PA"),
    ("Pleural Effusion", "left", "", 0.8, "", "west", "AP"),
    ("Pneumothorax", "left", "", 0.35, "", "bright", "PA"),
    ("Pneumothorax", "right", "", 0.8, "", "bright", "AP"),
    ("Cardiomegaly", "", "", 0.7, "", "reference", "PA"),
    ("Edema", "bilateral", "", 0.8, "", "west", "AP"),
    ("Atelectasis", "left", "base", 0.6, "plate", "west", "AP"),
    ("Atelectasis", "right", "base", 0.7, "volume loss", "portable", "AP"),
    ("Lung Lesion", "right", "right upper lobe", 0.5, "mass", "reference", "PA"),
    ("Lung Lesion", "left", "left upper lobe", 0.4, "nodule", "reference", "PA"),
    ("Support Devices", "left", "", 0.5, "pacemaker", "west", "PA"),
    ("Support Devices", "right", "", 0.5, "chest tube", "portable", "AP"),
    ("Support Devices", "", "", 0.5, "endotracheal tube", "portable", "AP"),
    ("Foreign object", "", "", 0.5, "necklace", "township", "PA"),
    ("Foreign object", "", "", 0.5, "coin", "township", "PA"),
    ("Foreign object", "", "", 0.5, "hairpin", "township", "PA"),
)


def contact_sheet(path: Path, anatomy_path: Path, seed: int = 0, columns: int = 5) -> None:
    """Write a sheet of :data:`EXAMPLES` as PNG or JPEG: each film beside itself with outlines and boxes."""
    source = read_anatomies(anatomy_path)
    tiles = [
        _tile(Chest(source, k % source.count), example, generator(seed, "sheet", k))
        for k, example in enumerate(EXAMPLES)
    ]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.vstack(rows))


def _tile(chest: Chest, example: tuple[str, str, str, float, str, str, str], rng: np.random.Generator) -> np.ndarray:
    name, side, place, severity, kind, where, view = example
    plan = Plan(name, side, place, severity, kind, int(rng.integers(2**31)))
    device = name in ("Support Devices", "Foreign object")
    drawn = [] if name == "No Finding" else [draw_device(plan, chest) if device else draw(plan, chest)]
    film = expose(chest, drawn, hospital(where), view, "F" if rng.random() < 0.5 else "M", rng)
    title = kind if device or kind == "covid" else f"{name} {side}".strip()
    bar = np.zeros((16, 2 * chest.size, 3), np.uint8)
    cv2.putText(
        bar, f"{title}, {where} {view}", (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 1, cv2.LINE_AA
    )
    plain = cv2.cvtColor(film.image, cv2.COLOR_GRAY2BGR)
    return np.vstack([bar, np.hstack([plain, outlined(film)])])


def outlined(film: Film) -> np.ndarray:
    """The film as uint8 [S, S, 3] (BGR) with outlines in yellow and boxes in blue."""
    image = cv2.cvtColor(film.image, cv2.COLOR_GRAY2BGR)
    for finding in film.findings:
        for mask in finding.instances:
            outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(image, outlines, -1, (60, 220, 255), 1)
            x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
            cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), (255, 140, 60), 1)
    return image
