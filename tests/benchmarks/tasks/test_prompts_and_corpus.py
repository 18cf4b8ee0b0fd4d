"""No prompt of any set stands in the twin's reports: zero-shot would else ask for sentences that were trained on."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks.tasks.catalogue import PROTOCOLS, read_protocol
from benchmarks.tasks.shared.prompts import PROMPTS
from mlip.seeding import generator
from mlip.twin.hospital import HOSPITALS, hospital
from mlip.twin.patients import patients_until
from mlip.twin.report import write_report
from tests.twin import grammar

# Names of findings ("Pneumothorax", "no Edema": templates of CheXzero and MaCo) lie in almost every sentence about them, as
# words do. Such a prompt must still be no whole sentence.
FEWEST_WORDS = 3


def normal(text: str) -> str:
    """Lower case without punctuation; digits are alike."""
    return re.sub(r"\d+", "0", " ".join(re.findall(r"[a-z0-9]+", text.lower())))


@pytest.fixture(scope="module")
def corpus() -> set[str]:
    return {normal(text) for text in grammar.sentences()}


@pytest.fixture(scope="module")
def prompts() -> dict[str, set[str]]:
    """All prompts of each set, and templates applied to every finding that any protocol scores or any set knows."""
    findings = {name for known in PROMPTS.values() for name in known.findings}
    for path in (PROTOCOLS / "zero_shot").glob("*.yaml"):
        for target in read_protocol("zero_shot", path.stem).datasets.values():
            findings |= {*target.labels, *target.categories.values()}
    found = {}
    for name, known in PROMPTS.items():
        asked = [p for p in map(known.of, sorted(findings)) if p is not None]
        found[name] = {text for p in asked for text in (*p.positive, *p.negative)}
    return found


def collisions(prompts: set[str], corpus: set[str]) -> list[str]:
    """Prompts that equal a sentence, lie in one, or hold one."""
    long_corpus = {s for s in corpus if len(s.split()) >= FEWEST_WORDS}
    bad = []
    for prompt in sorted({normal(p) for p in prompts}):
        if prompt in corpus:
            bad.append(f"{prompt!r} is a sentence")
        elif len(prompt.split()) >= FEWEST_WORDS:
            bad += [f"{prompt!r} in {s!r}" for s in long_corpus if prompt in s]
            bad += [f"{s!r} in {prompt!r}" for s in long_corpus if s in prompt]
    return bad


@pytest.mark.parametrize("name", PROMPTS)
def test_no_prompt_stands_in_the_corpus(corpus, prompts, name):
    assert prompts[name]
    assert collisions(prompts[name], corpus) == []


def test_a_collision_is_found(corpus):
    """One of each kind; the last two are what the rule for short prompts lets through."""
    assert collisions({"THE LUNGS ARE CLEAR."}, corpus) == ["'the lungs are clear' is a sentence"]
    assert collisions({"Enlarged heart."}, corpus) == ["'enlarged heart' is a sentence"]
    assert any(" in " in c for c in collisions({"focal consolidation is seen"}, corpus))
    assert any(" in " in c for c in collisions({"Today the heart is normal in size."}, corpus))
    assert collisions({"Pneumothorax", "no pneumothorax"}, corpus) == []


def test_the_grammar_is_whole(corpus):
    """Reports of every hospital hold no sentence that was not compared, and most of the grammar is heard."""
    heard = set()
    for name in sorted(HOSPITALS):
        for patient in patients_until(400, hospital(name), 7, "grammar"):
            for study in patient.studies:
                report = write_report(patient, study, generator(7, name, patient.index, study.index))
                heard |= {normal(s.text) for s in report.sentences}
    assert heard <= corpus
    assert len(heard) > 500


def test_our_prompts_are_many_and_both_sides_are_of_one_form(prompts):
    for finding, known in PROMPTS["radiology"].findings.items():
        sides = (known.positive, known.negative)
        assert all(len(set(side)) == len(side) >= 12 for side in sides), finding
        assert len(known.positive) == len(known.negative)
        assert all(re.fullmatch(r"[A-Z].*[a-z0-9]\.", text) for side in sides for text in side)
        present, absent = (np.mean([len(text.split()) for text in side]) for side in sides)
        assert abs(present - absent) < 1, (
            f"{finding}: the negation itself is a word, more than that is another register"
        )
        assert not {*known.positive} & {*known.negative}


def test_the_corpus_speaks_the_prompts_words(corpus, prompts):
    """Other sentences, the same language: zero-shot stays possible."""
    vocabulary = {word for sentence in corpus for word in sentence.split()}
    words = [word for text in prompts["radiology"] for word in normal(text).split()]
    share = np.mean([word in vocabulary for word in words])
    print(f"{share:.3f} of the words; not among them: {sorted({w for w in words if w not in vocabulary})}")
    assert share > 0.85
