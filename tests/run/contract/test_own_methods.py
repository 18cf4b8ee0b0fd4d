"""Every method folder of the project passes the suite, on each encoder and with each component switched off."""

from __future__ import annotations

import pytest

from mlip.manifest import read_manifest
from mlip.methods import method_class
from mlip.run.contract.suite import checks_of, run_suite, settings_of
from tests.ours import our_methods


@pytest.mark.parametrize("name", sorted(our_methods()))
def test_passes_every_check(name: str) -> None:
    folder = our_methods()[name]
    manifest = read_manifest(folder)
    settings = list(settings_of(manifest, folder, method_class(folder)))
    assert [s.label for s in settings][: len(manifest.encoders.supports)] == manifest.encoders.supports
    labels = " ".join(s.label for s in settings)
    assert all(f"without {component}" in labels for component in manifest.components)
    lines = list(run_suite(settings))
    assert [line.text for line in lines if line.status != "ok"] == []
    assert len(lines) == len(checks_of(manifest))
