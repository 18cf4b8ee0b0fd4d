"""Every metric against the library that defines it, exactly and under resampling (weights = repeated rows)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from benchmarks.scores.metrics import METRICS
from benchmarks.scores.statistics import multiplicities
from benchmarks.scores.weighted import Undefined

LABELS = ("Edema", "Pneumonia", "Pneumothorax")


def classification(rng: np.random.Generator, images: int = 90, patients: int = 40, ties: bool = True) -> pd.DataFrame:
    """Noisy scores; ``ties`` rounds them to one decimal."""
    owner = rng.integers(0, patients, images)
    parts = []
    for label in LABELS:
        y = rng.random(images) < 0.35
        p = 1 / (1 + np.exp(-(y + rng.normal(size=images))))
        ids = [f"i{k:03d}" for k in range(images)]
        parts.append(
            pd.DataFrame({
                "image_id": ids, "patient_id": [f"p{k:03d}" for k in owner], "fraction": 100, "draw": 0, "label": label,
                "y": y.astype(float), "p": p.round(1) if ties else p,
            })
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def one_hot(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    frame = frame.copy()
    truth = rng.integers(0, len(LABELS), frame["image_id"].nunique())
    frame["y"] = np.concatenate([(truth == k).astype(float) for k in range(len(LABELS))])
    return frame


def repeat(frame: pd.DataFrame, units: np.ndarray, counts: np.ndarray) -> pd.DataFrame:
    """The rows of a resample, written out: a patient drawn twice is there twice, as different images."""
    pieces = []
    for copy in range(int(counts.max())):
        piece = frame[counts[units] > copy].copy()
        piece["image_id"] = piece["image_id"] + f"#{copy}"
        pieces.append(piece)
    return pd.concat(pieces, ignore_index=True)


def macro(frame: pd.DataFrame, score) -> float:
    return float(np.mean([score(g["y"].to_numpy(), g["p"].to_numpy()) for _, g in frame.groupby("label")]))


def best_f1(y: np.ndarray, p: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(y, p)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())


REFERENCES = {
    "auroc": ({}, lambda f: macro(f, roc_auc_score)),
    "average_precision": ({}, lambda f: macro(f, average_precision_score)),
    "accuracy": ({"threshold": 0.5}, lambda f: macro(f, lambda y, p: accuracy_score(y, p > 0.5))),
    "f1": ({"threshold": 0.5}, lambda f: macro(f, lambda y, p: f1_score(y, p > 0.5))),
    "f1 weighted": (
        {"threshold": 0.5, "average": "weighted"},
        lambda f: macro(f, lambda y, p: f1_score(y, p > 0.5, average="weighted")),
    ),
    "f1 best": ({"threshold": "best_f1"}, lambda f: macro(f, best_f1)),
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("ties", [True, False])
def test_classification_equals_scikit_learn_also_when_resampled(name, ties, rng):
    args, reference = REFERENCES[name]
    metric = METRICS[name.split()[0]]
    frame = classification(rng, ties=ties)
    assert metric.value(frame, args) == pytest.approx(reference(frame), abs=1e-9)
    units, ids = pd.factorize(frame["patient_id"])
    weights = multiplicities(len(ids), 4, rng)
    found = metric.resample(frame, units, weights, args)[1]
    expected = [reference(repeat(frame, units, weights[:, r])) for r in range(4)]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_blocks_of_resamples_do_not_change_the_result(rng, monkeypatch):
    frame = classification(rng)
    units, ids = pd.factorize(frame["patient_id"])
    weights = multiplicities(len(ids), 50, rng)
    whole = METRICS["auroc"].resample(frame, units, weights)[1]
    monkeypatch.setattr("benchmarks.scores.weighted.BLOCK", 7 * 90)
    np.testing.assert_array_equal(METRICS["auroc"].resample(frame, units, weights)[1], whole)


def test_accuracy_at_the_best_f1_threshold(rng):
    frame = classification(rng)[lambda f: f["label"] == "Edema"]
    y, p = frame["y"].to_numpy(), frame["p"].to_numpy()
    thresholds = np.unique(p)
    best = max(thresholds, key=lambda t: (round(f1_score(y, p >= t), 12), t))
    assert METRICS["accuracy"].value(frame, {"threshold": "best_f1"}) == pytest.approx(accuracy_score(y, p >= best))


def test_accuracy_argmax_and_its_ties(rng):
    frame = one_hot(classification(rng, ties=False), rng)
    p = np.stack([frame.loc[frame["label"] == name, "p"] for name in LABELS], axis=1)
    y = np.stack([frame.loc[frame["label"] == name, "y"] for name in LABELS], axis=1)
    expected = accuracy_score(y.argmax(1), p.argmax(1))
    assert METRICS["accuracy_argmax"].value(frame) == pytest.approx(expected)
    shuffled = frame.sample(frac=1, random_state=3)
    assert METRICS["accuracy_argmax"].value(shuffled) == pytest.approx(expected)
    assert METRICS["accuracy_argmax"].value(frame.assign(p=0.2)) == pytest.approx(1 / 3)  # no label is preferred
    units, ids = pd.factorize(shuffled["patient_id"])
    weights = multiplicities(len(ids), 5, rng)
    found = METRICS["accuracy_argmax"].resample(shuffled, units, weights)[1]
    for r in range(5):
        assert found[r] == pytest.approx(METRICS["accuracy_argmax"].value(repeat(shuffled, units, weights[:, r])))


def test_label_with_one_class_is_undefined_in_the_value_and_left_out_in_a_resample(rng):
    frame = classification(rng)
    with pytest.raises(Undefined, match="'Edema' has only negatives among 90 test images"):
        METRICS["auroc"].value(frame.assign(y=np.where(frame["label"] == "Edema", 0.0, frame["y"])))
    two = frame[frame["label"] != "Pneumothorax"]
    units, ids = pd.factorize(two["patient_id"])
    positives = two.loc[(two["label"] == "Edema") & (two["y"] == 1), "patient_id"].unique()
    weights = np.ones((len(ids), 1), dtype=np.float32)
    weights[np.isin(ids, positives)] = 0  # no Edema is drawn
    drawn = two[~two["patient_id"].isin(positives) & (two["label"] == "Pneumonia")]
    expected = roc_auc_score(drawn["y"], drawn["p"])
    assert METRICS["auroc"].resample(two, units, weights)[1][0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("key", ["auroc", "f1", "accuracy", "accuracy_argmax"])
def test_scores_that_are_not_finite_are_named(key, rng):
    frame = one_hot(classification(rng), rng)
    frame.loc[5, "p"] = np.nan
    with pytest.raises(Undefined, match="1 of 270 scores are not finite"):
        METRICS[key].value(frame)


def test_recall_at_is_the_mean_over_directions(rng):
    ranks = rng.integers(0, 20, 60)
    frame = pd.DataFrame({
        "image_id": [f"i{k}" for k in range(30)] * 2, "patient_id": [f"p{k // 2}" for k in range(30)] * 2,
        "label": ["image-to-text"] * 30 + ["text-to-image"] * 30, "rank": ranks, "candidates": 30,
    })  # fmt: skip
    there, back = (ranks[:30] < 5).mean(), (ranks[30:] < 5).mean()
    assert METRICS["recall_at"].value(frame, {"k": 5}) == pytest.approx((there + back) / 2)
    assert METRICS["recall_at"].value(frame, {"k": 5, "direction": "text-to-image"}) == pytest.approx(back)
    units, ids = pd.factorize(frame["patient_id"])
    weights = multiplicities(len(ids), 4, rng)
    found = METRICS["recall_at"].resample(frame, units, weights, {"k": 5})[1]
    for r in range(4):
        again = METRICS["recall_at"].value(repeat(frame, units, weights[:, r]), {"k": 5})
        assert found[r] == pytest.approx(again)


def masks(rng: np.random.Generator, images: int = 25) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    truth = rng.random((images, 12, 12)) < 0.3
    predicted = truth ^ (rng.random((images, 12, 12)) < 0.2)
    truth[:8], predicted[:5] = False, False  # five true negatives, three false alarms
    frame = pd.DataFrame({
        "image_id": [f"i{k}" for k in range(images)], "patient_id": [f"p{k // 2}" for k in range(images)],
        "tp": (truth & predicted).sum((1, 2)), "predicted": predicted.sum((1, 2)), "truth": truth.sum((1, 2)),
    })  # fmt: skip
    return truth, predicted, frame


def test_dice_equals_scikit_learn_f1_of_pixels(rng):
    truth, predicted, frame = masks(rng)
    each = [f1_score(t.ravel(), p.ravel(), zero_division=1.0) for t, p in zip(truth, predicted, strict=True)]
    assert METRICS["dice"].value(frame, {"empty": "one_if_empty"}) == pytest.approx(np.mean(each))
    assert each[:8] == [1.0] * 5 + [0.0] * 3
    assert METRICS["dice"].value(frame, {"empty": "skip"}) == pytest.approx(np.mean(each[8:]))
    units, ids = pd.factorize(frame["patient_id"])
    weights = multiplicities(len(ids), 4, rng)
    for args in ({"empty": "one_if_empty"}, {"empty": "skip"}):
        found = METRICS["dice"].resample(frame, units, weights, args)[1]
        for r in range(4):
            assert found[r] == pytest.approx(METRICS["dice"].value(repeat(frame, units, weights[:, r]), args))
    with pytest.raises(Undefined, match="neither one_if_empty nor skip"):
        METRICS["dice"].value(frame, {"empty": "maybe"})


# --- detection --------------------------------------------------------------------------------------------------------

IOUS = [0.4, 0.5, 0.6, 0.7]


def boxes(rng: np.random.Generator, images: int = 30) -> tuple[list[np.ndarray], list[tuple[np.ndarray, np.ndarray]]]:
    """True boxes (x, y, w, h) and (found boxes, scores) per image: jittered truths, and false alarms."""
    truth, found = [], []
    for _ in range(images):
        true = np.column_stack([rng.uniform(0, 60, (n := int(rng.integers(0, 3)), 2)), rng.uniform(15, 35, (n, 2))])
        near = np.concatenate([true + rng.normal(0, 3, true.shape) for _ in range(2)])
        far = np.column_stack([rng.uniform(0, 60, (m := int(rng.integers(0, 4)), 2)), rng.uniform(15, 35, (m, 2))])
        both = np.concatenate([near, far])
        both[:, 2:] = np.maximum(both[:, 2:], 5)
        truth.append(true)
        found.append((both, rng.random(len(both)) * np.r_[np.ones(len(near)), np.full(m, 0.8)]))
    return truth, found


def coco(truth, found, ious):
    """(mAP of pycocotools, its matches as a predictions frame)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def dataset(items):
        data, api = [], COCO()
        for image, (xywh, scores) in enumerate(items):
            for box, score in zip(xywh, scores, strict=True):
                entry = {"id": len(data) + 1, "image_id": image, "category_id": 1, "bbox": list(map(float, box))}
                data.append({**entry, "area": float(box[2] * box[3]), "iscrowd": 0, "score": float(score)})
        api.dataset = {"images": [{"id": k} for k in range(len(items))], "annotations": data, "categories": [{"id": 1}]}
        api.createIndex()
        return api

    run = COCOeval(dataset([(t, np.ones(len(t))) for t in truth]), dataset(found), "bbox")
    run.params.iouThrs, run.params.areaRng, run.params.areaRngLbl = np.array(ious), [[0, 1e10]], ["all"]
    run.params.maxDets = [100]
    run.evaluate()
    run.accumulate()
    rows = []
    for image in range(len(truth)):
        item = next((e for e in run.evalImgs if e and e["image_id"] == image), None)
        scores = [] if item is None else [float(s) for s in item["dtScores"]]
        bits = np.zeros(len(scores), int) if item is None else ((item["dtMatches"] > 0).T @ (1 << np.arange(len(ious))))
        rows.append((f"i{image}", f"p{image // 2}", len(truth[image]), scores, bits.tolist()))
    frame = pd.DataFrame(rows, columns=["image_id", "patient_id", "n_truth", "scores", "matched"])
    return run.eval["precision"][:, :, 0, 0, 0].mean(axis=1), frame


