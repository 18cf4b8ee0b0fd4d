"""Named virtual hospitals: how each exposes its films, and whom it sees.

A second hospital is a shift of the data: a method that learned a look instead of a finding loses on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mlip.errors import UserError

PREVALENCE = {
    "Pneumonia": 0.22,
    "Consolidation": 0.05,
    "Pleural Effusion": 0.17,
    "Pneumothorax": 0.15,
    "Cardiomegaly": 0.16,
    "Edema": 0.11,
    "Atelectasis": 0.13,
    "Lung Lesion": 0.08,
    "Support Devices": 0.24,
}


@dataclass(frozen=True)
class Hospital:
    """Look and case mix of one hospital."""

    name: str
    ap_share: float = 0.45  # films taken antero-posterior (bedside)
    exposure: float = 0.0  # shift of the film's grey, in units of its range
    exposure_spread: float = 0.05
    contrast: float = 1.0  # slope of the film's curve
    contrast_spread: float = 0.10
    noise: float = 1.0  # quantum noise relative to the reference
    blur: float = 0.35  # pixels at 128
    equalise: float = 0.45  # share of the slow component taken out (multi-scale processing)
    collimation: float = 0.25  # share of films with visible shutters
    marker: str = "L"  # laterality marker burnt into the film
    severity: float = 0.0  # shift of the mean severity
    healthy: float = 0.30  # share of studies without any finding of lungs or heart
    single: float = 0.35  # share of the others that have exactly one
    prevalence: dict[str, float] = field(default_factory=dict)  # overrides of PREVALENCE

    def rate(self, finding: str) -> float:
        return self.prevalence.get(finding, PREVALENCE[finding])


HOSPITALS = {
    h.name: h
    for h in (
        Hospital("reference"),
        Hospital(
            "west",
            ap_share=0.7,
            exposure=0.03,
            contrast=1.08,
            equalise=0.5,
            marker="R",
            single=0.55,
            healthy=0.28,
            prevalence={
                "Consolidation": 0.16,
                "Pneumonia": 0.06,
                "Atelectasis": 0.16,
                "Edema": 0.16,
                "Pneumothorax": 0.06,
            },
        ),
        Hospital(
            "portable",
            ap_share=0.85,
            exposure=-0.04,
            contrast=0.92,
            noise=1.6,
            blur=0.55,
            equalise=0.35,
            collimation=0.4,
            prevalence={"Pneumonia": 0.29, "Consolidation": 0.02},
        ),
        Hospital(
            "bright",
            ap_share=0.4,
            exposure=0.08,
            contrast=0.95,
            noise=0.8,
            equalise=0.55,
            collimation=0.1,
            marker="",
            prevalence={"Pneumothorax": 0.35, "Pneumonia": 0.14},
        ),
        Hospital("pandemic", ap_share=0.6, exposure=0.02, noise=1.2, exposure_spread=0.08, marker="R"),
        Hospital(
            "township", ap_share=0.05, exposure=-0.02, contrast=1.12, noise=1.1, blur=0.3, collimation=0.15, healthy=0.8
        ),
    )
}


def hospital(name: str) -> Hospital:
    """A hospital by name.

    Raises
    ------
    UserError : there is none of that name.
    """
    if name not in HOSPITALS:
        raise UserError(
            f"there is no virtual hospital {name!r}", where="twin.datasets", fix=f"one of {sorted(HOSPITALS)}"
        )
    return HOSPITALS[name]
