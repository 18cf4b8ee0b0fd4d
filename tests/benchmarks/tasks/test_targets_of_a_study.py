"""What a study says of its own data sets: targets, prompts, and which jobs they concern."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks.plan import Plan, check_block, resolve
from benchmarks.report.words import describe
from benchmarks.tasks.shared.prompts import Prompts
from mlip.errors import UserError
from mlip.study import parse_study
from tests.conftest import ROOT
from tests.data.layouts import film, write_image

WORDS: dict[str, Any] = {
    "source": "our department",
    "templates": {"positive": ["{Name} is seen.", "Signs of {name}."], "negative": ["No {name}."]},
    "classes": {"Edema": "pulmonary edema", "Mass": {"positive": ["A mass."], "negative": ["No mass."]}},
}
Study = dict[str, Any]


@pytest.fixture
def smoke() -> Study:
    return yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """Thirty films and a table."""
    root = tmp_path / "ours"
    for i in range(30):
        write_image(root / f"{i}.png", film(i))
    rows = {
        "image": [f"{i}.png" for i in range(30)],
        "patient": range(30),
        "Edema": np.arange(30) % 2,
        "Mass": np.arange(30) % 3 == 0,
    }
    pd.DataFrame(rows).astype({"Mass": int}).to_csv(root / "films.csv", index=False)
    return root


def with_ours(study: Study, root: Path, **tasks: dict[str, Any]) -> Study:
    """The study with a data set more, in the tasks with these targets."""
    study["datasets"]["ours"] = {"reader": "image_csv", "root": str(root), "options": {"labels": ["Edema", "Mass"]}}
    for task, target in tasks.items():
        study["tasks"][task]["datasets"].append("ours")
        study["tasks"][task].setdefault("targets", {})["ours"] = target
    return study


def plan_of(study: Study) -> Plan:
    return resolve(parse_study(study, where="test"), look=False)


def keys(plan: Plan) -> dict[str, str]:
    """Fingerprint by job."""
    prints, study = plan.fingerprints, plan.study
    found = {f"store {d}": prints.store(d).key for d in study.datasets}
    found |= {f"splits {d}": prints.splits(d).key for d in study.datasets}
    found |= {"tokenizer": prints.tokenizer().key, "knowledge": prints.knowledge().key, "anatomy": prints.anatomy().key}
    found |= {f"twin {h}": prints.twin(h).key for h in (study.twin.datasets if study.twin else {})}
    found |= {f"pretrain {row}": plan.training(row, 0).key for row in plan.rows}
    found |= {f"features {row} {d}": plan.features(row, 0, d).key for row in plan.rows for d in plan.feature_sets}
    return found | {
        f"{e.task} {e.dataset} {e.row}": plan.evaluation(e.task, e.protocol, e.dataset, e.row, e.seed).key
        for e in plan.evaluations
    }


def new(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name, key in after.items() if before.get(name) != key}


def written(path: Path, words: Any) -> str:
    path.write_text(yaml.safe_dump(words), encoding="utf-8")
    return str(path)


def test_a_data_set_with_targets_plans_its_own_jobs_only(smoke: Study, ours: Path, tmp_path: Path) -> None:
    before, rows = keys(plan_of(smoke)), ("cvpr24", "isbi24", "random")
    target = {"labels": ["Edema", "Mass"]}
    prompts = written(tmp_path / "words.yaml", WORDS)
    study = with_ours(smoke, ours, linear_probe=target, few_shot=target, zero_shot=target | {"prompts": prompts})
    after = keys(plan_of(study))
    expected = {"store ours", "splits ours"} | {f"features {row} ours" for row in rows}
    expected |= {f"{t} ours {row}" for t in ("linear_probe", "few_shot", "zero_shot") for row in (*rows, "constant")}
    assert new(before, after) == expected and set(before) <= set(after)

    study["tasks"]["linear_probe"]["targets"]["ours"] = {"labels": ["Edema"]}
    probed = keys(plan_of(study))
    assert new(after, probed) == {f"linear_probe ours {row}" for row in (*rows, "constant")}
    written(tmp_path / "words.yaml", WORDS | {"source": "another", "classes": {**WORDS["classes"], "Hernia": "hernia"}})
    assert keys(plan_of(study)) == probed, "prompts of other labels, and where they are from, move nothing"
    written(tmp_path / "words.yaml", WORDS | {"templates": {"positive": ["{name}"], "negative": ["no {name}"]}})
    assert new(probed, keys(plan_of(study))) == {f"zero_shot ours {row}" for row in (*rows, "constant")}
    change_table(ours)
    assert not new(probed, keys(plan_of(study))) & set(before), "a changed table of ours is no one else's"


def change_table(root: Path) -> None:
    table = pd.read_csv(root / "films.csv")
    table.loc[0, "Mass"] = 0
    table.to_csv(root / "films.csv", index=False)


def test_prompts_are_those_of_the_file(smoke: Study, ours: Path, tmp_path: Path) -> None:
    prompts = written(tmp_path / "words.yaml", WORDS)
    plan = plan_of(with_ours(smoke, ours, zero_shot={"labels": ["Edema", "Mass"], "prompts": prompts}))
    block, other = plan.block("zero_shot", "strict", "ours"), plan.block("zero_shot", "strict", "siim")
    found = block.protocol.prompts_for(block.source.of(block.protocol.datasets))
    assert found == {
        "Edema": Prompts(["Pulmonary edema is seen.", "Signs of pulmonary edema."], ["No pulmonary edema."]),
        "Mass": Prompts(["A mass."], ["No mass."]),
    }
    assert "image_csv" not in other.protocol.datasets and "Pneumothorax" in other.protocol.prompts_for(
        other.source.of(other.protocol.datasets)
    )
    page = describe(plan.study, [block])
    assert "ours, as this study says" in page and "Edema" in page


def edited(**changes: Any) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: {"labels": ["Edema"], "prompts": written(folder / "words.yaml", WORDS | changes)}


@pytest.mark.parametrize(
    ("task", "target", "problem"),
    [
        ("linear_probe", lambda _: {"labels": ["Hernia"]}, r"tasks\.linear_probe\.targets\.ours: scores 'Hernia'.*'Edema', 'Mass'"),
        ("linear_probe", lambda _: {"labels": ["Edema"], "kind": "both"}, r"tasks\.linear_probe\.targets\.ours: .*kind"),
        ("linear_probe", lambda _: {"labels": ["Edema"], "prompts": "x"}, r"targets\.ours: .*prompts.*unknown key"),
        ("few_shot", lambda _: {}, r"tasks\.few_shot\.targets\.ours: .*labels: Field required"),
        ("retrieval", lambda _: {"labels": ["Edema"]}, r"tasks\.retrieval\.targets\.ours: says nothing that this task asks for"),
        ("segmentation", lambda _: {"labels": ["Edema"]}, r"tasks\.segmentation\.targets\.ours: .*balanced: Field required"),
        ("zero_shot", lambda _: {"labels": ["Edema"], "prompts": "nowhere.yaml"}, r"nowhere\.yaml: there is no such file"),
        ("zero_shot", edited(classes={"Mass": "mass"}), r"words\.yaml: has no prompts of 'Edema'"),
        ("zero_shot", edited(templates={"positive": ["{name}"]}), r"words\.yaml: has no prompts for the absence of 'Edema'"),
        ("zero_shot", edited(templates={"positive": ["{finding}"]}), r"words\.yaml: templates\.positive: .*must hold \{name\}"),
        ("zero_shot", edited(clases={}), r"words\.yaml: clases: .*unknown key"),
        ("zero_shot", lambda _: {"labels": ["Mass"]}, r"the prompt set 'radiology' has no prompts for 'Mass'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_target(
    task: str, target: Any, problem: str, smoke: Study, ours: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=problem):
        plan_of(with_ours(smoke, ours, **{task: target(tmp_path)}))


def test_without_a_target_the_study_is_told_where_to_say_it(smoke: Study, ours: Path) -> None:
    study = with_ours(smoke, ours)
    study["tasks"]["linear_probe"]["datasets"].append("ours")
    with pytest.raises(UserError, match=r"say it in the study under tasks\.linear_probe\.targets\.ours"):
        check_block(parse_study(study, where="test"), "linear_probe", "strict", "ours")
    study["tasks"]["few_shot"]["targets"] = {"ours": {"labels": ["Edema"]}}
    with pytest.raises(
        UserError, match=r"tasks\.few_shot\.targets names 'ours', which tasks\.few_shot\.datasets does not"
    ):
        parse_study(study, where="test")


def test_a_target_goes_before_the_protocols_entry(smoke: Study) -> None:
    """The study's word on a data set that the protocol knows too, and no other data set of that reader."""
    smoke["datasets"]["second"] = smoke["datasets"]["rsna"]
    smoke["tasks"]["few_shot"] |= {
        "datasets": ["rsna", "second"],
        "targets": {"second": {"labels": ["Pneumonia"], "missing": "negative"}},
    }
    plan = plan_of(smoke)
    said = [b.source.of(b.protocol.datasets).missing for b in plan.blocks if b.task_name == "few_shot"]
    assert said == ["drop", "negative"]


def test_nothing_is_trained_and_nothing_to_train_on(smoke: Study, ours: Path) -> None:
    study = with_ours(smoke, ours, linear_probe={"labels": ["Edema"]})
    study["pretrain"]["datasets"], study["analyses"] = [], []
    with pytest.raises(UserError, match=r"pretrain\.datasets is empty, and cvpr24, isbi24, random learn from films"):
        plan_of(study)
    study["methods"]["include"] = ["thumbnail"]
    plan = plan_of(study)
    assert not plan.trains and plan.training("thumbnail", 0).key and plan.fingerprints.tokenizer().key
    assert any(e.dataset == "ours" and e.row == "thumbnail" for e in plan.evaluations)


def test_balance_is_said_of_one_data_set(smoke: Study, ours: Path) -> None:
    before = keys(plan_of(smoke))
    study = with_ours(smoke, ours, segmentation={"balanced": True})
    study["datasets"]["ours"]["options"]["masks"] = {"name": "Mass", "folder": ".", "without": "empty"}
    plan = plan_of(study)
    assert plan.block("segmentation", "strict", "ours").protocol.balanced == ["siim", "rsna", "image_csv"]
    assert not {name for name in new(before, keys(plan)) if "ours" not in name}
