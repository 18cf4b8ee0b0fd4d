"""What a person who finds the project reads first: licence, citation, hooks, schema."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import tomllib

import jsonschema
import pytest
import yaml

from mlip.manifest import read_manifest
from mlip.methods import method_folders
from tests.conftest import ROOT
from tests.ours import ours

STUDIES = ours(p for p in (ROOT / "config").glob("*.yaml") if p.stem != "claims")
SCHEMA = ROOT / "config" / "study.schema.json"
APACHE = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # of the text as apache.org publishes it


def test_the_licence_is_the_one_that_the_package_names() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["license"] == citation["license"] == "Apache-2.0"
    assert project["version"] == citation["version"]


@pytest.mark.parametrize("name", ["cvpr24", "isbi24"])
def test_the_citation_names_the_papers_of_the_reconstructions(name: str) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    manifest = read_manifest(method_folders()[name])
    (paper,) = [r for r in citation["references"] if r["title"] == manifest.paper]
    initials = [re.sub(r"[^A-Z]", "", author["given-names"]) for author in paper["authors"]]
    authors = [f"{author['family-names']} {i}" for author, i in zip(paper["authors"], initials, strict=True)]
    assert manifest.citation.startswith(", ".join(authors) + ".") and paper["conference"]["name"] in manifest.citation


def test_the_hooks_are_the_linters_of_the_makefile() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = {" ".join(shlex.split(hook["entry"])).removesuffix(" .") for hook in config["repos"][0]["hooks"]}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipes = re.findall(r"^(?:lint|types):.*\n((?:\t.*\n)+)", makefile, re.M)
    lines = [line.strip().replace("$(BIN)", ".venv/bin") for recipe in recipes for line in recipe.splitlines()]
    assert len(lines) > 5 and hooks == {line.removesuffix(" .") for line in lines}
    assert all(hook["language"] == "system" for hook in config["repos"][0]["hooks"])  # nothing is downloaded


@pytest.fixture(scope="module")
def schema() -> dict:
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


def test_the_schema_is_todays(schema: dict) -> None:
    from mlip.study import Study

    assert schema == json.loads(json.dumps(Study.model_json_schema())), (
        "run `mlip schema --out config/study.schema.json`"
    )


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_an_editor_checks_every_study_by_the_schema(path, schema: dict) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == f"# yaml-language-server: $schema={SCHEMA.name}"
    study = json.loads(json.dumps(yaml.safe_load(text)))
    jsonschema.validate(study, schema)
    with pytest.raises(jsonschema.ValidationError, match="epoch_count"):
        jsonschema.validate({**study, "pretrain": {**study["pretrain"], "epoch_count": 3}}, schema)


def test_every_study_stands_in_the_list() -> None:
    text = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
    assert all(f"({path.name})" in text for path in [*STUDIES, SCHEMA, ROOT / "config" / "claims.yaml"])
