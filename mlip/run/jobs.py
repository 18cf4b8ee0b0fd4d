"""One job of a study: the stage, the check of what it is made from, and what is noted when it ends.

Under ``work/<study>/made`` lies the fingerprint of what was made: the workflow makes anew what is of another one, even where
Snakemake's own memory is lost. Under ``work/<study>/failures`` lies the reason of a failure with the fingerprint of what was
to be made: the tables print it as long as today's code and configuration would fail in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip.errors import UserError

if TYPE_CHECKING:
    from benchmarks.plan import Plan
    from mlip.fingerprints import Fingerprint

AGAIN = "run the study again with the same command, which makes it anew"


def perform(
    plan: Plan, stage: str, names: tuple[object, ...], fingerprint: Fingerprint, action: Callable[[], None]
) -> None:
    """Run ``action`` and note how it ended; a failure is raised again."""
    made, path = plan.paths.made(stage, *names), plan.paths.failure(stage, *names)
    made.unlink(missing_ok=True)
    try:
        action()
    except Exception as error:
        reason = (
            str(error)
            if isinstance(error, UserError)
            else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"reason": reason, "fingerprint": fingerprint.key}) + "\n", encoding="utf-8")
        raise
    path.unlink(missing_ok=True)
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text(json.dumps({"fingerprint": fingerprint.key}) + "\n", encoding="utf-8")


def inputs_of(plan: Plan, task: str, protocol: str, dataset: str, row: str, seed: int) -> dict[str, Any]:
    """Make sure that an evaluation would read what today's code and configuration make; by which training it is made.

    Raises
    ------
    UserError : the store, the splits, the checkpoint or the features are of another fingerprint.
    """
    from benchmarks.tasks.shared.features import fingerprint_of_features
    from mlip.pretraining.checkpoints import read_card

    prints, paths, block = plan.fingerprints, plan.paths, plan.block(task, protocol, dataset)
    _demand(_noted(paths.data(dataset) / "manifest.json"), prints.store(dataset), paths.data(dataset))
    splits = paths.splits(dataset)
    _demand(_noted(splits.with_suffix(".json")), prints.division(dataset), splits)
    if row in block.task.controls:
        return {}
    card = read_card(paths.pretrain(row, seed))
    _demand(card.get("fingerprint"), plan.training(row, seed), paths.pretrain(row, seed))
    if block.task.needs == "features":
        file = paths.features(row, seed, dataset)
        _demand(fingerprint_of_features(file), plan.features(row, seed, dataset), file)
    return {"training": {"code": card.get("code", ""), "commit": card.get("commit", "")}}


def _noted(path: Path) -> str | None:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("fingerprint")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({type(error).__name__})", where=path, fix=AGAIN) from None


def _demand(found: str | None, wanted: Fingerprint, where: Path) -> None:
    if found != wanted.key:
        raise UserError("was made by other code or another configuration", where=where, fix=AGAIN)
