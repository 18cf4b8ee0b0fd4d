"""Reports in a radiologist's English, with the truth of every sentence beside them.

A report says what its study's films show, as reports do: some findings go unmentioned, some are hedged, others are
ruled out one by one or together, and much of the text is about something else.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlip.twin import phrases
from mlip.twin.findings import Plan
from mlip.twin.patients import CHEXPERT, FINDINGS, Change, Patient, VirtualStudy
from mlip.twin.phrases import Pattern

Certainty = Literal["affirmed", "negated", "uncertain"]
_SIGNS: dict[str, Certainty] = {"+": "affirmed", "-": "negated", "?": "uncertain"}


@dataclass(frozen=True)
class Sentence:
    """One written sentence (without its full stop) and what it says about CheXpert's observations."""

    text: str
    section: Literal["findings", "impression"]
    says: dict[str, Certainty]


@dataclass(frozen=True)
class WrittenReport:
    """A report file's text, and its sentences in the order in which they stand in it."""

    text: str
    sentences: tuple[Sentence, ...]

    def labels(self) -> dict[str, float]:
        """What a perfect report labeller returns: 1 affirmed, -1 uncertain, 0 negated, NaN not mentioned.

        Affirmed wins over uncertain, uncertain over negated; No Finding is 1 where no other observation but
        Support Devices is affirmed or uncertain (the rule of the CheXpert labeller), else blank.
        """
        rank: dict[Certainty, tuple[int, float]] = {"affirmed": (3, 1.0), "uncertain": (2, -1.0), "negated": (1, 0.0)}
        best = dict.fromkeys(CHEXPERT, (0, float("nan")))
        for sentence in self.sentences:
            for name, certainty in sentence.says.items():
                best[name] = max(best[name], rank[certainty], key=lambda pair: pair[0])
        sick = any(best[n][0] >= 2 for n in CHEXPERT if n not in ("No Finding", "Support Devices"))
        best["No Finding"] = (0, float("nan")) if sick else (3, 1.0)
        return {name: value for name, (_, value) in best.items()}


def write_report(patient: Patient, study: VirtualStudy, rng: np.random.Generator) -> WrittenReport:
    """Write the report of one study."""
    writer = _Writer(patient, study, rng)
    layout = rng.choice(("both", "impression", "findings"), p=(0.80, 0.11, 0.09))
    findings = writer.findings() if layout != "impression" else []
    impression = writer.impression(alone=layout == "impression") if layout != "findings" else []
    text = _lay_out(patient, study, findings, impression, rng)
    return WrittenReport(text, tuple(findings + impression))


