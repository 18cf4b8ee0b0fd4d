"""Verdicts on claims: what is better, what is not, what cannot be told, and what is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.cells import compute
from benchmarks.report.claims import HOLDS, NOT, OPEN, UNTESTABLE, Claim, Contrast, examine, page, read_claims, verdicts
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
    text = page(claims, {"simulated": compute(world.plan)}, 0.95, {"simulated": "SIMULATED"})
    assert f"Of 2 contrasts: 1 {HOLDS}, 0 {NOT}, 0 {OPEN}, 1 not computed." in text
    assert "not computed (alpha: pending)" in text and f"**{UNTESTABLE}**: no data" in text
    lines = [line for line in text.splitlines() if line.startswith("| simulated")]
    assert len(lines) == 2 and "+" in lines[0] and "+" not in lines[1], "no number where one is not there"


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
    from benchmarks.plan import resolve

    studies = {}
    for claim in read_claims(Path("config/claims.yaml")):
        for c in claim.contrasts:
            if c.study not in studies:
                study = load_study(Path("config") / f"{c.study}.yaml").model_copy(
                    update={"work": tmp_path / "work", "results": tmp_path / "results"}
                )
                studies[c.study] = compute(resolve(study, look=False))
            assert examine(c, studies[c.study], 0.95).missing, "nothing is computed in this folder"
    assert set(studies) == {"twin", "ablation"}


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text("claims:\n- {id: a, paper: b, claim: c, source: d}\n", encoding="utf-8")
    with pytest.raises(UserError, match="either contrasts or the reason"):
        read_claims(path)
