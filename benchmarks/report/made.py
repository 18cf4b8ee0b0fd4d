"""What made the results: machine, versions, commit, rows, protocols, and the study without its paths (``results/<study>/made.json``)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from mlip.pretraining.checkpoints import read_card

if TYPE_CHECKING:
    from benchmarks.plan import Block, Plan
    from mlip.study import Study

MADE = "made.json"
PATHS = {"work", "results", "data_root", "root"}  # keys that say where a user keeps files
FOLDER = re.compile(r"(?:^|(?<=^lists:))/.*", re.S)  # a value that is one too, or a split's lists in one


def training_cards(plan: Plan, row: str) -> list[dict[str, Any]]:
    """The cards of a row's trainings that are today's, one for each seed that has one."""
    return list(card_files(plan, row).values())


def card_files(plan: Plan, row: str) -> dict[Path, dict[str, Any]]:
    """The same by their files."""
    found = {}
    for seed in plan.rows[row].seeds(plan.study):
        folder = plan.paths.pretrain(row, seed)
        if (folder / "card.json").is_file():
            card = read_card(folder)
            if card.get("fingerprint") == plan.training(row, seed).key:
                found[folder / "card.json"] = card
    return found


def makers(plan: Plan) -> dict[str, list[str]]:
    """``machines``, ``versions`` and ``commits`` of the trainings that are there; another CPU gives other numbers."""
    cards = [c for name, entry in plan.rows.items() if entry.trained for c in training_cards(plan, name)]
    return {
        "machines": sorted({c["device"] for c in cards if "device" in c}),
        "versions": sorted({f"{name} {found}" for c in cards for name, found in c.get("versions", {}).items()}),
        "commits": sorted({_short(c["commit"]) for c in cards if "commit" in c}),
    }


def made_on(plan: Plan) -> str:
    """One line of it for the pages; "" where nothing is trained."""
    found = makers(plan)
    torch = [version for version in found["versions"] if version.startswith("torch ")]
    said = [found["machines"], torch, [f"commit {commit}" for commit in found["commits"]]]
    return "; ".join(", ".join(part) for part in said if part)


def made_json(plan: Plan) -> str:
    """The file's text: ``rows`` (title, status, whether a control, whether it depends on the pre-training seed), ``protocols``
    (what of each moves a number, by "task protocol dataset"), ``study``, and what :func:`makers` says.
    """
    rows = {
        row.name: {
            "title": row.title,
            "status": row.entry.standing if row.entry else "",
            "control": row.control,
            "seeded": row.entry is not None and row.entry.seeded,
        }
        for block in plan.blocks
        for row in block.rows
    }
    protocols = {f"{block.task_name} {block.protocol_name} {block.dataset}": _protocol(block) for block in plan.blocks}
    said = {"rows": rows, "protocols": protocols, "study": public(plan.study), **makers(plan)}
    return json.dumps(said, indent=1, sort_keys=True) + "\n"


def _protocol(block: Block) -> dict[str, Any]:
    """A protocol on its data set, the study's budget applied: what moves predictions, and what moves the scores of them."""
    scoring = block.protocol.model_dump(mode="json", include=set(block.task.scored_later))
    return _without_paths({**block.task.settings(block.protocol, block.source), **scoring})


def public(study: Study) -> dict[str, Any]:
    """The resolved study without folders of this machine; of weights in a file the file's name."""
    return _without_paths(study.model_dump(mode="json"))


def _without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _without_path(v) for k, v in values.items() if k not in PATHS}


def _without_path(value: Any) -> Any:
    if isinstance(value, dict):
        return _without_paths(value)
    if isinstance(value, list):
        return [_without_path(v) for v in value]
    return FOLDER.sub(lambda path: PurePath(path[0]).name, value) if isinstance(value, str) else value


def _short(commit: str) -> str:
    return commit[:12] + "-dirty" * commit.endswith("-dirty")