class _Writer:
    def __init__(self, patient: Patient, study: VirtualStudy, rng: np.random.Generator) -> None:
        self.patient, self.study, self.rng = patient, study, rng
        self.present = [c for c in study.changes if c.plan.name in FINDINGS and c.course != "resolved"]
        self.resolved = [c.plan for c in study.changes if c.plan.name in FINDINGS and c.course == "resolved"]
        # Seen or overlooked is decided once, so that both sections agree.
        self.told = [c for c in self.present if rng.random() > (0.16 if c.plan.severity < 0.2 else 0.04)]
        names = {c.plan.name for c in self.present}
        names |= {"Consolidation"} if "Pneumonia" in names else set()
        self.absent = [n for n in FINDINGS if n not in names]

    def findings(self) -> list[Sentence]:
        rng, out = self.rng, []
        for plan in self.study.plans:
            if plan.name == "Support Devices" and rng.random() < 0.9:
                out.append(self._device(plan))
        body: list[Sentence] = [self._tell(c, phrases.FINDINGS, "findings") for c in self.told if rng.random() < 0.95]
        body += [self._gone(plan, "findings") for plan in self.resolved if rng.random() < 0.7]
        said: set[str] = set()
        joint = [p for p in phrases.JOINT_ABSENT if self._allowed(p)]
        if joint and rng.random() < 0.45:
            sentence = self._say(joint[int(rng.integers(len(joint)))], None, "findings")
            said |= set(sentence.says)
            body.append(sentence)
        elif not self.present and rng.random() < 0.5:
            body.append(self._say(self._pick(phrases.CLEAR), None, "findings"))
        chances = {
            "Pneumothorax": 0.6,
            "Pleural Effusion": 0.6,
            "Cardiomegaly": 0.6,
            "Consolidation": 0.35,
            "Pneumonia": 0.2,
            "Edema": 0.3,
            "Lung Lesion": 0.06,
            "Atelectasis": 0.03,
        }
        for name in self.absent:
            if name not in said and rng.random() < chances[name]:
                options = [p for p in phrases.ABSENT[name] if self._allowed(p)]
                if options:
                    body.append(self._say(options[int(rng.integers(len(options)))], None, "findings"))
        for _ in range(int(rng.integers(0, 3))):
            body.append(Sentence(str(rng.choice(phrases.NEUTRAL)), "findings", {}))
        rng.shuffle(body)
        return (out + body) or [
            self._say(
                self._pick(phrases.CLEAR) if not self.present else ("Views of the chest were obtained", ""),
                None,
                "findings",
            )
        ]

    def impression(self, *, alone: bool) -> list[Sentence]:
        rng = self.rng
        told = sorted(self.told, key=lambda c: -c.plan.severity)
        out = [
            self._tell(c, phrases.IMPRESSIONS, "impression")
            for c in told
            if alone or c.plan.name == "Pneumonia" or rng.random() < 0.88
        ]
        out += [self._gone(plan, "impression") for plan in self.resolved if rng.random() < 0.35]
        if not out and not self.present:
            out.append(self._say(self._pick(phrases.NORMAL), None, "impression"))
        chances = {"Pneumonia": 0.34, "Pneumothorax": 0.16, "Pleural Effusion": 0.10, "Edema": 0.06}
        for name in self.absent:
            options = [p for p in phrases.ABSENT[name] if self._allowed(p)]
            if options and rng.random() < chances.get(name, 0.0):
                out.append(self._say(options[int(rng.integers(len(options)))], None, "impression"))
        if not out:
            out.append(Sentence("No significant interval change" if self.study.index else "As above", "impression", {}))
        if rng.random() < 0.12:
            out.append(Sentence(str(rng.choice(phrases.CLOSING)), "impression", {}))
        return out

    def _pick(self, patterns: Sequence[Pattern]) -> Pattern:
        return patterns[int(self.rng.integers(len(patterns)))]

    def _allowed(self, pattern: Pattern) -> bool:
        """A negation must not deny what is there: ``No opacity`` is no sentence for a film with edema."""
        names = {c.plan.name for c in self.present}
        if names & {"Pneumonia", "Consolidation", "Edema", "Atelectasis", "Lung Lesion"}:
            names.add("Lung Opacity")
        if "Pneumonia" in names:
            names.add("Consolidation")
        return not any(part[1:] in names for part in pattern[1].split(",") if part.startswith("-"))

    def _tell(
        self, change: Change, source: dict[str, tuple[Pattern, ...]], section: Literal["findings", "impression"]
    ) -> Sentence:
        sentence = self._say(self._pick(source[change.plan.name]), change.plan, section)
        if change.course and self.rng.random() < 0.6:
            text = sentence.text.removeprefix("New ") if change.course != "new" else sentence.text
            text = text[0].upper() + text[1:]
            return Sentence(f"{text}, {self.rng.choice(phrases.COURSES[change.course])}", section, sentence.says)
        return sentence

    def _gone(self, plan: Plan, section: Literal["findings", "impression"]) -> Sentence:
        what = {"Lung Lesion": plan.kind, "Edema": "pulmonary edema"}.get(plan.name, plan.name.lower())
        place = plan.place if plan.name in ("Pneumonia", "Consolidation") else plan.side if plan.name != "Edema" else ""
        what = f"{place} {what}".strip()
        text = str(self.rng.choice(phrases.RESOLVED)).format(what=what, What=what[0].upper() + what[1:])
        return Sentence(text, section, {plan.name: "negated"})

    def _device(self, plan: Plan) -> Sentence:
        side = plan.side or "right"
        text = str(self.rng.choice(phrases.DEVICES[plan.kind])).format(
            side=side, Side=side.capitalize(), cm=f"{self.rng.uniform(2.5, 6):.1f}"
        )
        return Sentence(text, "findings", {"Support Devices": "affirmed"})

    def _say(self, pattern: Pattern, plan: Plan | None, section: Literal["findings", "impression"]) -> Sentence:
        text, statements = pattern
        says: dict[str, Certainty] = {s[1:]: _SIGNS[s[0]] for s in statements.split(",") if s}
        if plan is not None:
            text = text.format(**self._words(plan))
            if plan.side == "bilateral":
                text = _both(text)
        return Sentence(" ".join(text.split()), section, says)

    def _words(self, plan: Plan) -> dict[str, str]:
        rng = self.rng
        size = ("small", "moderate", "large")[min(2, int(3 * plan.severity))]
        lobe = plan.place or f"{plan.side} lung"
        if plan.kind == "covid":
            lobe = "peripheral lower lungs"
        zone = (
            lobe.replace("lower lobe", "lower lung")
            .replace("upper lobe", "upper lung")
            .replace("middle lobe", "mid lung")
        )
        words = {
            "side": plan.side or "right",
            "lobe": lobe,
            "zone": zone,
            "size": size,
            "grade": plan.grade,
            "gradely": {"mild": "mildly", "moderate": "moderately", "severe": "severely"}[plan.grade],
            "dense": str(
                rng.choice(("patchy", "hazy", "faint") if plan.severity < 0.4 else ("dense", "confluent", "patchy"))
            ),
            "lesion": plan.kind or "nodule",
            "mm": str(round(2 * ((15 + 16 * plan.severity) if plan.kind == "mass" else (6 + 8 * plan.severity)))),
        }
        return words | {k.capitalize(): v[0].upper() + v[1:] for k, v in words.items()}


