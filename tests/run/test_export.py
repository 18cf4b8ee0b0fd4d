"""What an exported encoder says of itself: which features, whose licence, which line loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from benchmarks.cells import COLUMNS
from mlip.errors import UserError
from mlip.run.card import card_text
from mlip.run.export import pooling_of
from tests.benchmarks.simulated import make_world
from tests.methods import build

CARD: dict[str, Any] = {
    "parameters_image_encoder": 2_500_000, "components": {"extra": False}, "versions": {"torch": "2", "timm": "1"},
    "device": "cpu: theirs", "commit": "abc", "pairs": 70, "steps": 9, "seconds": 3.0, "samples_per_second": 24.0,
    "recipe": {"epochs": 3, "batch_size": 8, "lr": 0.001, "weight_decay": 0.1},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind", "params", "pooling"),
    [
        ("convirt", "cnn", {}, "encoder"),
        ("mgca", "vit", {}, "encoder"),
        ("isbi24", "vit", {"image_pooling": "patches"}, "patches"),
        ("isbi24", "vit", {"image_pooling": "both"}, "both"),
    ],
)
def test_the_pooling_of_a_method_is_found(name: str, kind: str, params: dict[str, Any], pooling: str) -> None:
    assert pooling_of(build(name, kind, params=params).eval(), 48, name) == pooling


def test_a_row_with_a_network_of_its_own_is_refused() -> None:
    with pytest.raises(UserError, match="is not its image encoder's output"):
        pooling_of(build("thumbnail").eval(), 48, "thumbnail")


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The card of the row ``alpha`` for a study with these encoders, trained on real data."""

    def of(by_timm: bool = True, **encoder: Any) -> tuple[dict[str, Any], str]:
        encoders = {"cnn": {"name": "resnet", **encoder}, "vit": {"name": "vit"}, "text": {}}
        plan = make_world(tmp_path, monkeypatch, encoders=encoders).plan
        cells = pd.DataFrame(columns=COLUMNS)
        text = card_text(plan, plan.rows["alpha"], 0, CARD, cells, "mine", by_timm)
        _, front, body = text.split("---\n", 2)
        return yaml.safe_load(front), body

    return of


def test_real_data_decide_the_licence(card: Any) -> None:
    front, body = card(pretrained="/home/someone/weights/start.pth")
    assert front["license"] == "other" and front["datasets"] == ["rsna"]
    licence = body[body.index("## Licence") :]
    assert "kaggle.com" in licence and "`start.pth`" in licence and "Apache" not in licence
    assert "/home/someone" not in body and "SIMULATED" in body
    for said in ("switched off: extra", "cost: 3 s, 24 samples a second", "machine: cpu: theirs", "commit: `abc`"):
        assert said in body


def test_what_timm_cannot_load_is_not_said_to_be_timms(card: Any) -> None:
    front, body = card(by_timm=False)
    assert front["library_name"] == "mlip-bench" and "load_exported" in body and "timm.create_model" not in body
