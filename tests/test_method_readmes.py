"""A method's README accounts for every switch and every number of its manifest."""

from __future__ import annotations

import pytest

from mlip.manifest import read_manifest
from tests.ours import our_methods


@pytest.mark.parametrize("name", our_methods())
def test_every_key_stands_in_the_readme(name: str) -> None:
    folder = our_methods()[name]
    manifest, text = read_manifest(folder), (folder / "README.md").read_text(encoding="utf-8")
    lacking = [key for key in [*manifest.components, *manifest.parameters] if key not in text]
    assert not lacking, f"{folder / 'README.md'} says nothing of {', '.join(lacking)}: add a line for each"


@pytest.mark.parametrize("name", [n for n, f in our_methods().items() if read_manifest(f).status == "reconstruction"])
def test_reconstructions_say_so(name: str) -> None:
    text = (our_methods()[name] / "README.md").read_text(encoding="utf-8")
    for heading in (
        "Status: reconstruction",
        "## Objective",
        "the seed states",
        "our choice",
        "What reading the paper would settle",
    ):
        assert heading in text
