"""Linking against the truth that the virtual radiologist writes beside every sentence."""

from __future__ import annotations

from collections import Counter

from mlip.knowledge.entities import Knowledge
from mlip.seeding import generator
from mlip.text.reports import parse_report
from mlip.twin.hospital import hospital
from mlip.twin.patients import CHEXPERT, make_patient
from mlip.twin.report import WrittenReport, write_report

SAYS = {"affirmed": "present", "negated": "absent", "uncertain": "uncertain"}
# The twin's sentences say nothing about these two except in passing ("the mediastinal contours are unremarkable").
UNTOLD = {"Enlarged Cardiomediastinum", "Pleural Other"}


def written(patients: int) -> list[WrittenReport]:
    place = hospital("reference")
    cases = [make_patient(i, place, 5, "linking") for i in range(patients)]
    return [write_report(p, s, generator(5, "report", p.index, s.index)) for p in cases for s in p.studies]


def test_linker_finds_what_each_sentence_says(knowledge: Knowledge) -> None:
    told = [name for name in CHEXPERT if name not in UNTOLD]
    hits: Counter[str] = Counter()
    linked: Counter[str] = Counter()
    truth: Counter[str] = Counter()
    for report in written(400):
        for sentence in report.sentences:
            says = {(n, SAYS[c]) for n, c in sentence.says.items() if n in told}
            found = {(n, c) for n, c in knowledge.findings(sentence.text).items() if n in told}
            for counter, pairs in ((hits, says & found), (linked, found), (truth, says)):
                counter.update(name for name, _ in pairs)
    for name in told:
        if truth[name]:
            print(
                f"{name}: precision {hits[name] / max(linked[name], 1):.3f}, recall {hits[name] / truth[name]:.3f} of {truth[name]}"
            )
    precision, recall = hits.total() / linked.total(), hits.total() / truth.total()
    print(f"observation and certainty of a sentence: precision {precision:.3f}, recall {recall:.3f} of {truth.total()}")
    assert precision >= 0.95 and recall >= 0.95


def test_parsed_sentences_are_the_written_ones() -> None:
    for report in written(100):
        parsed = parse_report(report.text)
        by_section = [
            s.text for section in ("impression", "findings") for s in report.sentences if s.section == section
        ]
        assert parsed.sentences == by_section
