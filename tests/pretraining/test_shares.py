"""Training on a share of the pairs: nested, by patient, in as many steps as with all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mlip.errors import UserError
from mlip.fingerprints import Fingerprint, Fingerprints
from mlip.methods import entries
from mlip.paths import StudyPaths
from mlip.pretraining.batches import Pairs
from mlip.pretraining.loop import pretrain
from mlip.study import Study, VariantConfig
from tests.pretraining.conftest import Trainer


def test_shares_are_of_patients_and_lie_in_each_other(corpus: Study) -> None:
    parts = {share: Pairs(corpus, "train", share=share) for share in (25, 50, 100)}
    patients = {share: set(pairs.patients.tolist()) for share, pairs in parts.items()}
    assert patients[25] < patients[50] < patients[100]
    for share, pairs in parts.items():
        assert len(patients[share]) == round(share / 100 * len(patients[100]))
        assert pairs.whole == len(parts[100])
        whose = parts[100].patients.tolist()
        rows = [row for row, who in zip(parts[100].rows, whose, strict=True) if who in patients[share]]
        assert pairs.rows.tolist() == rows, "all pairs of a patient, or none"
        assert len(pairs.reports) == len(pairs)
        expected = {row: report.text for row, report in zip(parts[100].rows, parts[100].reports, strict=True)}
        assert [report.text for report in pairs.reports] == [expected[row] for row in pairs.rows]


def test_a_share_is_trained_for_as_many_steps(rows_in: Trainer) -> None:
    study = rows_in(epochs=2, batch_size=16)
    whole = entries(study)[0]["isbi24"]
    cards = {}
    for share in (100, 50):
        entry = replace(whole, name=f"isbi24-{share}", pairs=share)
        pretrain(study, entry, 0, Fingerprint("", ""))
        folder = StudyPaths(study).pretrain(entry.name, 0)
        cards[share] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        last = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        assert last["validation"], "the last step is validated, be it the end of an epoch or not"
    assert cards[50]["steps"] == cards[100]["steps"] > 5
    assert cards[50]["pairs"] < 0.7 * cards[100]["pairs"]
    assert cards[100]["flops_per_step"] > 1e8
    assert cards[50]["flops_per_step"] == pytest.approx(cards[100]["flops_per_step"], rel=0.2)
    assert cards[50]["peak_memory_bytes"] > 1e8


def test_a_share_is_another_training_and_moves_no_other(corpus: Study) -> None:
    half = VariantConfig(method="isbi24", pairs=50)
    with_it = corpus.model_copy(update={"methods": corpus.methods.model_copy(update={"variants": {"half": half}})})
    rows, prints = entries(with_it)[0], Fingerprints(with_it, {})
    before = Fingerprints(corpus, {}).training(entries(corpus)[0]["isbi24"], 0)
    assert prints.training(rows["isbi24"], 0) == before
    assert prints.training(rows["half"], 0).settings != before.settings


def test_a_share_without_a_batch_and_a_share_of_no_training_are_refused(rows_in: Trainer) -> None:
    study = rows_in(epochs=1, batch_size=16)
    few = replace(entries(study)[0]["isbi24"], pairs=5)
    with pytest.raises(UserError, match=r"5 % of the training patients have .* fewer than a batch of 16"):
        pretrain(study, few, 0, Fingerprint("", ""))
    variants = {"random-half": VariantConfig(method="random", pairs=50)}
    with pytest.raises(UserError, match="sets pairs, and is never trained"):
        entries(study.model_copy(update={"methods": study.methods.model_copy(update={"variants": variants})}))
