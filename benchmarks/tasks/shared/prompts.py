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


# Ours. Plain reporting English, written from general usage before any score was seen, and not tuned since. Presence and
# absence stand in pairs of one form, so that neither side is of another register. No prompt is a sentence of the twin's
# reports or a part of one (tests/benchmarks/tasks/test_prompts_and_corpus.py).
_STATED = (
    ("{A} is identified on the radiograph.", "No {f} is identified on the radiograph."),
    ("The chest radiograph shows {a}.", "The chest radiograph shows no {f}."),
    ("The findings are compatible with {f}.", "The findings are not compatible with {f}."),
    ("Examination positive for {f}.", "Examination negative for {f}."),
    ("Radiographic signs of {f} are present.", "Radiographic signs of {f} are absent."),
    ("{F} is noted on this study.", "{F} is not noted on this study."),
)


def _ours(finding: str, *pairs: tuple[str, str], article: str = "") -> Prompts:
    """The general statements about a finding, and pairs of its own: how it looks, where it lies, how large it is."""
    full = f"{article}{finding}"
    words = {"f": finding, "F": finding[0].upper() + finding[1:], "a": full, "A": full[0].upper() + full[1:]}
    stated = [(present.format(**words), absent.format(**words)) for present, absent in _STATED]
    positive, negative = zip(*stated, *pairs, strict=True)
    return Prompts(list(positive), list(negative))


RADIOLOGY = PromptSet(
    source="this project",
    findings={
        "Atelectasis": _ours(
            "atelectasis",
            ("Linear opacity at the left base reflecting atelectasis.", "No linear opacity at the left base."),
            ("Streaky basilar opacities from atelectasis.", "No streaky basilar opacities or atelectasis."),
            ("Mild atelectasis of the right lower lobe.", "No atelectasis of the right lower lobe."),
            ("There is volume loss in the lower lung.", "There is no volume loss in the lower lung."),
            ("A lung base is partially collapsed.", "Both lung bases are well expanded."),
            ("Plate-like collapse is seen in the bases.", "No plate-like collapse is seen in the bases."),
        ),
        "Cardiomegaly": _ours(
            "cardiomegaly",
            ("The heart appears enlarged.", "The heart does not appear enlarged."),
            ("The cardiac silhouette is larger than normal.", "The cardiac silhouette is not larger than normal."),
            ("Moderately enlarged cardiac silhouette.", "Cardiac silhouette of normal size."),
            ("Heart size is above normal limits.", "Heart size is within normal limits."),
            ("The heart and its contours are enlarged.", "The heart and its contours are normal."),
            ("The size of the heart is increased.", "The size of the heart is normal."),
        ),
        "Consolidation": _ours(
            "consolidation",
            ("Dense consolidation of the right lower lobe.", "No consolidation of the right lower lobe."),
            ("Left upper lobe airspace consolidation.", "No left upper lobe airspace consolidation."),
            ("A lobe of the lung is consolidated.", "No lobe of the lung is consolidated."),
            ("Confluent airspace opacity with air bronchograms.", "No airspace opacity or air bronchograms."),
            ("Focal consolidation is noted in the left lung.", "No focal consolidation is noted in the left lung."),
            ("The lungs are opacified by consolidation.", "The lungs are free of consolidation."),
        ),
        "Edema": _ours(
            "pulmonary edema",
            ("Severe interstitial edema of both lungs.", "No interstitial edema of either lung."),
            ("Perihilar haziness is present, reflecting edema.", "No perihilar haziness is present to suggest edema."),
            ("The pulmonary vasculature is indistinct.", "The pulmonary vasculature is distinct."),
            ("Bilateral perihilar opacities with fluid in the lungs.", "No perihilar opacities or fluid in the lungs."),
            ("There is vascular congestion with edema.", "There is no vascular congestion or edema."),
            ("Heart failure with edema in both lungs.", "No heart failure or edema in either lung."),
        ),
        "Pleural Effusion": _ours(
            "pleural effusion",
            ("Moderate pleural effusion on the left.", "No pleural effusion on the left."),
            ("There is fluid in the right pleural space.", "There is no fluid in the right pleural space."),
            ("Layering pleural fluid at both bases.", "No layering pleural fluid at either base."),
            ("The costophrenic angle is blunted by fluid.", "The costophrenic angle is free of fluid."),
            ("Pleural effusions are noted on both sides.", "No pleural effusions are noted on either side."),
            ("A meniscus of pleural fluid is visible.", "No meniscus of pleural fluid is visible."),
            article="a ",
        ),
        "Pneumonia": _ours(
            "pneumonia",
            (
                "Airspace opacity in the right lower lobe due to pneumonia.",
                "No airspace opacity in the right lower lobe.",
            ),
            ("Pneumonia of the left lower lobe.", "No pneumonia of the left lower lobe."),
            ("Focal consolidation compatible with infection.", "No focal consolidation compatible with infection."),
            ("There is an infectious opacity in the lung.", "There is no infectious opacity in the lung."),
            ("New opacification representing infection.", "No new opacification representing infection."),
            ("Patchy opacities are concerning for pneumonia.", "No patchy opacities are concerning for pneumonia."),
        ),
        "Pneumothorax": _ours(
            "pneumothorax",
            ("Left apical pneumothorax with a pleural line.", "No left apical pneumothorax or pleural line."),
            ("There is air in the right pleural space.", "There is no air in the right pleural space."),
            ("A visible pleural line indicates a pneumothorax.", "No visible pleural line indicates a pneumothorax."),
            ("Large pneumothorax on the right side.", "No pneumothorax on the right side."),
            ("The lung is partially collapsed by pleural air.", "The lung is fully expanded without pleural air."),
            ("Lung markings end at a pleural line.", "Lung markings end at the chest wall."),
            article="a ",
        ),
        # Told from other pneumonias, so the absence of its own signs is the presence of theirs.
        "COVID-19": _ours(
            "COVID-19 pneumonia",
            (
                "Bilateral peripheral opacities typical of COVID-19.",
                "Focal lobar consolidation typical of bacterial pneumonia.",
            ),
            ("Peripheral ground-glass opacities in both lungs.", "Dense consolidation in one lobe of the lung."),
            ("Hazy opacities in both lower lungs.", "Confluent opacity in one lower lobe."),
            ("Viral pneumonia in both lungs.", "Bacterial pneumonia in one lung."),
            ("Multifocal opacities of viral infection.", "Focal opacity of bacterial infection."),
            ("Findings typical of coronavirus infection.", "Findings typical of bacterial infection."),
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
