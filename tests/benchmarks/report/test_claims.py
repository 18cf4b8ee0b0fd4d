"""Verdicts on claims: what is better, what is not, what cannot be told, and what is not there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.analyses import false_negatives
from benchmarks.cells import compute
from benchmarks.plan import Plan, resolve
from benchmarks.report import contrasts
from benchmarks.report.claims import HOLDS, NOT, OPEN, UNTESTABLE, Claim, page, read_claims, verdicts, write_page
from benchmarks.report.contrasts import Contrast, examine, examine_study, from_analysis
from benchmarks.scores import statistics
from mlip.errors import UserError
from mlip.study import load_study
from tests.benchmarks.simulated import THREE_SEEDS, make_world


def contrast(**changes: Any) -> Contrast:
    return Contrast(**{"study": "simulated", "row": "alpha", "against": ["gamma"], "task": "probe", **changes})


def test_verdicts_follow_the_truth(tmp_path, monkeypatch):
    """alpha and beta are equally good and far above gamma (tests/benchmarks/simulated.py)."""
    world = make_world(tmp_path, monkeypatch, **THREE_SEEDS)
    world.fill()
    results = compute(world.plan)
    asked = [
        contrast(),
        contrast(against=["gamma", "beta"]),
        contrast(row="gamma", against=["alpha", "beta"]),
        contrast(row="beta", against=["alpha"], margin=0.5),
        contrast(row="beta", against=["alpha"], margin=1e-6),
    ]
    found = [examine(c, results, 0.95) for c in asked]
    said = verdicts(found, 0.95)
    assert said[0] == HOLDS and said[1] != HOLDS, "ahead of gamma, not of every row"
    assert said[2] == NOT and said[3] == NOT, "a gain of half the scale is ruled out"
    assert said[4] == OPEN
    assert found[0].effect > 0.1 and found[0].low > 0 and found[1].best.startswith("Beta")
    columns = [c for c in results.columns if c.task == "probe" and c.main]
    means = {n: sum(c.estimates[n].value for c in columns) / len(columns) for n in ("alpha", "gamma")}
    assert found[0].value == pytest.approx(means["alpha"])
    assert found[0].effect == pytest.approx(means["alpha"] - means["gamma"])
    # Holm goes over the page: the same p among many contrasts that show nothing.
    p = statistics.holm([found[0].p, *[1.0] * 30])[0]
    many = verdicts([found[0], *[found[4]] * 30], 0.95)
    assert (many[0] == HOLDS) == (p <= 0.05)


def test_the_page_says_what_is_missing_and_what_cannot_be_tested(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch, **THREE_SEEDS)
    world.fill(datasets=("rsna",))
    claims = [
        Claim(id="one", paper="P", claim="alpha wins", source="s", contrasts=[contrast(datasets=["rsna"]), contrast()]),
        Claim(id="two", paper="P", claim="numbers", source="s", untestable="no data"),
    ]
    results = compute(world.plan)
    found = [examine(c, results, 0.95) for c in claims[0].contrasts]
    text = page(claims, found, 0.95, {"simulated": "SIMULATED"})
    assert f"Of 2 contrasts: 1 {HOLDS}, 0 {NOT}, 0 {OPEN}, 1 not computed." in text
    assert "not computed (alpha: pending)" in text and f"**{UNTESTABLE}**: no data" in text
    lines = [line for line in text.splitlines() if line.startswith("| simulated")]
    assert len(lines) == 2 and "+" in lines[0] and "+" not in lines[1], "no number where one is not there"


def test_what_a_study_says_outlives_its_predictions_and_nothing_else(tmp_path, monkeypatch):
    """Kept beside the tables, used where predictions are missing, and of the same making only."""
    world = make_world(tmp_path, monkeypatch, **THREE_SEEDS)
    world.fill()
    page_path, kept = tmp_path / "claims.md", world.plan.paths.contrasts
    claim = Claim(id="one", paper="P", claim="c", source="s", contrasts=[contrast(), contrast(row="beta")])

    def written(asked: Claim = claim) -> str:
        write_page([asked], lambda _: world.plan, page_path)
        return page_path.read_text(encoding="utf-8")

    computed = written()
    text = kept.read_text(encoding="utf-8")
    assert "not computed" not in computed and f"2 {HOLDS}" in computed
    shutil.rmtree(world.plan.paths.work / "predictions")
    again = written()
    note = " Read from `simulated/contrasts.json`, not computed again."
    assert again.replace(note, "") == computed and note in again
    assert kept.read_text(encoding="utf-8") == text, "what is incomplete replaces nothing"

    other = claim.model_copy(update={"contrasts": [contrast(margin=0.02), contrast(row="beta")]})
    assert "2 not computed" in written(other), "another question"
    resampled = replace(world.plan, study=world.plan.study.model_copy(deep=True))
    resampled.study.statistics.bootstrap += 1
    write_page([claim], lambda _: resampled, page_path)
    assert "2 not computed" in page_path.read_text(encoding="utf-8"), "other statistics"
    with monkeypatch.context() as patched:
        patched.setattr(contrasts, "code_of", lambda _: "edited")
        assert "2 not computed" in written(), "other code"
    kept.write_text(text.replace('"contrasts"', '"contrast"'), encoding="utf-8")
    with pytest.raises(UserError, match="is damaged"):
        written()


def test_a_number_that_is_not_there_is_kept_as_such(tmp_path, monkeypatch):
    """One training has no spread, and no p."""
    world = make_world(tmp_path, monkeypatch)
    world.fill()
    before = examine_study(world.plan, [contrast()])
    shutil.rmtree(world.plan.paths.work / "predictions")
    after = examine_study(world.plan, [contrast()])
    assert after.kept and not before.kept
    assert str(after.found) == str(before.found) and "nan" in str(after.found)


def test_one_seed_tells_nothing(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch)
    world.fill()
    assert verdicts([examine(contrast(), compute(world.plan), 0.95)], 0.95) == [OPEN]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"row": "delta"}, "has no row 'delta'"),
        ({"datasets": ["nih"]}, "has no data set nih"),
        ({"fractions": [10]}, "has no fraction 10"),
        ({"task": "detection"}, "has no task 'detection'"),
        ({"metric": "Dice"}, "has no task 'probe' with metric Dice"),
    ],
)
def test_contrasts_that_name_nothing(change, said, tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch)
    with pytest.raises(UserError, match=said):
        examine(contrast(**change), compute(world.plan), 0.95)


def test_the_projects_claims_name_what_its_studies_have(tmp_path: Path) -> None:
    plans = {}

    def plan_of(name: str) -> Plan:
        folders = {"work": tmp_path / "work", "results": tmp_path / "results"}
        plans[name] = resolve(load_study(Path("config") / f"{name}.yaml").model_copy(update=folders), look=False)
        return plans[name]

    claims = read_claims(Path("config/claims.yaml"))
    write_page(claims, plan_of, tmp_path / "claims.md")
    contrasts = sum(len(c.contrasts) for c in claims)
    text = (tmp_path / "claims.md").read_text(encoding="utf-8")
    assert f"Of {contrasts} contrasts: 0 {HOLDS}, 0 {NOT}, 0 {OPEN}, {contrasts} not computed." in text
    assert set(plans) == {"twin", "ablation", "efficiency"}


def test_false_negatives_are_read_from_their_page_if_it_is_todays(tmp_path, monkeypatch) -> None:
    folders = {"work": tmp_path / "work", "results": tmp_path / "results"}
    plan = resolve(load_study(Path("config/ablation.yaml")).model_copy(update=folders), look=False)
    asked = contrast(study="ablation", row="cvpr24", against=["cvpr24-infonce"], task="false_negatives")
    assert from_analysis(asked, plan).missing
    plan.paths.results.mkdir(parents=True)
    values = ["cvpr24", "cvpr24-infonce", 0.04, 0.02, 0.06, 0.001, 0.01, 0.01]
    pd.DataFrame([values], columns=false_negatives.COLUMNS).to_csv(
        plan.paths.false_negatives.with_suffix(".csv"), index=False
    )
    assert from_analysis(asked, plan).missing, "a table alone may be of other code"
    monkeypatch.setattr(false_negatives, "is_current", lambda _: True)
    found = from_analysis(asked, plan)
    assert (found.effect, found.low, found.p) == (0.04, 0.02, 0.001) and verdicts([found], 0.95) == [HOLDS]
    with pytest.raises(UserError, match="does not hold 'cvpr24' against"):
        from_analysis(asked.model_copy(update={"against": ["convirt"]}), plan)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text("claims:\n- {id: a, paper: b, claim: c, source: d}\n", encoding="utf-8")
    with pytest.raises(UserError, match="either contrasts or the reason"):
        read_claims(path)