def _both(text: str) -> str:
    """Grammar of a finding on both sides."""
    text = re.sub(r"\b([Ll])ower lobes (pneumonia|consolidation|opacity)", r"bilateral lower lobe \2", text)
    text = text.replace("the lower lobes", "both lower lobes").replace(
        "bilateral costophrenic angle is", "costophrenic angles is"
    )
    text = (
        re.sub(r"(There is )?\b[Aa] (\w+ bilateral pleural effusion)\b", r"There are \2", text)
        if "There is a" in text
        else text
    )
    text = text.replace("compatible with a ", "compatible with ").replace(
        "bilateral pleural effusion", "bilateral pleural effusions"
    )
    text = text.replace("effusions is present", "effusions are present").replace("on the bilateral", "on both sides")
    text = text.replace("at the bilateral base", "at both bases").replace(
        "at the bilateral lung base", "at both lung bases"
    )
    return text[0].upper() + text[1:]


def _lay_out(
    patient: Patient,
    study: VirtualStudy,
    findings: list[Sentence],
    impression: list[Sentence],
    rng: np.random.Generator,
) -> str:
    """The file as MIMIC-CXR has it: centred title, capital headings, lines wrapped at about 78 columns."""
    views = "CHEST (PORTABLE AP)" if study.views[0] == "AP" else "CHEST (PA AND LAT)"
    sex = {"F": "woman", "M": "man"}[patient.sex]
    prior = f"Chest radiograph ___ ({study.days} days earlier)" if study.index else "None"
    parts = [
        f"EXAMINATION:  {views}",
        f"INDICATION:  ___ year old {sex} with {rng.choice(phrases.INDICATIONS)}.",
        f"COMPARISON:  {prior}.",
    ]
    parts = [p for p in parts if rng.random() < 0.88]
    body = []
    if findings:
        body.append("FINDINGS: \n \n" + _wrap(". ".join(s.text for s in findings) + "."))
    if impression:
        if len(impression) > 1 and rng.random() < 0.6:
            lines = "\n".join(_wrap(f"{i}. {s.text}.") for i, s in enumerate(impression, 1))
        else:
            lines = _wrap(". ".join(s.text for s in impression) + ".")
        body.append("IMPRESSION: \n \n" + lines)
    title = " " * 33 + "FINAL REPORT"
    return title + "\n" + "\n \n".join(_indent(p) for p in [*parts, *body]) + "\n"


def _wrap(text: str) -> str:
    return textwrap.fill(text, 77, break_on_hyphens=False)


def _indent(text: str) -> str:
    return "\n".join(line if line.startswith(" ") else f" {line}" for line in text.split("\n"))
