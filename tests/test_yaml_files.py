"""Damaged YAML files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlip.errors import UserError
from mlip.yaml_files import read_yaml


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("study: [one\n", "is not valid YAML"),
        ("- one\n", "holds no keys"),
        ("", "holds no keys"),
        (b"\xff\xfe\x00", "is not valid YAML"),
    ],
)
def test_a_damaged_yaml_file_is_named(tmp_path: Path, content: str | bytes, problem: str) -> None:
    path = tmp_path / "strict.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=rf"strict\.yaml: {problem}"):
        read_yaml(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(tmp_path)
