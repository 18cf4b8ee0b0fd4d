"""Radiology reports as written -> findings, impression and sentences.

The section rule follows MGCA's pre-processing (``mgca/preprocess/mimic_cxr.py``): findings and impression are kept, the
last section of a title wins, and a report without either title is represented by its last paragraphs. Sentences are
cut here once; the tokenizer uses the same :func:`sentence_spans`, so that its sentence ids count these very sentences.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Section = Literal["findings", "impression", "other", "chest"]


@dataclass(frozen=True)
class Report:
    """A parsed report. ``sentences`` holds those of the impression, then those of the findings, in the writer's case."""

    findings: str = ""
    impression: str = ""
    sentences: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """True where neither findings nor impression holds a sentence; the caller decides what to do with it."""
        return not self.sentences

    @cached_property
    def text(self) -> str:
        """All sentences, each closed by a free-standing full stop: ``"No effusion . Heart size is normal ."``.

        The space before the stop makes it unmistakable for that of "Dr." or "2.5"; BERT's pre-tokenizer cuts both
        spellings into the same pieces, and ``split_sentences(report.text) == report.sentences`` holds.
        """
        return join_sentences(self.sentences)


def parse_report(raw: str) -> Report:
    """Parse a report, or a plain clinical note (all of which counts as findings).

    A report with neither text nor a findings or impression section gives an :attr:`Report.empty` report, never an error.
    Of several sections with one title, the last that holds words is taken (an empty addendum erases nothing).
    """
    raw = _RULES.sub("\n\n", raw.replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " "))
    headings = list(_headings(raw))
    ends = [*(start for _, start, _ in headings[1:]), len(raw)]
    bodies = [(kind, raw[body:end]) for (kind, _, body), end in zip(headings, ends, strict=False)]
    named = {kind for kind, _ in bodies}
    findings, impression = _last(bodies, "findings"), _last(bodies, "impression")
    if not findings:
        # "PORTABLE CHEST RADIOGRAPH: The lungs are clear." is how many reports introduce their findings.
        findings = _last(bodies, "chest")
    if not findings and not impression and not named & {"findings", "impression"}:
        findings = _last_paragraphs(raw, headings)
    sentences = split_sentences(impression) + split_sentences(findings)
    return Report(" ".join(findings.split()), " ".join(impression.split()), sentences)


def split_sentences(text: str) -> list[str]:
    """Sentences of a text: white space collapsed, list numbers and the closing punctuation left out."""
    found: list[str] = []
    for start, end in sentence_spans(text):
        sentence = " ".join(text[start:end].split())
        # Cut once more where the cut itself left something to cut (":1.Foo"), so that the text gives these sentences again.
        if _MARK.search(sentence) and sentence_spans(f"{sentence} .") != [(0, len(sentence))]:
            found += split_sentences(f"{sentence} .")
        else:
            found.append(sentence)
    return found


def join_sentences(sentences: list[str]) -> str:
    """Inverse of :func:`split_sentences`."""
    return " ".join(f"{s} ." for s in sentences)


