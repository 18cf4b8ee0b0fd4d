"""The divergence encoder over a real training: its counterparts neither collapse, nor become copies, nor drift away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mlip.contract import Batch
from mlip.fingerprints import Fingerprint
from mlip.methods import entries
from mlip.pretraining.loop import _Training
from mlip.pretraining.processes import ALONE
from mlip.seeding import torch_generator
from tests.pretraining.conftest import Trainer

EVERY = 10  # steps


class Watched(_Training):
    """The training itself, looking at the same pairs every few steps."""

    def _train_step(self) -> dict[str, Any]:
        if self.step == 0:
            self.pairs_watched: list[Batch] = self.batches.evaluation(48)
            self.seen: list[dict[str, float]] = []
        line = super()._train_step()
        if (self.step + 1) % EVERY == 0:
            self.seen.append(look(self.method, self.pairs_watched))
        return line


@torch.no_grad()
def look(method: Any, batches: list[Batch]) -> dict[str, float]:
    """Cosines of features x with counterparts y under two draws of the noise, for images (v) and reports (t)."""
    method.eval()
    image = torch.cat([method.encode_image(b.images).joint for b in batches])
    text = torch.cat([method.encode_text(b.texts).joint for b in batches])
    draw = torch_generator("look")
    both = []
    for x, encoder in ((image, method.diverge_v), (text, method.diverge_t)):
        y, again = encoder(x, draw), encoder(x, draw)
        cosine = x @ y.T
        others = ~torch.eye(len(x), dtype=torch.bool)
        both.append(
            {
                "own": cosine.diagonal().mean().item(),
                "others": cosine[others].mean().item(),
                "nearest_is_own": (cosine.argmax(dim=0) == torch.arange(len(x))).float().mean().item(),
                "rank_x": _rank(x),
                "rank_y": _rank(y),
                "noise": (y * again).sum(dim=1).mean().item(),
            }
        )
    method.train()
    return {f"{m}.{key}": value for m, values in zip("vt", both, strict=True) for key, value in values.items()}


def _rank(x: Tensor) -> float:
    """Effective rank: the exponential of the entropy of the normalised singular values (Roy & Vetterli 2007)."""
    share = torch.linalg.svdvals(x - x.mean(dim=0))
    share = share / share.sum()
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))


@pytest.mark.parametrize("form", ["band", pytest.param("kl", marks=pytest.mark.slow)])
def test_counterparts_stay_similar_yet_distinct(rows_in: Trainer, tmp_path: Path, form: str) -> None:
    study = rows_in(epochs=7, batch_size=16)
    entry = entries(study)[0]["cvpr24"]
    entry.params["divergence_form"] = form
    training = Watched(ALONE, torch.device("cpu"), study, entry, 0, tmp_path, Fingerprint("", ""))
    training.run()
    assert len(training.seen) >= 3
    for modality in "vt":
        seen = [{k[2:]: v for k, v in s.items() if k.startswith(modality)} for s in training.seen]
        low, high = entry.params["divergence_low"], entry.params["divergence_high"]
        for now in seen:
            assert low - 0.05 < now["own"] < high + 0.05  # similar, and no copy
            assert now["noise"] < 0.95  # two draws of the noise are two counterparts
            assert now["noise"] > now["others"] - 0.1  # ... of one feature, not of any
            assert now["rank_y"] > 0.8 * now["rank_x"]  # no collapse onto fewer directions than the features have
        first, last = seen[0], seen[-1]
        assert abs(last["own"] - seen[-2]["own"]) < 0.05  # at rest, not on its way out of the band
        assert last["own"] - last["others"] > max(0.2, first["own"] - first["others"])  # it stays with its own feature
        assert last["nearest_is_own"] > 0.75