@pytest.mark.parametrize("seed", range(4))
def test_map_equals_pycocotools_also_when_resampled(seed, capsys):
    rng = np.random.default_rng(seed)
    truth, found = boxes(rng)
    expected, frame = coco(truth, found, IOUS)
    assert 0.05 < expected.mean() < 0.95
    metric = METRICS["map"]
    assert metric.value(frame, {"ious": IOUS}) == pytest.approx(expected.mean(), abs=1e-9)
    assert metric.value(frame, {"ious": IOUS, "at": 0.6}) == pytest.approx(expected[2], abs=1e-9)
    units, ids = pd.factorize(frame["patient_id"])
    weights = multiplicities(len(ids), 5, rng)
    got = metric.resample(frame, units, weights, {"ious": IOUS})[1]
    for r in range(5):
        drawn = np.repeat(np.arange(len(truth)), weights[units, r].astype(int))
        resampled, _ = coco([truth[k] for k in drawn], [found[k] for k in drawn], IOUS)
        assert got[r] == pytest.approx(resampled.mean(), abs=1e-6)


def test_map_of_two_categories_is_their_mean_and_quirks_leave_images_out(capsys):
    rng = np.random.default_rng(11)
    (a, first), (b, second) = (coco(*boxes(rng), IOUS) for _ in range(2))
    both = pd.concat([first.assign(label="nodule"), second.assign(label="mass")])
    empty = first.assign(label="none", n_truth=0, matched=first["matched"].map(lambda m: [0] * len(m)))
    metric, args = METRICS["map"], {"ious": IOUS}
    assert metric.value(pd.concat([both, empty]), args) == pytest.approx((a.mean() + b.mean()) / 2)
    kept = first[(first["n_truth"] > 0) & (first["scores"].map(len) > 0)]
    quirk = metric.value(first, {**args, "skip_negative": True, "skip_undetected": True})
    assert quirk == pytest.approx(metric.value(kept, args))
    assert quirk > metric.value(first, args)
    with pytest.raises(Undefined, match="true box"):
        metric.value(empty, args)


def test_map_without_detections_is_zero():
    frame = pd.DataFrame({"image_id": ["a"], "patient_id": ["p"], "n_truth": [2], "scores": [[]], "matched": [[]]})
    assert METRICS["map"].value(frame, {"ious": IOUS}) == 0.0
