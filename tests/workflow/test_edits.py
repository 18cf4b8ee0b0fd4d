"""What an edit repeats: exactly what depends on it. The table is in ``edits.py``."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.workflow.conftest import Run, copy_of_sources, snakemake
from tests.workflow.edits import EDITS, Edit

pytestmark = pytest.mark.study

# Run with the libraries imported and the project's modules not, so that each edit costs their import only.
KEYS = """
import json, os, sys
import matplotlib, numpy, pandas, pyarrow, pydantic, scipy, sklearn.linear_model, torch, typer, yaml
for line in sys.stdin:
    checkout, study, out = json.loads(line)
    if os.fork() == 0:
        sys.path.insert(0, checkout)
        os.chdir(checkout)
        from benchmarks.analyses import false_negatives, maps
        from benchmarks.plan import resolve
        from mlip.study import load_study
        plan = resolve(load_study(study), look=False)
        prints, found = plan.fingerprints, {}
        found["anatomy"] = prints.anatomy().key
        found |= {f"twin {h}": prints.twin(h).key for h in plan.study.twin.datasets}
        for d in plan.study.datasets:
            found |= {f"store {d}": prints.store(d).key, f"splits {d}": prints.splits(d).key}
        found |= {"audit": prints.audit().key, "tokenizer": prints.tokenizer().key, "knowledge": prints.knowledge().key}
        for row in plan.rows:
            for seed in plan.study.pretrain.seeds:
                found[f"pretrain {row} {seed}"] = plan.training(row, seed).key
                found |= {f"features {row} {seed} {d}": plan.features(row, seed, d).key for d in plan.feature_sets}
        for e in plan.evaluations:
            key = plan.evaluation(e.task, e.protocol, e.dataset, e.row, e.seed).key
            found[f"evaluate {e.task} {e.dataset} {e.row} {e.seed}"] = key
        found |= {f"maps {row}": maps.fingerprint(plan, row).key for row in maps.mapped_rows(plan)}
        found |= {"false_negatives": false_negatives.fingerprint(plan).key, "tables": plan.tables().key}
        from mlip.source_code import save_hashes
        save_hashes()
        open(out, "w").write(json.dumps(found))
        os._exit(0)
    print("done" if os.wait()[1] == 0 else "failed", flush=True)