def plain_words(sentences: list[str]) -> str:
    """Sentences as MGCA's and GLoRIA's official code hands them to BERT: nothing but ``\\w+``, lower case, ASCII, no full stops.

    A sentence of one word or none is dropped, as there; where none is left, all words are kept.
    """
    words = [[w for t in _TOKENS.findall(s.lower()) if (w := t.encode("ascii", "ignore").decode())] for s in sentences]
    kept = [found for found in words if len(found) > 1] or words
    return " ".join(word for found in kept for word in found)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Character ranges [start, end) of the sentences, without list number and closing punctuation.

    A stop does not close a sentence inside a decimal, after a title ("Dr."), in "e.g." or "a.m. on". A blank line and
    a new list item do. Stretches without a word are no sentence.
    """
    spans: list[tuple[int, int]] = []
    start, number = 0, 0
    for match in _BREAK.finditer(text):
        kind = match.lastgroup
        if kind == "stop":
            if match.start() > start and not _closes(text, match):
                continue
        elif kind == "item":
            # "1. Foo 2. Bar": a number is a list number where a sentence starts, or where it continues the count.
            digits = int(match["number"])
            opens = not text[start : match.start()].strip(_EDGE) or "\n" in match.group()
            if not opens and not (number and digits == number + 1 and _starts_upper(text, match.end())):
                if match.group().endswith(".") and _stands_alone(text, match.end()):
                    _append(spans, text, start, match.end() - 1)
                    start = match.end()
                continue
            number = digits
        _append(spans, text, start, match.start())
        start = match.end()
    _append(spans, text, start, len(text))
    return spans


def _append(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    while start < end and text[start] in _EDGE:
        start += 1
    while end > start and text[end - 1] in _EDGE:
        end -= 1
    if _WORD.search(text, start, end):
        spans.append((start, end))


_TOKENS = re.compile(r"\w+")
_EDGE = " \t\n,;:-.*?!"
_MARK = re.compile(r"[.?!)*•]")
_WORD = re.compile(r"[^\W\d_]{2}")
_BREAK = re.compile(
    r"(?P<item>(?:^|\n|(?<=\s)|(?<=[.:;]))[ \t]*(?P<number>\d{1,2})[.)](?!\d)(?![.]))"
    r"|(?P<blank>\n[ \t]*\n\s*|\n[ \t]*[-*•][ \t]+)"
    r"|(?P<stop>[.?!]+(?=\s|$)|(?<=[A-Za-z)])\.(?=[A-Z][a-z ])|(?<=\s)\.(?=\w))"
)
_NEVER_LAST = {"dr", "drs", "mr", "mrs", "ms", "prof", "vs", "e.g", "i.e", "eg", "approx", "cf", "fig", "st"}
_CLOCK = {"a.m", "p.m"}
_SELDOM_LAST = {"am", "pm", "cm", "mm", "etc", "in", "ca", "al", "inc", "resp"}
_BEFORE = re.compile(r"[^\s(,;:]*$")
_SPACED_CLOCK = re.compile(r"\d\s*[ap]\.?\s?m?$", re.IGNORECASE)  # "10:30 p. m."


def _closes(text: str, match: re.Match[str]) -> bool:
    """Whether a stop closes a sentence, by the word before and the letter after it."""
    word = _BEFORE.search(text, max(0, match.start() - 16), match.start())
    before = word.group().lower() if word else ""
    if not before or match.group() != ".":
        return True
    if before in _NEVER_LAST:
        return not text[match.end() :].strip()
    if before in ("a", "p") and _SPACED_CLOCK.search(text, max(0, match.start() - 8), match.start()):
        return not text[match.end() :].lstrip()[:2].lower().startswith("m")
    if before in _CLOCK or (before == "m" and _SPACED_CLOCK.search(text, max(0, match.start() - 8), match.start())):
        # "at 3 p.m. ___ by phone", "4 p.m. (portable)", "7 a.m. 12 minutes later": only a capital begins a sentence.
        following = text[match.end() :].lstrip()
        return not following or following[0].isupper()
    if before in _SELDOM_LAST:
        return not text[match.end() : match.end() + 2].strip()[:1].islower()
    if len(before) == 1 and before.isalpha() and word is not None:  # an initial: "Dr. J. Smith"
        title = _BEFORE.search(text, 0, max(0, word.start() - 1))
        return not (title and title.group().lower().rstrip(".") in {"dr", "mr", "mrs", "ms", "prof"})
    return True


def _starts_upper(text: str, position: int) -> bool:
    return text[position : position + 3].strip()[:1].isupper()


def _stands_alone(text: str, position: int) -> bool:
    return not text[position : position + 1].strip()


# ---- sections ------------------------------------------------------------------------------------------------------

_TITLES: dict[str, Section] = {
    "findings and impression": "findings", "findings/impression": "findings", "findings / impression": "findings",
    "impression and findings": "findings", "impression/findings": "findings", "findings": "findings",
    "finding": "findings", "report": "findings", "chest findings": "findings",
    "impression": "impression", "impressions": "impression", "conclusion": "impression", "conclusions": "impression",
    "summary": "impression", "opinion": "impression", "impression and recommendation": "impression",
    "impression and recommendations": "impression",
}  # fmt: skip
_OTHER = (
    "final report", "final addendum", "addendum", "preliminary report", "wet read", "examination", "exam", "exam type",
    "study", "procedure", "indication", "indications", "clinical indication", "clinical information", "clinical history",
    "reason for exam", "reason for examination", "reason for study", "history", "technique", "comparison", "comparisons",
    "comparison study", "comparison exam", "notification", "recommendation", "recommendations", "recommendation(s)",
    "signed by", "electronically signed by", "provisional findings impression", "date", "views", "patient history",
)  # fmt: skip
# Sub-titles of structured reports belong to the section they stand in.
_ANATOMY = re.compile(
    r"lung|pleura|heart|cardiac|cardio|mediastin|hil[au]|bone|osseous|skelet|soft tissue|abdomen|diaphragm|tube|line|device"
    r"|support|hardware|airway|trachea|vascul|aort|chest wall|spine|rib|other|thorax|pneumothora|effusion|bowel|note"
)
_CHEST = re.compile(r"\b(chest|radiograph|x-?ray|cxr|view|views|portable|ap|pa|lateral|single|frontal|upright)\b")
_RULES = re.compile(r"\n[ \t]*[_=-]{5,}[ \t]*(?=\n|$)")


def _any(titles: list[str]) -> str:
    return "|".join(re.escape(t).replace(r"\ ", r"[ \t]+") for t in sorted(titles, key=len, reverse=True))


_LOWER = [*_TITLES, *_OTHER]
_HEADING = re.compile(
    rf"(?:^|(?<=\n))[ \t]*(?P<line>(?i:{_any(_LOWER)}))[ \t]*(?::|[ \t]-[ \t]|(?=\n|$))"  # "Findings:", "IMPRESSION" alone
    rf"|(?:^|(?<=\s))(?P<inline>{_any([t.upper() for t in _LOWER])})[ \t]*(?:\(S\))?:"  # "... IMPRESSION: ..." in the middle of a line
    rf"|(?<=[.][ \t])(?P<after>(?i:findings|impression|conclusion|comparison|technique|indication)):"
    rf"|(?:^|(?<=\n))[ \t]*(?P<bare>FINDINGS|IMPRESSION|CONCLUSION|FINDINGS AND IMPRESSION)[ \t]+(?=\S)"
    r"|(?:^|(?<=\n))[ \t]*(?P<unknown>[A-Z][A-Z0-9 ,()/&.-]{2,70}):"
)


def _headings(raw: str) -> list[tuple[Section, int, int]]:
    """(kind, start of the heading, start of its body) of every heading, in the order of the text."""
    found: list[tuple[Section, int, int]] = []
    for match in _HEADING.finditer(raw):
        title = " ".join((match[match.lastgroup or 0]).lower().split())
        if match.lastgroup != "unknown":
            found.append((_TITLES.get(title, "other"), match.start(), match.end()))
        elif _CHEST.search(title) and not _core_met(found):
            found.append(("chest", match.start(), match.end()))
        elif not _ANATOMY.search(title) and not _CHEST.search(title):
            found.append(("other", match.start(), match.end()))
    return found


def _core_met(headings: list[tuple[Section, int, int]]) -> bool:
    """Whether a findings or impression title was already met."""
    return any(kind in ("findings", "impression") for kind, _, _ in headings)


def _last(bodies: list[tuple[Section, str]], kind: Section) -> str:
    return next((body.strip() for k, body in reversed(bodies) if k == kind and _WORD.search(body)), "")


def _last_paragraphs(raw: str, headings: list[tuple[Section, int, int]]) -> str:
    """Without findings and impression: what follows the first paragraph of the last section, or all of a plain note."""
    if not headings:
        return raw.strip()
    _, start, body = headings[-1]
    title = raw[start:body].strip().lower()
    if title.startswith("final report"):
        return raw[body:].strip()
    paragraphs = [p for p in re.split(r"\n[ \t]*\n", raw[body:].lstrip()) if p.strip()]
    return "\n\n".join(paragraphs[1:])
