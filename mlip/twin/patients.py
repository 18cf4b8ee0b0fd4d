"""Virtual patients: who they are, their studies over time, and what each study's films show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mlip.seeding import generator
from mlip.twin.devices import DEVICES
from mlip.twin.findings import Plan
from mlip.twin.hospital import Hospital

FINDINGS = (
    "Pneumonia",
    "Consolidation",
    "Pleural Effusion",
    "Pneumothorax",
    "Cardiomegaly",
    "Edema",
    "Atelectasis",
    "Lung Lesion",
)
CHEXPERT = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)

_PLACES = ("right lower lobe", "left lower lobe", "right upper lobe", "right middle lobe", "left upper lobe")
# Companions: a failing heart brings fluid; a collapsed lung gets a drain.
_COMPANY = {
    "Cardiomegaly": ("Edema", "Pleural Effusion"),
    "Edema": ("Pleural Effusion", "Cardiomegaly"),
    "Pneumonia": ("Pleural Effusion",),
}


@dataclass(frozen=True)
class Change:
    """How a finding relates to the study before: new, unchanged, increased, decreased, resolved, or "" (no prior)."""

    plan: Plan
    course: str


@dataclass(frozen=True)
class VirtualStudy:
    """One examination: its findings, their course, and the views taken."""

    index: int
    days: int  # since the patient's first study
    changes: tuple[Change, ...]
    views: tuple[str, ...]

    @property
    def plans(self) -> tuple[Plan, ...]:
        """What is there now."""
        return tuple(c.plan for c in self.changes if c.course != "resolved")


@dataclass(frozen=True)
class Patient:
    """A virtual patient; ``anatomy`` counts the warped chests, taken modulo how many exist."""

    index: int
    sex: str
    age: int
    anatomy: int
    studies: tuple[VirtualStudy, ...]


def truth_labels(plans: tuple[Plan, ...]) -> dict[str, float]:
    """What is really there as CheXpert's 14 observations, 0 or 1. ``Lung Opacity`` is the union of its descendants."""
    labels = dict.fromkeys(CHEXPERT, 0.0)
    for plan in plans:
        if plan.name in labels:
            labels[plan.name] = 1.0
        if plan.name == "Pneumonia":
            labels["Consolidation"] = 1.0
        if plan.name in ("Pneumonia", "Consolidation", "Edema", "Atelectasis", "Lung Lesion"):
            labels["Lung Opacity"] = 1.0
    labels["No Finding"] = float(not any(v for k, v in labels.items() if k not in ("Support Devices", "No Finding")))
    return labels


def plan_finding(name: str, rng: np.random.Generator, *, shift: float = 0.0, kind: str = "") -> Plan:
    """Draw side, place, severity and variety of one finding."""
    severity = float(np.clip(rng.beta(*_SEVERITY.get(name, (2.0, 2.0))) + shift, 0, 1))
    side, place = "", ""
    if name in ("Pneumonia", "Consolidation") and kind != "covid":
        if rng.random() < 0.12:
            side, place = "bilateral", "lower lobes"
        else:
            place = str(rng.choice(_PLACES, p=(0.32, 0.24, 0.17, 0.13, 0.14)))
            side = place.split()[0]
    elif name == "Lung Lesion":
        place = str(rng.choice(_PLACES, p=(0.2, 0.2, 0.27, 0.08, 0.25)))
        side, kind = place.split()[0], kind or ("mass" if rng.random() < 0.45 else "nodule")
    elif name in ("Pleural Effusion", "Atelectasis"):
        side = str(rng.choice(("right", "left", "bilateral"), p=(0.37, 0.35, 0.28)))
        place = "base" if name == "Atelectasis" else ""
        if name == "Atelectasis":
            kind = kind or ("volume loss" if rng.random() < 0.35 else "plate")
    elif name == "Pneumothorax":
        side = str(rng.choice(("right", "left")))
    elif name == "Edema" or kind == "covid":
        side = "bilateral"
    return Plan(name, side, place, severity, kind, int(rng.integers(2**31)))


_SEVERITY = {
    "Pneumonia": (2.6, 2.0),
    "Consolidation": (2.6, 2.0),
    "Pneumothorax": (2.3, 2.0),
    "Pleural Effusion": (1.6, 2.2),
    "Cardiomegaly": (2.2, 2.0),
}


