"""What pre-training cost: ``results/<study>/cost.md``, and the columns of other pages that speak of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tabulate import tabulate

from benchmarks.report.made import made_on, training_cards

if TYPE_CHECKING:
    from benchmarks.plan import Plan

GIB, TERA = 2.0**30, 1e12
# Column of :func:`cost` -> heading, unit it is printed in, digits.
PRINTED = {
    "seconds": ("seconds", 1, 1),
    "samples_per_second": ("samples/s", 1, 1),
    "steps": ("steps", 1, 0),
    "peak_memory_bytes": ("memory (GiB)", GIB, 2),
    "flops": ("operations (TFLOP)", TERA, 2),
    "parameters_image_encoder": ("image encoder (M)", 1e6, 2),
    "parameters_total": ("all parameters (M)", 1e6, 2),
}
HEAD = ["method", "encoder", "seeds trained", *(heading for heading, _, _ in PRINTED.values())]
COLUMNS = ["method", "title", "encoder", "seeds", "pairs_seen", *PRINTED]


def cost(plan: Plan) -> pd.DataFrame:
    """Pre-training cost per method, mean over seeds, from ``card.json``; a method without cards is pending.

    Columns: method, title, encoder, seeds (cards found), seconds, samples_per_second, steps, pairs_seen (steps times
    batch size), peak_memory_bytes, flops (of all steps), parameters_image_encoder, parameters_total; NaN where a card lacks
    the number. A card of another training than today's does not count.
    """
    records = []
    for name, entry in plan.rows.items():
        cards = training_cards(plan, name)
        for card in cards:  # an untrained method has no recipe and no steps
            card["pairs_seen"] = card.get("steps", np.nan) * card.get("recipe", {}).get("batch_size", 0)
            if "flops_per_step" in card:
                card["flops"] = card["flops_per_step"] * card["steps"]
        means = {}
        for key in ("pairs_seen", *PRINTED):
            numbers = [float(c[key]) for c in cards if isinstance(c.get(key), int | float)]
            means[key] = float(np.mean(numbers)) if numbers else float("nan")
        records.append({"method": name, "title": entry.title, "encoder": entry.encoder, "seeds": len(cards), **means})
    return pd.DataFrame(records, columns=COLUMNS)


def lines(plan: Plan) -> list[list[str]]:
    """The cost as printed, a line per method under ``HEAD``."""
    found = []
    for record in cost(plan).to_dict("records"):
        trained = f"{record['seeds']} of {len(plan.rows[record['method']].seeds(plan.study))}"
        numbers = ["" if np.isnan(record[k]) else f"{record[k] / u:.{d}f}" for k, (_, u, d) in PRINTED.items()]
        numbers = numbers if record["seeds"] else ["pending", *[""] * (len(PRINTED) - 1)]
        found.append([record["title"], record["encoder"], trained, *numbers])
    return found


def page(plan: Plan) -> str:
    """Measured pre-training cost. Kept out of the leaderboard, whose bytes do not depend on the machine's speed."""
    study, machine = plan.study, made_on(plan)
    table = tabulate(lines(plan), headers=HEAD, tablefmt="github", disable_numparse=True)
    about = "Mean over the seeds trained so far, on the machine that trained them" + (
        f": {machine}." if machine else "."
    )
    about += (
        " Memory: the largest resident size of the training's process, libraries included; on a GPU what PyTorch held. Operations:"
        " of all steps, forward and backward, in matrix products, convolutions and attention, a multiplication and an addition"
        " being two. Empty where the training was made before that was measured."
    )
    return "\n\n".join([study.note, f"# Pre-training cost: {study.title}", table, about]) + "\n"
