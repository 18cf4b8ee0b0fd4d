"""Patients and their reports: the text never contradicts what is there."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mlip.errors import UserError
from mlip.seeding import generator
from mlip.text.reports import parse_report
from mlip.twin.hospital import hospital
from mlip.twin.patients import CHEXPERT, FINDINGS, patients_until, truth_labels
from mlip.twin.report import Sentence, WrittenReport, write_report


@pytest.fixture(scope="module")
def studies():
    place = hospital("reference")
    found = []
    for patient in patients_until(500, place, 3, "tests"):
        for study in patient.studies:
            found.append((patient, study, write_report(patient, study, generator(3, patient.index, study.index))))
    return found


def test_the_number_of_films_is_exact():
    for count in (1, 17, 60):
        patients = list(patients_until(count, hospital("west"), 1))
        assert sum(len(s.views) for p in patients for s in p.studies) == count


def test_patients_repeat_exactly():
    assert list(patients_until(30, hospital("west"), 1)) == list(patients_until(30, hospital("west"), 1))
    assert list(patients_until(30, hospital("west"), 1)) != list(patients_until(30, hospital("west"), 2))


def test_sentences_do_not_contradict_the_film(studies):
    affirmed, denied = Counter(), Counter()
    for _, study, report in studies:
        truth = truth_labels(study.plans)
        for sentence in report.sentences:
            for name, certainty in sentence.says.items():
                if certainty == "negated":
                    denied[name] += 1
                    assert truth[name] == 0, sentence.text
                elif certainty == "affirmed":
                    affirmed[name] += 1
                    assert truth[name] == 1, sentence.text
    assert all(affirmed[n] > 5 for n in FINDINGS)
    assert denied["Pneumothorax"] > 100
    assert denied["Pneumonia"] > 50


def test_reports_are_read_as_they_were_written(studies):
    """The reader's own sentence cutter finds the sentences that were written, whatever the line wraps."""
    same = [sorted(parse_report(r.text).sentences) == sorted(s.text for s in r.sentences) for _, _, r in studies]
    assert np.mean(same) > 0.99


def test_layouts_vary(studies):
    texts = [r.text for _, _, r in studies]
    for heading in ("FINDINGS:", "IMPRESSION:"):
        share = np.mean([heading in t for t in texts])
        assert 0.8 < share < 0.97
    assert any("\n 1. " in t for t in texts)
    assert max(len(line) for t in texts for line in t.splitlines()) <= 80
    assert "{" not in "".join(texts)


def test_most_findings_are_told_and_some_are_not(studies):
    told = Counter()
    for _, study, report in studies:
        labels = report.labels()
        for name in {p.name for p in study.plans if p.name in FINDINGS}:
            told[name, not np.isnan(labels[name]) and labels[name] != 0] += 1
    share = {n: told[n, True] / (told[n, True] + told[n, False]) for n in FINDINGS}
    assert all(v > 0.7 for v in share.values()), share
    assert min(share.values()) < 1
    # "Pneumonia" is the word that zero-shot prompts use.
    assert share["Pneumonia"] > 0.8


def test_label_rule():
    def report(*says):
        return WrittenReport("", tuple(Sentence("x", "findings", s) for s in says)).labels()

    mixed = report({"Edema": "negated"}, {"Edema": "uncertain"}, {"Pneumonia": "affirmed"}, {"Pneumonia": "negated"})
    assert (mixed["Edema"], mixed["Pneumonia"]) == (-1, 1)
    assert np.isnan(mixed["No Finding"])
    assert np.isnan(mixed["Fracture"])
    healthy = report({"Support Devices": "affirmed"}, {"Pneumothorax": "negated"})
    assert (healthy["No Finding"], healthy["Pneumothorax"], healthy["Support Devices"]) == (1, 0, 1)
    assert tuple(healthy) == CHEXPERT


def test_follow_ups_follow(studies):
    courses = Counter(c.course for _, s, _ in studies for c in s.changes)
    assert all(courses[c] > 5 for c in ("new", "unchanged", "increased", "decreased", "resolved"))
    assert all(c.course == "" for _, s, _ in studies if s.index == 0 for c in s.changes)


def test_an_unknown_hospital_is_named():
    with pytest.raises(UserError, match="mercy"):
        hospital("mercy")
