"""A method's README accounts for every switch and every number of its manifest."""

from __future__ import annotations

import pytest

from mlip.manifest import read_manifest
from mlip.methods import method_folders


@pytest.mark.parametrize("name", method_folders())
def test_every_key_stands_in_the_readme(name: str) -> None:
    folder = method_folders()[name]
    manifest, text = read_manifest(folder), (folder / "README.md").read_text(encoding="utf-8")
    assert not [key for key in [*manifest.components, *manifest.parameters] if key not in text]


@pytest.mark.parametrize(
    "name", [n for n, f in method_folders().items() if read_manifest(f).status == "reconstruction"]
)
def test_reconstructions_say_so(name: str) -> None:
    text = (method_folders()[name] / "README.md").read_text(encoding="utf-8")
    for heading in (
        "Status: reconstruction",
        "## Objective",
        "the seed states",
        "our choice",
        "What reading the paper would settle",
    ):
        assert heading in text