"""


class Keys:
    """Fingerprints of all jobs of a study by the code of a checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = subprocess.Popen(
            [sys.executable, "-c", KEYS], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, checkout: Path, config: dict[str, Any]) -> dict[str, str]:
        study, out = self.folder / "study.yaml", self.folder / "keys.json"
        study.write_text(yaml.safe_dump(config), encoding="utf-8")
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps([str(checkout), str(study), str(out)]) + "\n")
        self.server.stdin.flush()
        assert self.server.stdout.readline().strip() == "done"
        return json.loads(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def keys_of(tmp_path_factory: pytest.TempPathFactory):
    keys = Keys(tmp_path_factory.mktemp("keys"))
    yield keys
    keys.server.kill()


@pytest.fixture(scope="module")
def unedited(keys_of: Keys) -> dict[str, str]:
    return keys_of(ROOT, smoke_config())


def smoke_config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("edit", [e for e in EDITS if not e.only_files], ids=str)
def test_fingerprints_that_change(edit: Edit, keys_of: Keys, unedited: dict[str, str], tmp_path: Path) -> None:
    checkout, config = copy_of_sources(tmp_path / "checkout"), smoke_config()
    edit.change(checkout, config)
    now = keys_of(checkout, config)
    assert {name for name, key in now.items() if unedited.get(name) != key} == edit.expected


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_jobs_that_are_planned(edit: Edit, smoke: Run, tmp_path: Path) -> None:
    """The same table as ``snakemake -n`` sees it, over the finished study."""
    checkout, config = (
        copy_of_sources(tmp_path / "checkout"),
        copy.deepcopy(yaml.safe_load(smoke.config.read_text(encoding="utf-8"))),
    )
    kept = tmp_path / "kept"
    shutil.copytree(smoke.folder, kept, symlinks=True)
    try:
        edit.change(checkout, config)
        study = tmp_path / "study.yaml"
        study.write_text(yaml.safe_dump(config), encoding="utf-8")
        done = snakemake("-n", "--cores", "2", "-s", str(checkout / "Snakefile"), "--configfile", str(study))
        assert planned(done.stdout + done.stderr, config) == edit.expected
    finally:
        for path in kept.rglob("*"):  # what the edit deleted is put back with its old time
            target = smoke.folder / path.relative_to(kept)
            if path.is_file() and not target.exists():
                shutil.copy2(path, target)


def planned(output: str, config: dict[str, Any]) -> set[str]:
    """Labels of the jobs that a dry run prints."""
    found = set()
    for block in re.split(r"\n(?=rule |localrule )", output)[1:]:
        rule = re.match(r"(?:local)?rule (\w+):", block)
        wild = re.search(r"^    wildcards: (.+)$", block, re.M)
        values = dict(item.split("=") for item in wild[1].split(", ")) if wild else {}
        assert rule
        name = {"store_with_masks": "store"}.get(rule[1], rule[1])
        if name in ("study", "all"):
            continue
        order = {
            "features": ("method", "seed", "dataset"),
            "pretrain": ("method", "seed"),
            "evaluate": ("task", "dataset", "row", "seed"),
        }.get(name, tuple(values))
        found.add(" ".join([name, *(values[key] for key in order)]))
    return found


def test_a_weights_file_and_lists_of_films_count_by_content(keys_of: Keys, tmp_path: Path) -> None:
    weights, lists = tmp_path / "weights.safetensors", tmp_path / "lists"
    lists.mkdir()
    weights.write_bytes(b"one")
    for name in ("train", "val", "test"):
        (lists / f"{name}.txt").write_text("a.png\n", encoding="utf-8")
    config = smoke_config()
    config["encoders"]["cnn"]["pretrained"] = str(weights)
    config["datasets"]["rsna"]["split"] = f"lists:{lists}"
    before = keys_of(ROOT, config)
    weights.write_bytes(b"two")
    changed = {name for name, key in keys_of(ROOT, config).items() if before[name] != key}
    # The random encoder starts from random weights whatever the study says.
    assert {n for n in changed if n.startswith("pretrain")} == {"pretrain cvpr24 0"}
    weights.write_bytes(b"one")
    os.utime(weights, ns=(1, 1))
    assert keys_of(ROOT, config) == before
    (lists / "test.txt").write_text("b.png\n", encoding="utf-8")
    changed = {name for name, key in keys_of(ROOT, config).items() if before[name] != key}
    few = {f"evaluate few_shot rsna {row} 0" for row in ("cvpr24", "isbi24", "random", "constant")}
    assert changed == {"splits rsna", "audit", "tables", *few}


def test_marked_trainings_outlive_an_edit_of_the_code(keys_of: Keys, tmp_path: Path) -> None:
    config = smoke_config()
    config["pretrain"]["on_code_change"] = "mark"
    before = keys_of(ROOT, config)
    checkout = copy_of_sources(tmp_path / "checkout")
    for path in ("mlip/pretraining/loop.py", "mlip/isbi24/model.py", "mlip/data/build.py"):
        (checkout / path).write_text(
            (checkout / path).read_text(encoding="utf-8") + "\n_EDITED = 1\n", encoding="utf-8"
        )
    after = keys_of(checkout, config)
    changed = {name for name, key in after.items() if before[name] != key}
    assert not {n for n in changed if n.startswith("pretrain")} and "store mimic" in changed
    config["pretrain"]["precision"] = "bf16-mixed"
    assert {n for n, k in keys_of(checkout, config).items() if after[n] != k} >= {
        "pretrain cvpr24 0",
        "pretrain isbi24 0",
    }
