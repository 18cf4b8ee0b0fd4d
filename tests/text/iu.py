"""The 3,955 Indiana University reports inside torchxrayvision's package, read from it without importing it."""

from __future__ import annotations

import importlib.util
import tarfile
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import pytest


@cache
def iu_reports() -> list[tuple[dict[str, str], list[str]]]:
    """(section texts by title, MeSH codes given by the indexers) of every report. Read at test time, never copied."""
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("torchxrayvision, whose package holds real reports, is not installed")
    found = []
    with tarfile.open(Path(spec.submodule_search_locations[0]) / "data" / "NLMCXR_reports.tgz") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".xml") else None
            if file is not None:
                tree = ElementTree.fromstring(file.read())
                sections = {a.get("Label", ""): a.text or "" for a in tree.iter("AbstractText")}
                found.append((sections, [code.text or "" for code in tree.iter("major")]))
    return found
