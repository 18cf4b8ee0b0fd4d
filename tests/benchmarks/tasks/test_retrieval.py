"""Ranks are those of a brute-force search; one image per study; equal reports are equal answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.scores.metrics import METRICS
from benchmarks.tasks.catalogue import read_protocol
from benchmarks.tasks.retrieval import TASK, build_pool, ranks
from mlip.errors import UserError
from mlip.text.reports import parse_report
from tests.benchmarks.conftest import a_source

STUDIES = 90


def report(number: int) -> str:
    # Letters, not digits: report parsers may treat numbers as list items.
    word = "".join(chr(97 + int(d)) for d in f"{number:04d}")
    return f"FINDINGS: Opacity of kind {word} is seen.\nIMPRESSION: Pattern {word}."


@pytest.fixture
def mimic(world, rng, fake_method):
    """Two images a study (lateral first), every tenth report a copy of another, all of the test part."""
    texts = [report(7 if n % 10 == 0 else n) for n in range(STUDIES)]
    texts[5] = ""
    studies = np.repeat(np.arange(STUDIES), 2)
    images = rng.integers(0, 256, (2 * STUDIES, 8, 8), dtype=np.uint8)
    parts = np.full(2 * STUDIES, "test")
    parts[-10:] = "train"
    world.store(
        "mimic",
        {},
        images=images,
        reports=[texts[s] for s in studies],
        patients=studies // 2,
        studies=studies,
        views=["LATERAL", "AP"] * STUDIES,
        parts=parts,
    )
    for number, text in enumerate(texts):
        seen = (images[2 * number + 1, 0].astype(float) / 255 - 0.5) / 0.5
        fake_method.table[parse_report(text).text] = seen + 0.6 * rng.normal(size=8)
    return world


def test_pool_has_one_frontal_image_per_study_with_a_report(mimic):
    pool = build_pool(mimic.job("retrieval", "mimic"))
    assert len(pool.records) == STUDIES - 5 - 1 and pool.records["study_id"].is_unique
    assert (pool.records["view"] == "AP").all() and (pool.records["row"] % 2 == 1).all()
    assert len(pool.texts) == len(set(pool.texts)) < len(pool.records)
    for text, raw in zip(pool.text_of, pool.records["report"], strict=True):
        assert pool.texts[text] == parse_report(raw).text
    small = build_pool(mimic.job("retrieval", "mimic", studies=20))
    again = build_pool(mimic.job("retrieval", "mimic", studies=20))
    assert len(small.records) == 20 and small.records["row"].tolist() == again.records["row"].tolist()


def test_ranks_equal_a_sort(mimic, fake_method):
    frame = mimic.run("retrieval", "mimic")
    pool = build_pool(mimic.job("retrieval", "mimic"))
    images = np.load(mimic.paths.data("mimic") / "images.npy")[pool.records["row"]][:, 0].astype(float)
    image = (images / 255 - 0.5) / 0.5
    text = np.stack([fake_method.table[t] for t in pool.texts])
    score = (image / np.linalg.norm(image, axis=1, keepdims=True)) @ (
        text / np.linalg.norm(text, axis=1, keepdims=True)
    ).T
    forward = [np.argsort(-score[i]).tolist().index(t) for i, t in enumerate(pool.text_of)]
    backward = []
    for t in pool.text_of:
        order = np.argsort(-score[:, t])
        backward.append(int(np.argmax(pool.text_of[order] == t)))
    by = {name: part for name, part in frame.groupby("label")}
    assert sorted(by) == ["image-to-text", "text-to-image"]
    np.testing.assert_array_equal(by["image-to-text"]["rank"], forward)
    np.testing.assert_array_equal(by["text-to-image"]["rank"], backward)
    assert set(by["image-to-text"].candidates) == {len(pool.texts)}
    assert set(by["text-to-image"].candidates) == {len(pool.records)}
    assert (by["image-to-text"].image_id.to_numpy() == pool.records["image_id"].to_numpy()).all()
    assert (frame["rank"] < 1).mean() > 0.2 and len(set(frame["rank"])) > 5, (
        "the case must be neither trivial nor chance"
    )
    pd.testing.assert_frame_equal(frame, mimic.run("retrieval", "mimic"), check_exact=True)
    for spec in TASK.metrics(read_protocol("retrieval", "strict"), a_source("mimic")):
        expected = np.mean(np.array([forward, backward]) < spec.args["k"])
        assert METRICS[spec.key].value(frame, spec.args) == pytest.approx(expected)


def test_no_report_text_in_the_rows(mimic):
    frame = mimic.run("retrieval", "mimic")
    assert list(frame.columns) == [
        "image_id",
        "patient_id",
        "fraction",
        "draw",
        "label",
        "rank",
        "candidates",
        "correct",
    ]
    assert not frame.astype(str).apply(lambda c: c.str.contains("Opacity|Pattern")).to_numpy().any()


def test_ties_count_against_the_method():
    text_of = np.array([0, 1, 2, 0])
    to_text, to_image = ranks(np.zeros((4, 3)), text_of)
    np.testing.assert_array_equal(to_text, [2, 2, 2, 2])
    np.testing.assert_array_equal(to_image, [2, 3, 3, 2])
    to_text, to_image = ranks(np.eye(3)[text_of], text_of)
    assert not to_text.any() and not to_image.any()


def test_chance_is_chance(mimic):
    frame = TASK.run_control(mimic.job("retrieval", "mimic", method="chance"))
    again = TASK.run_control(mimic.job("retrieval", "mimic", method="chance"))
    pd.testing.assert_frame_equal(frame, again, check_exact=True)
    part = frame[frame.label == "image-to-text"]
    middle = (part["rank"] / (part.candidates - 1)).mean()
    assert abs(middle - 0.5) < 0.12 and part["rank"].between(0, part.candidates - 1).all()


def test_reports_are_required(world, rng, fake_method):
    world.store("mimic", {}, reports=["", "", "", "", "", "", "", "", "", ""])
    with pytest.raises(UserError, match="0 different reports"):
        world.run("retrieval", "mimic")
    with pytest.raises(UserError, match=r"retrieval/strict\.yaml.*rsna"):
        TASK.check(read_protocol("retrieval", "strict"), a_source("rsna"), world.study)
