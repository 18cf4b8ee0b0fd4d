"""``mlip export``: the image encoder of one training as a folder that others load in one line, with its model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pandas as pd
import timm
import torch

from mlip.encoders.exported import Pooling, load_exported, pool, pooled_apart, timm_knows, write_exported
from mlip.errors import UserError
from mlip.pretraining.checkpoints import load_method, read_card
from mlip.run.card import card_text
from mlip.run.drafts import complete

if TYPE_CHECKING:
    from benchmarks.plan import Plan
    from mlip.contract import Method

CLOSE = 1e-6  # share of the largest feature by which timm's network may differ from ours


def export(plan: Plan, row: str, seed: int, folder: Path) -> str:
    """Write the encoder's weights, its configuration and its card into a new folder; the line that loads it.

    The folder appears only when it is complete, and when timm, where it can build the network, was seen to give the
    features that the study measured.

    Raises
    ------
    UserError : the training is missing or not today's, the tables are not of today's predictions, the features of the row
        are not its image encoder's alone, or the folder is there already.
    """
    entry = plan.row(row)
    if seed not in entry.seeds(plan.study):
        raise UserError(
            f"{row} has no training with seed {seed} in this study", fix=f"one of {entry.seeds(plan.study)}"
        )
    trained = plan.paths.pretrain(row, seed)
    card = read_card(trained)
    if card.get("fingerprint") != plan.training(row, seed).key:
        fix = "run the study again, which trains it anew, or check out the commit of its card.json"
        raise UserError("was trained by other code or another configuration", where=trained, fix=fix)
    cells = cells_of(plan, row)
    with complete(folder) as draft:
        method = load_method(plan.study, entry, seed)
        encoder, pooling = method.image_encoder, pooling_of(method, plan.study.input_side, row)
        write_exported(encoder, plan.study.input_side, draft, pooling)
        by_timm = timm_knows(encoder.config, pooling)
        if by_timm:
            model = timm.create_model(f"local-dir:{draft}", pretrained=True).eval()
            if (apart := pooled_apart(load_exported(draft), model)) > CLOSE:
                problem = f"timm's {encoder.config.name} gives other features than the study's (by {apart:.2g} of the largest)"
                raise UserError(problem, where=f"encoders.{entry.encoder}", fix="report it; its card would be wrong")
        text = card_text(plan, entry, seed, card, cells, folder.name, by_timm)
        (draft / "README.md").write_text(text, encoding="utf-8")
    if by_timm:
        return f'timm.create_model("local-dir:{folder}", pretrained=True).eval()'
    return f'mlip.encoders.exported.load_exported("{folder}")'


def cells_of(plan: Plan, row: str) -> pd.DataFrame:
    """The row's cells with a value in the tasks that see nothing of a method but its image encoder.

    Raises
    ------
    UserError : ``cells.csv`` is missing or was not made from today's predictions.
    """
    path = plan.paths.cells
    if not path.is_file() or not plan.is_made("tables", (), plan.tables()):
        raise UserError("is not of today's code and configuration", where=path, fix="run `mlip run tables` first")
    cells = pd.read_csv(path)
    images_alone = {block.task_name for block in plan.blocks if not block.task.requires}
    return cells[(cells["method"] == row) & (cells["status"] == "ok") & cells["task"].isin(images_alone)]


@torch.no_grad()
def pooling_of(method: Method, side: int, row: str) -> Pooling:
    """How a method makes what the tables measure of its image encoder's output.

    Raises
    ------
    UserError : in no way that is known here, e.g. by a network of its own.
    """
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)).mul(2).sub(1)
    measured, out = method.encode_image(images).pooled, method.image_encoder(images)
    for pooling in get_args(Pooling) if method.image_encoder.kind == "vit" else ("encoder",):
        if torch.equal(measured, pool(out, pooling)):
            return pooling  # type: ignore[no-any-return]
    problem = f"what the tables measure of {row} is not its image encoder's output, nor the mean of its patches"
    raise UserError(problem, where=row, fix="share its folder under baselines/ instead (docs/sharing.md)")
