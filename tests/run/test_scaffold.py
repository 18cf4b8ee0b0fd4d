"""`mlip new-baseline` and what is checked of its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlip import methods
from mlip.errors import UserError
from mlip.manifest import read_manifest
from mlip.methods import method_folders
from mlip.run.scaffold import check_baseline, new_baseline


def test_new_baseline_trains_as_scaffolded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_baseline("my-method", tmp_path / "baselines")
    manifest, text = read_manifest(folder), (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in text for key in (*manifest.components, *manifest.parameters))
    monkeypatch.setattr(methods, "METHOD_FOLDERS", (tmp_path / "baselines",))
    method_folders.cache_clear()
    try:
        assert list(check_baseline("my-method"))
        with pytest.raises(UserError, match="is there already"):
            new_baseline("my-method", tmp_path / "baselines")
        (folder / "method.yaml").write_text(
            (folder / "method.yaml").read_text(encoding="utf-8").replace("id: my-method", "id: other"), encoding="utf-8"
        )
        with pytest.raises(UserError, match="folder is 'my-method'"):
            list(check_baseline("my-method"))
    finally:
        method_folders.cache_clear()


def test_bad_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no name for a method"):
        new_baseline("My Method", tmp_path)
