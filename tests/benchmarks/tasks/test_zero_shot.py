"""Prompt sets are the literature's, each protocol's score is its rule, and nothing but the test part is looked at."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.scores.metrics import METRICS
from benchmarks.tasks.catalogue import read_protocol
from benchmarks.tasks.shared.prompts import PROMPTS, sample
from benchmarks.tasks.zero_shot import TASK, ZeroShotProtocol, pool, probabilities
from mlip.errors import UserError
from tests.benchmarks.conftest import a_source

COUNT = 100
FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
PROTOCOLS = ("strict", "biovil", "chexzero", "maco-2024", "gloria-2021")


def prompts_of(rules, key):
    return rules.prompts_for(rules.datasets[key])


@pytest.fixture
def rsna(world, rng, fake_method):
    y = rng.integers(0, 2, COUNT)
    images = rng.integers(60, 196, (COUNT, 8, 8), dtype=np.uint8)
    images[:, 0, 0] = np.where(y == 1, 250, 5)
    world.store("rsna", {"Pneumonia": y}, images=images)
    for name in ("strict", "biovil", "chexzero", "maco-2024"):
        for prompts in prompts_of(read_protocol("zero_shot", name), "rsna").values():
            for side, sign in ((prompts.positive, 1), (prompts.negative, -1)):
                for text in side:
                    fake_method.table[text] = sign * np.eye(8)[0] + 0.3 * rng.normal(size=8)
    return world


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embeddings(world, dataset):
    """(test image embeddings, test rows), computed without the code under test."""
    test = pd.read_parquet(world.paths.splits(dataset))["part"].eq("test").to_numpy()
    images = np.load(world.paths.data(dataset) / "images.npy")[test]
    return unit((images[:, 0].astype(float) / 255 - 0.5) / 0.5), test


def expected_score(name, image, positive, negative):
    """The rules of facts 6 and 4.2, written out once more."""
    if name == "strict":
        return (image @ positive.T).mean(axis=1) - (image @ negative.T).mean(axis=1)
    mean_positive, mean_negative = positive.mean(axis=0), negative.mean(axis=0)
    if name in ("biovil", "chexzero"):
        mean_positive, mean_negative = unit(mean_positive), unit(mean_negative)
    return image @ mean_positive - image @ mean_negative


@pytest.mark.parametrize("name", ["strict", "biovil", "chexzero", "maco-2024"])
def test_scores_are_the_protocols(rsna, fake_method, name):
    frame = rsna.run("zero_shot", "rsna", name)
    image, test = embeddings(rsna, "rsna")
    prompts = prompts_of(read_protocol("zero_shot", name), "rsna")["Pneumonia"]
    positive, negative = (
        unit(np.stack([fake_method.table[t] for t in side])) for side in (prompts.positive, prompts.negative)
    )
    score = expected_score(name, image, positive, negative)
    np.testing.assert_allclose(frame.p, 1 / (1 + np.exp(-score)), atol=1e-6)
    assert roc_auc_score(frame.y, frame.p) > 0.95
    for spec in TASK.metrics(read_protocol("zero_shot", name), a_source("rsna")):
        assert 0.8 < METRICS[spec.key].value(frame, spec.args) <= 1
    assert list(frame.columns) == ["image_id", "patient_id", "fraction", "draw", "label", "y", "p"]
    assert len(frame) == test.sum() == fake_method.images_seen, "only test images may be encoded"
    assert (frame.fraction == 0).all() and (frame.draw == 0).all()
    pd.testing.assert_frame_equal(frame, rsna.run("zero_shot", "rsna", name), check_exact=True)


def test_strict_asks_the_methods_own_similarity_and_the_lineages_the_cosine(rsna, fake_method):
    calls = []

    def local(image, text):
        calls.append(len(text.joint))
        return 7 * (image.joint @ text.joint.T)

    plain = rsna.run("zero_shot", "rsna")
    cosine = rsna.run("zero_shot", "rsna", "biovil")
    fake_method.similarity = local
    scaled = rsna.run("zero_shot", "rsna")
    assert calls == [24]
    logit = lambda p: np.log(p / (1 - p))  # noqa: E731
    np.testing.assert_allclose(logit(scaled.p), 7 * logit(plain.p), rtol=1e-3, atol=1e-4)
    pd.testing.assert_frame_equal(cosine, rsna.run("zero_shot", "rsna", "biovil"))
    assert calls == [24]


@pytest.mark.parametrize("name", ["strict", "gloria-2021"])
def test_five_classes(world, rng, fake_method, name):
    y = np.arange(COUNT) % 5
    images = rng.integers(100, 156, (COUNT, 8, 8), dtype=np.uint8)
    images[np.arange(COUNT), 0, y] = 255
    # CheXpert leaves what is not mentioned empty.
    labels = {c: np.where(y == i, 1.0, np.nan) for i, c in enumerate(FIVE)}
    world.store("chexpert_5x200", labels, images=images, parts=np.full(COUNT, "test"))
    chosen = prompts_of(read_protocol("zero_shot", name), "chexpert/five_by_200")
    for i, label in enumerate(FIVE):
        for text in chosen[label].positive:
            fake_method.table[text] = np.eye(8)[i] + 0.2 * rng.normal(size=8)
        for text in chosen[label].negative:
            fake_method.table[text] = -np.eye(8)[i] + 0.2 * rng.normal(size=8)
    frame = world.run("zero_shot", "chexpert_5x200", name)
    wide = frame.pivot_table(index="image_id", columns="label", values=["y", "p"])
    assert len(wide) == COUNT and (wide["y"].sum(axis=1) == 1).all()
    np.testing.assert_allclose(wide["p"].sum(axis=1), 1, atol=1e-9)
    assert (wide["y"].idxmax(axis=1) == wide["p"].idxmax(axis=1)).mean() > 0.9
    accuracy = TASK.metrics(read_protocol("zero_shot", name), a_source("chexpert_5x200"))[0]
    assert METRICS[accuracy.key].value(frame, accuracy.args) > 0.9
    if name == "gloria-2021":
        image, _ = embeddings(world, "chexpert_5x200")
        scores = np.stack(
            [(image @ unit(np.stack([fake_method.table[t] for t in chosen[c].positive])).T).max(axis=1) for c in FIVE],
            axis=1,
        )
        z = (scores - scores.mean(axis=0)) / scores.std(axis=0)
        np.testing.assert_array_equal(wide["p"][list(FIVE)].to_numpy().argmax(axis=1), z.argmax(axis=1))
    constant = TASK.run_control(world.job("zero_shot", "chexpert_5x200", name, method="constant"))
    assert len(constant) == len(frame) and np.allclose(constant.p, 0.2)


def test_a_label_changes_no_score(rsna):
    before = rsna.run("zero_shot", "rsna")
    rsna.rewrite(
        rsna.paths.data("rsna") / "records.parquet",
        lambda frame: frame.__setitem__("label.Pneumonia", 1 - frame["label.Pneumonia"]),
    )
    after = rsna.run("zero_shot", "rsna")
    np.testing.assert_array_equal(before.p, after.p)
    np.testing.assert_array_equal(before.y, 1 - after.y)


def test_pool_and_probabilities():
    similarities = np.array([[1.0, 3.0, -2.0], [0.0, 0.5, 4.0]])
    groups = [slice(0, 2), slice(2, 3)]
    np.testing.assert_array_equal(pool(similarities, groups, "mean"), [[2, -2], [0.25, 4]])
    np.testing.assert_array_equal(pool(similarities, groups, "max"), [[3, -2], [0.5, 4]])
    np.testing.assert_allclose(
        probabilities(np.array([[0.0], [2.0], [-800.0]]), "binary", False)[:, 0], [0.5, 0.880797, 0], atol=1e-6
    )
    huge = probabilities(np.array([[1000.0, 999.0], [0.0, 0.0]]), "multiclass", False)
    np.testing.assert_allclose(huge, [[0.731059, 0.268941], [0.5, 0.5]], atol=1e-6)
    # z-scores: the class whose scores are high for every image loses its head start
    biased = np.array([[10.0, 0.3], [10.1, 0.1], [10.2, 0.2]])
    assert probabilities(biased, "multiclass", False).argmax(axis=1).tolist() == [0, 0, 0]
    assert probabilities(biased, "multiclass", True).argmax(axis=1).tolist() == [1, 0, 0]


def test_gloria_pools_have_the_published_sizes():
    sizes = {name: len(p.positive) for name, p in PROMPTS["gloria"].findings.items()}
    assert sizes == {"Atelectasis": 210, "Cardiomegaly": 15, "Consolidation": 192, "Edema": 18, "Pleural Effusion": 54}
    assert len(set(PROMPTS["gloria"].findings["Pleural Effusion"].positive)) == 36
    drawn = sample(PROMPTS["gloria"].findings, 5, 6)
    assert drawn == sample(PROMPTS["gloria"].findings, 5, 6) != sample(PROMPTS["gloria"].findings, 5, 7)
    for name, prompts in drawn.items():
        assert len(prompts.positive) == 5 and set(prompts.positive) <= set(PROMPTS["gloria"].findings[name].positive)


def test_templates_of_the_literature():
    maco = read_protocol("zero_shot", "maco-2024")
    assert prompts_of(maco, "rsna")["Pneumonia"].positive == ["There is lung opacity. "]
    assert prompts_of(maco, "rsna")["Pneumonia"].negative == [
        "the lung is clear. ",
        "There is no lung opacity. ",
        "no lung opacity. ",
        "no evidence of lung opacity. ",
    ]
    assert [len(s) for s in vars(prompts_of(maco, "siim")["Pneumothorax"]).values()] == [2, 5]
    assert vars(prompts_of(read_protocol("zero_shot", "chexzero"), "siim")["Pneumothorax"]) == {
        "positive": ["Pneumothorax"],
        "negative": ["no Pneumothorax"],
    }
    assert [len(s) for s in vars(prompts_of(read_protocol("zero_shot", "biovil"), "rsna")["Pneumonia"]).values()] == [
        4,
        4,
    ]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_has_prompts_for_all_it_scores(name):
    rules = read_protocol("zero_shot", name)
    for dataset in rules.datasets:
        assert set(prompts_of(rules, dataset)) == set(rules.datasets[dataset].labels)
        assert rules.datasets[dataset].metrics()


def test_what_does_not_fit_is_refused(world):
    with pytest.raises(UserError, match=r"biovil\.yaml.*siim"):
        TASK.check(read_protocol("zero_shot", "biovil"), a_source("siim"), world.study)
    rules = read_protocol("zero_shot", "biovil").model_dump()
    rules["datasets"] = {"siim": {"labels": ["Pneumothorax"]}}
    with pytest.raises(UserError, match="no prompts for 'Pneumothorax'"):
        TASK.check(ZeroShotProtocol.model_validate(rules), a_source("siim"), world.study)
    with pytest.raises(ValueError, match="similarity must be `cosine`"):
        ZeroShotProtocol.model_validate({**rules, "similarity": "method"})
