"""Which collections the films of a reader come from: what a checkpoint that others trained may have seen of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Collections by reader, the reader's own first. Of those that were put together from others (docs/datasets.md) all are named.
SOURCES: dict[str, tuple[str, ...]] = {
    "chexpert": ("CheXpert",),
    "covid_chestxray": ("COVID-19 image data collection", "covid-chestxray-dataset"),
    "covidx": (
        "COVIDx",
        "COVID-19 image data collection",
        "covid-chestxray-dataset",
        "RSNA Pneumonia",
        "NIH ChestX-ray14",
    ),
    "iu_xray": ("IU X-ray", "Open-i", "Indiana University"),
    "mimic_cxr": ("MIMIC-CXR",),
    "nih": ("NIH ChestX-ray14", "ChestX-ray8", "RSNA Pneumonia", "SIIM-ACR"),
    "object_cxr": ("Object-CXR",),
    "rsna": ("RSNA Pneumonia", "NIH ChestX-ray14", "ChestX-ray8"),
    "siim": ("SIIM-ACR", "NIH ChestX-ray14", "ChestX-ray8"),
}


def comes_from(reader: str, trained_on: Sequence[str]) -> list[str]:
    """Those of the names that mean a collection which a reader's films are from; letters and digits alone are compared, from
    the beginning: ``MIMIC-CXR-JPG v2.0`` is MIMIC-CXR.
    """
    own = [_plain(name) for name in (*SOURCES.get(reader, ()), reader)]
    return [
        n
        for n in trained_on
        if len(_plain(n)) > 2 and any(_plain(n).startswith(o) or o.startswith(_plain(n)) for o in own)
    ]


def is_known(name: str) -> bool:
    """Whether a name means a collection that some reader's films are from."""
    return any(comes_from(reader, [name]) for reader in SOURCES)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
