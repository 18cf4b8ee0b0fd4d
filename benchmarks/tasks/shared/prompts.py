"""Prompt sets of zero-shot classification, as data, each with its source.

A set gives, per finding, prompts for its presence and (where its rule uses them) for its absence. Sets of the literature
are quoted letter by letter, misspellings included, because a prompt is a part of the protocol.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product


@dataclass(frozen=True)
class Prompts:
    positive: list[str]
    negative: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PromptSet:
    """Prompts by finding, or a template that makes them from any name."""

    source: str
    findings: dict[str, Prompts] = field(default_factory=dict)
    template: Callable[[str], Prompts] | None = None

    def of(self, finding: str) -> Prompts | None:
        """The prompts of a finding, None where the set has none."""
        if finding in self.findings:
            return self.findings[finding]
        return self.template(finding) if self.template else None


def sample(prompts: dict[str, Prompts], count: int, seed: int) -> dict[str, Prompts]:
    """``count`` positive prompts per finding, drawn one finding after the other.

    Python's own ``random`` with the lineage's seed, not ``mlip.seeding``: which prompts it draws is part of the protocol.
    """
    rng = random.Random(seed)
    return {name: Prompts(rng.sample(p.positive, count), p.negative) for name, p in prompts.items()}


# Ours. Plain reporting English, written once from general usage before any score was seen, and not tuned since.
RADIOLOGY = PromptSet(
    source="this project",
    findings={
        "Atelectasis": Prompts(
            ["There is atelectasis.", "Bibasilar atelectasis.", "Linear opacities consistent with atelectasis."],
            ["There is no atelectasis.", "The lungs are well expanded.", "The lungs are clear."],
        ),
        "Cardiomegaly": Prompts(
            ["There is cardiomegaly.", "The heart is enlarged.", "The cardiac silhouette is enlarged."],
            ["There is no cardiomegaly.", "The heart size is normal.", "The cardiac silhouette is normal in size."],
        ),
        "Consolidation": Prompts(
            [
                "There is consolidation.",
                "Focal consolidation is seen in the lung.",
                "Airspace consolidation is present.",
            ],
            ["There is no consolidation.", "No focal consolidation is seen.", "The lungs are clear."],
        ),
        "Edema": Prompts(
            [
                "There is pulmonary edema.",
                "Findings are consistent with pulmonary edema.",
                "Interstitial edema is present.",
            ],
            ["There is no pulmonary edema.", "No evidence of pulmonary edema.", "The pulmonary vasculature is normal."],
        ),
        "Pleural Effusion": Prompts(
            [
                "There is a pleural effusion.",
                "Pleural effusion is present.",
                "Blunting of the costophrenic angle by pleural fluid.",
            ],
            ["There is no pleural effusion.", "No pleural effusion is seen.", "The costophrenic angles are sharp."],
        ),
        "Pneumonia": Prompts(
            [
                "There is pneumonia.",
                "Findings are consistent with pneumonia.",
                "Focal opacity concerning for pneumonia.",
            ],
            ["There is no pneumonia.", "No evidence of pneumonia.", "The lungs are clear."],
        ),
        "Pneumothorax": Prompts(
            [
                "There is a pneumothorax.",
                "Pneumothorax is present.",
                "A visible pleural line indicates a pneumothorax.",
            ],
            ["There is no pneumothorax.", "No pneumothorax is seen.", "The lungs are fully expanded."],
        ),
        "COVID-19": Prompts(
            ["Findings are consistent with COVID-19 pneumonia.", "Bilateral peripheral opacities typical of COVID-19."],
            ["Findings are not typical of COVID-19.", "Focal lobar consolidation typical of bacterial pneumonia."],
        ),
    },
)

BIOVIL = PromptSet(
    source="BioViL (Boecking et al., ECCV 2022), hi-ml test_zero_shot_classification.py",
    findings={
        "Pneumonia": Prompts(
            [
                "Findings consistent with pneumonia",
                "Findings suggesting pneumonia",
                "This opacity can represent pneumonia",
                "Findings are most compatible with pneumonia",
            ],
            [
                "There is no pneumonia",
                "No evidence of pneumonia",
                "No evidence of acute pneumonia",
                "No signs of pneumonia",
            ],
        )
    },
)

CHEXZERO = PromptSet(
    source="CheXzero (Tiu et al., Nature BME 2022), template pair ('{}', 'no {}') over the capitalised label",
    template=lambda label: Prompts([label], [f"no {label}"]),
)

_MACO_NEGATIVE = ["the lung is clear. ", "There is no {c}. ", "no {c}. ", "no evidence of {c}. "]


def _maco(category: str) -> Prompts:
    c = category.lower()
    return Prompts([f"There is {c}. "], [text.format(c=c) for text in _MACO_NEGATIVE])


MACO = PromptSet(
    source="MaCo (Huang et al.), ZeroShot/utils/prompts.py: default templates, and the SIIM set",
    findings={
        "SIIM pneumothorax": Prompts(
            [
                "Abnormal collection of air in the pleural space between the lung and the chest wall. ",
                "There is pneumothorax. ",
            ],
            [
                *_maco("Pneumothorax").negative,
                "The lung parenchyma is homogeneous, and the lung markings are normal and symmetrical. ",
            ],
        )
    },
    template=_maco,
)


def _phrases(*parts: list[str]) -> Prompts:
    return Prompts([" ".join(words).strip() for words in product(*parts)])


# Order of the findings and of the parts is that of the source: it decides what the seeded sampling draws. The words are
# the source's own but for Cardiomegaly, "apperance", "presistent" and "uppper" included, and so is the doubled phrase.
GLORIA = PromptSet(
    source="GLoRIA (Huang et al., ICCV 2021), gloria/constants.py at 1be5051",
    findings={
        "Atelectasis": _phrases(
            ["", "mild", "minimal"],
            [
                f"{kind} atelectasis"
                for kind in ["subsegmental", "linear", "trace", "bibasilar", "retrocardiac", "bandlike", "residual"]
            ],
            [
                "at the mid lung zone",
                "at the upper lung zone",
                "at the right lung zone",
                "at the left lung zone",
                "at the lung bases",
                "at the right lung base",
                "at the left lung base",
                "at the bilateral lung bases",
                "at the left lower lobe",
                "at the right lower lobe",
            ],
        ),
        # The source lists fifteen free sentences here; ours are phrases of the same kind, which the protocol says.
        "Cardiomegaly": _phrases(
            ["", "mild", "moderate", "severe", "stable"],
            ["cardiomegaly", "enlargement of the cardiac silhouette", "enlargement of the heart"],
        ),
        "Consolidation": _phrases(
            ["", "increased", "improved", "apperance of"],
            [
                f"{kind} consolidation"
                for kind in ["bilateral", "reticular", "retrocardiac", "patchy", "airspace", "partial"]
            ],
            [
                "at the lower lung zone",
                "at the upper lung zone",
                "at the left lower lobe",
                "at the right lower lobe",
                "at the left upper lobe",
                "at the right uppper lobe",
                "at the right lung base",
                "at the left lung base",
            ],
        ),
        "Edema": _phrases(
            ["", "mild", "improvement in", "presistent", "moderate", "decreased"],
            ["pulmonary edema", "trace interstitial edema", "pulmonary interstitial edema"],
        ),
        "Pleural Effusion": _phrases(
            ["", "small", "stable", "large", "decreased", "increased"],
            ["left", "right", "tiny"],
            ["bilateral pleural effusion", "subpulmonic pleural effusion", "bilateral pleural effusion"],
        ),
    },
)

PROMPTS: dict[str, PromptSet] = {
    "radiology": RADIOLOGY,
    "biovil": BIOVIL,
    "chexzero": CHEXZERO,
    "maco": MACO,
    "gloria": GLORIA,
}
