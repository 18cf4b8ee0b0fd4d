"""Fine-tuning trains the encoder, tests what validation chose, and gives the same numbers twice."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

import benchmarks.tasks.fine_tuning.model as model_module
from benchmarks.plan import resolve
from benchmarks.scores.predictions import read_predictions
from benchmarks.tasks.catalogue import read_protocol
from benchmarks.tasks.fine_tuning import TASK
from benchmarks.tasks.fine_tuning.model import Classifier, loss
from benchmarks.tasks.shared.probes import logistic_path, standardise
from benchmarks.tasks.shared.state import State
from benchmarks.tasks.shared.training import parameter_groups
from mlip.data.pixels import to_tensor
from mlip.data.store import open_store
from mlip.errors import UserError
from mlip.run.stages import evaluate
from mlip.study import parse_study
from tests.benchmarks.tasks import dense_world
from tests.benchmarks.tasks.fine_tuning import world
from tests.methods import entry

torch.set_num_threads(1)


@pytest.fixture
def made(tmp_path: Path, monkeypatch):
    """A study, a method around a blind CNN, and its copies that jobs loaded."""
    config = world.study(tmp_path)
    method, loaded = dense_world.method(world.encoder(config, "cnn")), []

    def load(study, entry, seed):
        loaded.append(copy.deepcopy(method).eval())
        return loaded[-1]

    monkeypatch.setattr("mlip.pretraining.checkpoints.load_method", load)
    return config, method, loaded


def auroc(table: pd.DataFrame) -> float:
    return float(roc_auc_score(table.y, table.p))


def probed(config, method) -> float:
    """AUROC of a logistic regression on the frozen encoder."""
    store = open_store(world.job(config).paths.data("films"))
    with torch.no_grad():
        pooled = method.eval().encode_image(to_tensor(np.asarray(store.images))).pooled.double().numpy()
    y, third = store.label("Pneumonia"), world.COUNT // 3
    x, z = standardise(pooled[:third], pooled[2 * third :])
    (model,) = logistic_path(x, y[:third].astype(int), [1.0], 1000)
    return float(roc_auc_score(y[2 * third :], model.probabilities(z)[:, 1]))


def test_it_learns_what_the_frozen_encoder_cannot_show(made) -> None:
    config, method, loaded = made
    world.plant(config)
    frozen = probed(config, method)
    table = TASK.run(world.job(config, **world.QUICK))
    assert list(table.columns) == [
        *("image_id", "patient_id", "fraction", "draw", "label", "y", "p", "seen", "labelled"),
    ]
    assert frozen < 0.75 and auroc(table) > 0.95, "only a changed encoder tells the stripes apart"
    assert len(table) == world.COUNT // 3 and set(table.seen) == set(table.labelled) == {world.COUNT // 3}
    moved = {k for k, v in loaded[0].state_dict().items() if not torch.equal(method.state_dict()[k], v)}
    weights = {f"image_encoder.{k}" for k, _ in method.image_encoder.named_parameters()}
    assert weights <= moved, "all of the encoder"
    assert {k for k in moved if not k.startswith("image_encoder.")} == set(), "and nothing else"


def test_a_cropping_study_trains_on_parts_and_tests_the_centre(made, monkeypatch) -> None:
    config, *_ = made
    world.plant(config)
    store, seen = open_store(world.job(config).paths.data("films")), {True: [], False: []}
    forward = Classifier.forward

    def watched(self, films):
        seen[self.training].append(films)
        return forward(self, films)

    monkeypatch.setattr(Classifier, "forward", watched)
    cropping = config.model_copy(update={"crop_size": 16})
    TASK.run(world.job(cropping, **world.QUICK | {"max_steps": 2}))
    assert {f.shape[-1] for f in seen[True] + seen[False]} == {16}
    tested = torch.cat(seen[False])[-world.COUNT // 3 :]
    whole = to_tensor(np.asarray(store.images)[-world.COUNT // 3 :])
    assert torch.equal(tested, whole[..., 8:24, 8:24])
    centres = to_tensor(np.asarray(store.images))[..., 8:24, 8:24]
    assert not any(torch.equal(film, centre) for film in seen[True][0] for centre in centres)


def test_shuffled_labels_teach_nothing(made) -> None:
    config, *_ = made
    world.plant(config, shuffled=True)
    assert auroc(TASK.run(world.job(config, **world.QUICK))) < 0.8


def test_every_training_begins_with_the_pretrained_encoder_and_is_the_same_again(made) -> None:
    config, *_ = made
    world.plant(config)
    quick = world.QUICK | {"max_steps": 8, "augmentation": {"shift": 0.1}, "drop_path": 0.1}
    first, again = TASK.run(world.job(config, **quick)), TASK.run(world.job(config, **quick))
    pd.testing.assert_frame_equal(first, again, check_exact=True)


def test_what_validation_chose_is_tested(made) -> None:
    config, *_ = made
    chosen = world.QUICK | {"selection": "best_val", "readings": 12}
    world.plant(config)
    right = auroc(TASK.run(world.job(config, **chosen)))
    world.plant(config, wrong_validation=True)
    wrong = auroc(TASK.run(world.job(config, **chosen)))
    assert right > 0.95 and wrong < 0.8, "by labels that are turned round the reading that knows least is the best"


def test_only_training_films_are_moved(tmp_path: Path, monkeypatch) -> None:
    """At a rate that moves no weight, a training with augmentation predicts what one without does."""
    config = world.study(tmp_path)
    dense_world.give_encoder(monkeypatch, world.encoder(config, "vit"))  # without batch norms, which see training films
    world.plant(config)
    still = world.QUICK | {"training": {100: {"lr": 1e-12, "steps": 2}}, "head_std": 0.5}
    plain = TASK.run(world.job(config, **still))
    moved = TASK.run(world.job(config, **(still | {"augmentation": {"crop": (0.1, 0.3), "flip": 1.0}})))
    np.testing.assert_allclose(plain.p, moved.p, atol=1e-6)
    assert plain.p.std() > 1e-3, "and these are no constant"
    fast = still | {"training": {100: {"lr": 1e-3, "steps": 2}}}
    moved = TASK.run(world.job(config, **(fast | {"augmentation": {"crop": (0.1, 0.3), "flip": 1.0}})))
    assert not np.allclose(TASK.run(world.job(config, **fast)).p, moved.p, atol=1e-4), "training films are"


def test_a_killed_training_goes_on_and_ends_the_same(made, monkeypatch) -> None:
    config, *_ = made
    world.plant(config)
    settings = world.QUICK | {
        "max_steps": 10, "selection": "best_val", "readings": 5, "augmentation": {"shift": 0.1}, "optimiser": "sgd",
        "training": {100: {"lr": 0.05, "steps": 10}},
    }  # fmt: skip
    whole = TASK.run(world.job(config, **settings))
    seen = []

    def killed(logits, answers):
        seen.append(len(answers))
        if len(seen) == 7:
            raise KeyboardInterrupt
        return loss(logits, answers)

    monkeypatch.setattr(model_module, "loss", killed)
    job = world.job(config, made_by="a fingerprint", **settings)
    with pytest.raises(KeyboardInterrupt):
        TASK.run(job)
    pd.testing.assert_frame_equal(whole, TASK.run(job), check_exact=True)
    assert len(seen) == 7 + 4, "the six iterations that were done are not done again"
    TASK.run(job)
    assert len(seen) == 7 + 4, "what is done is read until its predictions are written"
    TASK.run(world.job(config, made_by="another", **settings))
    assert len(seen) == 7 + 4 + 10


def test_the_stage_writes_predictions_and_leaves_no_state(made, monkeypatch) -> None:
    config, *_ = made
    world.plant(config)
    raw = config.model_dump(mode="json") | {"methods": {"include": ["random"]}}
    raw["tasks"] = {"fine_tuning": raw["tasks"]["fine_tuning"] | {"budget": world.QUICK | {"max_steps": 4}}}
    plan = resolve(parse_study(raw, where="test"), look=False)
    kept = []
    monkeypatch.setattr(State, "save", lambda self, values: kept.append(self.path))
    for row in ("random", "constant"):
        evaluate.run(plan, "fine_tuning", "strict", "films", row, 0, {})
    table, meta = read_predictions(plan.paths.predictions("fine_tuning", "strict", "films", "random", 0))
    assert len(table) == world.COUNT // 3 and set(table.seen) == {40}
    assert meta["fingerprint"] == plan.evaluation("fine_tuning", "strict", "films", "random", 0).key
    folder = plan.paths.evaluation_state("fine_tuning", "strict", "films", "random", 0)
    assert kept and kept[0].parent == folder and not folder.exists()


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_the_lineages_protocol_runs_as_it_is_written(kind, tmp_path: Path, monkeypatch) -> None:
    config = world.study(tmp_path)
    method = dense_world.method(world.encoder(config, kind))
    dense_world.give_method(monkeypatch, method)
    world.plant(config)
    before = copy.deepcopy(method.state_dict())
    table = TASK.run(world.job(config, "maco-2024", max_steps=3))
    assert table.p.between(0, 1).all() and set(table.seen) == {40}
    moved = [k for k, v in method.image_encoder.named_parameters() if not torch.equal(before[f"image_encoder.{k}"], v)]
    assert len(moved) > 10


def test_several_classes_and_labels_that_are_not_known(made) -> None:
    config, *_ = made
    y = world.plant(config)
    folder = world.job(config).paths.data("films")
    frame = pd.read_parquet(folder / "records.parquet")
    frame["label.across"], frame["label.along"] = y.astype(np.float32), (1 - y).astype(np.float32)
    frame["label.unknown"] = np.where(np.arange(world.COUNT) % 3, np.nan, y).astype(np.float32)
    frame.to_parquet(folder / "records.parquet")
    several = {"rsna": {"labels": ["along", "across"], "kind": "multiclass"}}
    chosen = world.QUICK | {"selection": "best_val", "readings": 6, "datasets": several}
    table = TASK.run(world.job(config, **chosen))
    assert auroc(table[table.label == "across"]) > 0.95
    assert np.allclose(table.groupby("image_id").p.sum(), 1)
    table = TASK.run(world.job(config, **world.QUICK, datasets={"rsna": {"labels": ["across", "unknown"]}}))
    assert auroc(table[table.label == "across"]) > 0.95 and auroc(table[table.label == "unknown"]) > 0.9
    assert (table.label == "unknown").sum() < (table.label == "across").sum() == world.COUNT // 3


def test_the_constant_control(made) -> None:
    config, *_ = made
    world.plant(config)
    table = TASK.run_control(world.job(config))
    assert set(table.p) == {0.5} and set(table.labelled) == {0}


def test_unknown_labels_cost_nothing() -> None:
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    answers = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    p = torch.sigmoid(logits)
    expected = -(p[0, 0].log() + (1 - p[1, 0]).log() + p[1, 1].log()) / 3
    assert loss(logits, answers).item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss(logits, torch.tensor([1.0, 0.0])).item() == pytest.approx(
        -(logits.log_softmax(1)[0, 1] + logits.log_softmax(1)[1, 0]).item() / 2, rel=1e-6
    )


def test_rates_fall_layer_by_layer_from_the_head(tmp_path: Path) -> None:
    encoder = world.encoder(world.study(tmp_path), "vit")
    head = torch.nn.Linear(32, 1)
    groups = parameter_groups(encoder, [head], 0.05, 0.5)
    of = {id(p): g for g in groups for p in g["params"]}
    assert len(of) == len(list(encoder.parameters())) + 2
    blocks = encoder.model.blocks
    scale = [of[id(b.attn.qkv.weight)]["lr_scale"] for b in blocks]
    assert scale[1] == 2 * scale[0] and of[id(encoder.model.patch_embed.proj.weight)]["lr_scale"] < scale[0]
    assert of[id(head.weight)].get("lr_scale", 1.0) == 1.0 and of[id(head.weight)]["weight_decay"] == 0.05
    assert of[id(blocks[0].norm1.weight)]["weight_decay"] == 0.0 == of[id(head.bias)]["weight_decay"]
    with pytest.raises(UserError, match="layer_decay needs the order"):
        parameter_groups(torch.nn.Linear(1, 1), [head], 0.05, 0.5)


def test_drop_path_acts_in_training_only(tmp_path: Path) -> None:
    config = world.study(tmp_path)
    protocol = read_protocol("fine_tuning", "strict").model_copy(update={"drop_path": 0.9})
    model = Classifier(dense_world.method(world.encoder(config, "vit")), protocol, 1, world.SIDE, tmp_path)
    images = torch.randn(4, 3, world.SIDE, world.SIDE)
    model.restart()
    model.head.weight.data.fill_(1.0)
    model.eval()
    assert torch.equal(model(images), model(images))
    model.train()
    assert not torch.equal(model(images), model(images))
    assert not any(m.training for name, m in model._method[0].named_modules() if "text_encoder" in name)


def test_the_lineages_numbers() -> None:
    protocol = read_protocol("fine_tuning", "maco-2024")
    assert protocol.pool == "mean" and (protocol.batch_size, protocol.optimiser, protocol.momentum) == (96, "sgd", 0.9)
    assert (protocol.clip, protocol.drop_path, protocol.weight_decay, protocol.head_std) == (1.0, 0.1, 0.0, 2e-5)
    nih = protocol.datasets["nih"]
    assert len(nih.labels) == 14 and nih.training is not None
    assert (nih.training[10].lr, nih.training[10].length(7847, 96, None)) == (3e-3, (30000, 500))
    assert nih.training[10].length(7847, 96, 60) == (60, 1), "a shorter training warms up the shorter"
    strict = read_protocol("fine_tuning", "strict")
    assert strict.training[100].length(100, 32, None) == (40, 4) and strict.selection == "last"
    with pytest.raises(ValidationError, match="one of steps and epochs"):
        type(nih.training[10])(lr=0.1)
    with pytest.raises(ValidationError, match="readings go with"):
        type(strict).model_validate({**strict.model_dump(), "selection": "best_val"})


def test_refusals(made, tmp_path: Path) -> None:
    config, method, _ = made
    y = world.plant(config)
    job = world.job(config, **world.QUICK, selection="best_val", readings=2)
    records = job.paths.data("films") / "records.parquet"
    frame = pd.read_parquet(records)
    third = world.COUNT // 3
    frame.loc[third : 2 * third - 1, "label.Pneumonia"] = 1.0
    frame.to_parquet(records)
    assert y.any()
    with pytest.raises(UserError, match="has no label of two kinds"):
        TASK.run(job)

    class Blind(type(method)):  # type: ignore[misc]
        def encode_image(self, images):
            with torch.no_grad():
                return super().encode_image(images)

    method.__class__ = Blind
    with pytest.raises(UserError, match="have no gradient"):
        Classifier(method, read_protocol("fine_tuning", "strict"), 1, world.SIDE, tmp_path)
    assert TASK.skip_reason(entry("thumbnail"), "films") and not TASK.skip_reason(entry("random"), "films")