def plan_device(rng: np.random.Generator, kind: str = "") -> Plan:
    kind = kind or str(rng.choice(DEVICES))
    side = {
        "central line": ("right", "right", "left"),
        "picc": ("left", "right"),
        "pacemaker": ("left", "left", "left", "right"),
        "chest tube": ("right", "left"),
    }
    return Plan("Support Devices", str(rng.choice(side.get(kind, ("",)))), "", 0.5, kind, int(rng.integers(2**31)))


def sample_findings(place: Hospital, rng: np.random.Generator) -> tuple[Plan, ...]:
    """The findings of one study by the hospital's case mix."""
    names: list[str] = []
    if rng.random() >= place.healthy:
        rates = {n: place.rate(n) for n in FINDINGS}
        if rng.random() < place.single:
            weights = np.array(list(rates.values()))
            names = [str(rng.choice(FINDINGS, p=weights / weights.sum()))]
        else:
            names = [n for n in FINDINGS if rng.random() < rates[n] / (1 - place.healthy)]
            for name in tuple(names):
                names += [c for c in _COMPANY.get(name, ()) if c not in names and rng.random() < 0.22]
        if "Pneumonia" in names and "Consolidation" in names:
            names.remove("Consolidation")
    plans = [plan_finding(n, rng, shift=place.severity) for n in names]
    drained = [p for p in plans if p.name == "Pneumothorax" and rng.random() < 0.3]
    plans += [replace(plan_device(rng, "chest tube"), side=p.side) for p in drained]
    if rng.random() < place.rate("Support Devices") * (1.15 if names else 0.5):
        kinds = rng.permutation([k for k in DEVICES if k != "chest tube"])[: 1 + int(rng.random() < 0.35)]
        plans += [plan_device(rng, str(k)) for k in kinds]
    return tuple(plans)


def next_findings(before: tuple[Plan, ...], place: Hospital, rng: np.random.Generator) -> tuple[Change, ...]:
    """A later study: each finding resolves, changes or stays; sometimes a new one comes."""
    changes = []
    for plan in before:
        if plan.name == "Support Devices":
            if rng.random() < 0.75:
                changes.append(Change(plan, "unchanged"))
            continue
        course = str(rng.choice(("resolved", "decreased", "unchanged", "increased"), p=(0.22, 0.22, 0.34, 0.22)))
        step = {"decreased": -0.25, "increased": 0.25}.get(course, 0.0) * rng.uniform(0.7, 1.2)
        changes.append(Change(replace(plan, severity=float(np.clip(plan.severity + step, 0.02, 1))), course))
    names = {c.plan.name for c in changes}
    for plan in sample_findings(place, rng):
        clash = {"Pneumonia": "Consolidation", "Consolidation": "Pneumonia"}.get(plan.name)
        if plan.name not in names and clash not in names and rng.random() < 0.4:
            changes.append(Change(plan, "new"))
    return tuple(changes)


def make_patient(index: int, place: Hospital, *names: object, follow_up: bool = True) -> Patient:
    """Patient ``index`` of a data set; ``names`` (seed, data set) name its random numbers."""
    rng = generator(*names, place.name, "patient", index)
    count = 1 + (int(rng.choice(4, p=(0.55, 0.25, 0.13, 0.07))) if follow_up else 0)
    studies: list[VirtualStudy] = []
    days = 0
    for k in range(count):
        changes = (
            next_findings(studies[-1].plans, place, rng)
            if k
            else tuple(Change(p, "") for p in sample_findings(place, rng))
        )
        bedside = rng.random() < place.ap_share
        views: tuple[str, ...] = ("AP",) if bedside else ("PA",)
        if follow_up and rng.random() < 0.15:
            views = (*views, "AP" if bedside else "PA")
        studies.append(VirtualStudy(k, days, changes, views))
        days += int(rng.integers(1, 200))
    return Patient(
        index,
        str(rng.choice(("F", "M"))),
        int(np.clip(rng.normal(60, 17), 18, 91)),
        int(rng.integers(2**31)),
        tuple(studies),
    )


def patients_until(images: int, place: Hospital, *names: object, follow_up: bool = True) -> Iterator[Patient]:
    """Patients one after another until they have ``images`` films together; the last one's surplus films are dropped."""
    left, index = images, 0
    while left > 0:
        patient, kept = make_patient(index, place, *names, follow_up=follow_up), []
        for study in patient.studies:
            if left > 0:
                kept.append(replace(study, views=study.views[:left]))
                left -= len(kept[-1].views)
        yield replace(patient, studies=tuple(kept))
        index += 1
