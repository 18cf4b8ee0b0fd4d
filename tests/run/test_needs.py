"""What jobs ask for: formulas against operations that PyTorch counts, and which jobs ask for a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plan import resolve
from mlip.encoders.image import ImageEncoder
from mlip.errors import UserError
from mlip.run import needs
from mlip.run.estimate import estimate
from mlip.run.needs import GPUS, MANY_GPUS, Needs, gpus_here, gpus_of
from mlip.study import ImageEncoderConfig, Study, load_study
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def paper() -> Study:
    return load_study("config/paper.yaml")


@pytest.mark.parametrize(
    ("kind", "config", "side"),
    [
        ("cnn", {"name": "resnet50", "input_size": 299}, 224),
        ("vit", {"name": "vit_base_patch16_224"}, 224),
        ("cnn", {"name": "resnet18"}, 64),
        ("vit", {"name": "vit", "args": {"patch_size": 16, "embed_dim": 64, "depth": 3, "num_heads": 2}}, 96),
        ("cnn", {"name": "resnet", "args": {"layers": [1, 2, 1, 1], "channels": [16, 32, 64, 128]}}, 64),
    ],
)
def test_operations_and_weights_are_those_that_torch_counts(kind: str, config: dict[str, object], side: int) -> None:
    """Within a third: stems, norms and strides are not in the formulas."""
    asked = ImageEncoderConfig.model_validate(config)
    with torch.device("meta"):
        encoder = ImageEncoder(asked, kind, side, hub=False).eval()  # type: ignore[arg-type]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            encoder(torch.empty(1, 3, side, side))
    counted, weights = counter.get_total_flops() / 1e9, sum(p.numel() for p in encoder.parameters()) / 1e6
    assert needs.image_gflops(asked, side) == pytest.approx(counted, rel=0.34)
    assert needs.image_weights(asked) == pytest.approx(weights, rel=0.34)


def test_a_training_asks_for_more_where_there_is_more_to_do(paper: Study) -> None:
    changes = {"epochs": 10, "batch_size": 64}
    small = paper.model_copy(update={"pretrain": paper.pretrain.model_copy(update=changes)})
    twice = paper.model_copy(update={"pretrain": paper.pretrain.model_copy(update={**changes, "epochs": 20})})
    wide = paper.model_copy(update={"pretrain": paper.pretrain.model_copy(update={**changes, "batch_size": 128})})
    of = {
        name: Needs(resolve(s, look=False), 1, 8) for name, s in {"small": small, "twice": twice, "wide": wide}.items()
    }
    hours = {name: n.of("pretrain", "mgca", "0").hours for name, n in of.items()}
    assert hours["twice"] == pytest.approx(2 * hours["small"], rel=0.05) and hours["wide"] == hours["small"]
    memory = {name: n.gpu_memory(n.plan.row("mgca")) for name, n in of.items()}
    assert 1.5 * memory["small"] < memory["wide"] < 2 * memory["small"]
    assert (
        Needs(resolve(small, look=False), 0, 8).of("pretrain", "mgca", "0").hours > 40 * hours["small"]
    )  # mgca's recipe is 32 bit


def test_what_is_trained_in_the_transfer_costs_its_films(paper: Study) -> None:
    of = Needs(resolve(paper, look=False), 4, 8)
    cost = {p: of.of("evaluate", "fine_tuning", p, "rsna_maco", "isbi24", "0").hours for p in ("maco-2024", "strict")}
    assert cost["maco-2024"] > 2 * cost["strict"]  # 50,000 steps of 96 films against 10 passes
    frozen, tuned = (of.of("evaluate", "detection", p, "rsna", "mgca", "0").hours for p in ("mgca-2022", "fine-tuned"))
    assert tuned > 2 * frozen


def test_limits_grow_with_the_attempt_but_of_a_training_which_goes_on(paper: Study) -> None:
    plan = resolve(paper, look=False)
    of = Needs(plan, 4, 8)
    training = {"method": "mgca", "seed": "0"}
    asked = of.asked("pretrain", "method", "seed")
    assert asked["runtime"](training, attempt=3) == asked["runtime"](training, attempt=1)
    assert asked["mem_mb"](training, attempt=2) == 2 * asked["mem_mb"](training, attempt=1)  # type: ignore[operator]
    assert asked["mem_mb"](training, attempt=9) == asked["mem_mb"](training, attempt=2), (
        "no node has nine times as much"
    )
    store = of.asked("store", "dataset")
    assert store["runtime"]({"dataset": "rsna"}, attempt=2) == 2 * store["runtime"]({"dataset": "rsna"}, attempt=1)  # type: ignore[operator]


def test_gpus_are_asked_for_by_the_jobs_that_use_one(paper: Study) -> None:
    two = paper.model_copy(update={"pretrain": paper.pretrain.model_copy(update={"devices": 2})})
    of = Needs(resolve(two, look=False), 4, 8)
    assert of.of("pretrain", "mgca", "0").gpu == 2 and of.of("pretrain", "random", "0").gpu == 1
    blocks = (("linear_probe", "strict"), ("detection", "strict-epochs"))
    assert [of.of("evaluate", *block, "rsna", "mgca", "0").gpu for block in blocks] == [0, 1]
    control = of.asked("evaluate", "task", "protocol", "dataset", "row", "seed")["gpu"]
    names = {"task": "detection", "protocol": "strict-epochs", "dataset": "rsna", "row": "prior-box", "seed": "0"}
    assert control(names, attempt=1) is None  # not 0, which the executors of some clusters take for a wish
    assert "gpu" not in of.asked("splits", "dataset")
    assert "gpu" not in Needs(of.plan, 0, 8).asked("pretrain", "method", "seed")


def test_how_many_gpus_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus_here(tmp_path) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpus_here(tmp_path) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus_here(tmp_path) == 0
    monkeypatch.setattr(needs, "gpus_here", lambda: 2)
    monkeypatch.delenv(GPUS, raising=False)
    monkeypatch.delenv("MLIP_GPU_JOBS", raising=False)
    assert [gpus_of(device, None, True) for device in ("cpu", "auto", "cuda")] == [0, 2, 2]
    assert [gpus_of(device, None, False) for device in ("cpu", "auto", "cuda")] == [0, 0, MANY_GPUS]
    assert [gpus_of(device, 3, False) for device in ("cpu", "auto", "cuda")] == [0, 3, 3]
    monkeypatch.setenv(GPUS, "5")
    assert gpus_of("auto", None, False) == 5 and gpus_of("auto", 1, True) == 1
    monkeypatch.setenv(GPUS, "two")
    with pytest.raises(UserError, match="MLIP_GPUS"):
        gpus_of("auto", None, True)


def test_every_rule_asks_and_the_estimate_knows_its_jobs() -> None:
    asked = set()
    for path in (ROOT / "workflows" / "rules").glob("*.smk"):
        for rule in re.split(r"^ *rule ", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
            stages = re.findall(r'threads: NEEDS\.threads\("(\w+)"|\*\*NEEDS\.asked\("(\w+)"', rule)
            assert len(stages) == 2 and stages[0][0] == stages[1][1], f"{path.name}: {rule.split(':')[0]}"
            asked.add(stages[0][0])
    plan = resolve(load_study("config/smoke.yaml"))
    found = {stage.stage: stage.jobs for stage in estimate(plan).stages}
    assert found.keys() == asked - {"parts"}  # which the smoke study does not look at
    assert found["evaluate"] == len(plan.evaluations) and found["store"] == 10 and found["pretrain"] == 3


def test_the_estimate_says_what_this_machine_has_too_little_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = resolve(load_study("config/smoke.yaml"))
    assert not estimate(plan).short
    monkeypatch.setattr("mlip.run.estimate.gpus_here", lambda: 0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    plan.study.device = "cuda"
    short = estimate(plan).short
    assert [line.split(":")[0] for line in short] == ["disk", "devices"]
