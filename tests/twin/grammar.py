"""Every sentence that the virtual radiologist can write, by following each random choice of the writer to all its ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np

from mlip.twin import phrases, report
from mlip.twin.devices import DEVICES
from mlip.twin.findings import Plan
from mlip.twin.hospital import hospital
from mlip.twin.patients import FINDINGS, Change, make_patient

COURSES = ("", "new", "unchanged", "increased", "decreased")
LOBES = ("right lower lobe", "left lower lobe", "right upper lobe", "right middle lobe", "left upper lobe")
SEVERITIES = (0.1, 0.35, 0.45, 0.9)  # each grade and size, on both sides of the limit between faint and dense


class Branches:
    """Stands for a random generator: each question is a fork, and :func:`every` takes one way after the other."""

    def __init__(self) -> None:
        self.taken: list[list[int]] = []  # [chosen, of how many] of each fork passed
        self.step = 0

    def _fork(self, count: int) -> int:
        if self.step == len(self.taken):
            self.taken.append([0, count])
        self.step += 1
        return self.taken[self.step - 1][0]

    def choice(self, options: Any) -> Any:
        return options[self._fork(len(options))]

    def integers(self, count: int) -> int:
        return self._fork(count)

    def random(self) -> float:
        return (0.0, 0.9999)[self._fork(2)]

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2

    def forward(self) -> bool:
        """Go to the next way; False after the last one."""
        self.step = 0
        while self.taken and self.taken[-1][0] + 1 == self.taken[-1][1]:
            self.taken.pop()
        if self.taken:
            self.taken[-1][0] += 1
        return bool(self.taken)


def every(write: Callable[[Any], report.Sentence]) -> Iterator[str]:
    """The text of what ``write(rng)`` returns, over all answers of the generator."""
    rng, going = Branches(), True
    while going:
        yield write(rng).text
        going = rng.forward()


def plans() -> Iterator[Plan]:
    """All findings of lungs and heart that differ in words (``mlip.twin.patients.plan_finding``)."""
    lobar = [(lobe.split()[0], lobe, "") for lobe in LOBES]
    sides = ("right", "left", "bilateral")
    where = {
        "Pneumonia": [*lobar, ("bilateral", "lower lobes", ""), ("bilateral", "", "covid")],
        "Consolidation": [*lobar, ("bilateral", "lower lobes", "")],
        "Lung Lesion": [(side, lobe, kind) for side, lobe, _ in lobar for kind in ("mass", "nodule")],
        "Pleural Effusion": [(side, "", "") for side in sides],
        "Atelectasis": [(side, "base", kind) for side in sides for kind in ("volume loss", "plate")],
        "Pneumothorax": [(side, "", "") for side in sides[:2]],
        "Edema": [("bilateral", "", "")],
        "Cardiomegaly": [("", "", "")],
    }
    for name in FINDINGS:
        for (side, place, kind), severity in product(where[name], SEVERITIES):
            yield Plan(name, side, place, severity, kind, 0)


def sentences() -> set[str]:
    """All sentences of findings and impressions; one number stands for all numbers."""
    patient = make_patient(0, hospital("reference"), 0, "grammar")

    def writer(rng: Any) -> report._Writer:
        made = report._Writer(patient, patient.studies[0], np.random.default_rng(0))
        made.rng = rng
        return made

    found: set[str] = set()
    for plan in plans():
        for source, course in product((phrases.FINDINGS, phrases.IMPRESSIONS), COURSES):
            found |= set(every(lambda r: writer(r)._tell(Change(plan, course), source, "findings")))  # noqa: B023
        found |= set(every(lambda r: writer(r)._gone(plan, "findings")))  # noqa: B023
    for kind, side in product(DEVICES, ("right", "left", "")):
        plan = Plan("Support Devices", side, "", 0.5, kind, 0)
        found |= set(every(lambda r: writer(r)._device(plan)))  # noqa: B023
    stock = [*phrases.JOINT_ABSENT, *phrases.NORMAL, *phrases.CLEAR, *(p for ps in phrases.ABSENT.values() for p in ps)]
    found |= {text for text, _ in stock} | {*phrases.NEUTRAL, *phrases.CLOSING}
    return found | {"Views of the chest were obtained", "No significant interval change", "As above"}
