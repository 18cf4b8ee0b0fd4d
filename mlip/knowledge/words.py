"""Normalised words of report text and of dictionary phrases: lower-case, singular, parted by punctuation and hyphens."""

from __future__ import annotations

import re
from functools import lru_cache

TOKEN = re.compile(r"[a-z0-9]+|[,;:/()]")
_IRREGULAR = {"oedema": "edema", "pneumothoraces": "pneumothorax", "hila": "hilum", "bronchi": "bronchus",
    "atelectases": "atelectasis", "metastases": "metastasis", "apices": "apex", "bases": "base", "pleurae": "pleura",
    "vertebrae": "vertebra", "bullae": "bulla", "oedematous": "edema", "tumour": "tumor", "tumours": "tumor", "haemothorax": "hemothorax",
    "apexes": "apex", "prostheses": "prosthesis", "abscesses": "abscess", "atria": "atrium", "lucencies": "lucency"}  # fmt: skip


def normalise(text: str) -> list[str]:
    """Words of a phrase, marks such as "," and "/" counted as words."""
    return [lemma(w) for w in TOKEN.findall(text.lower())]


@lru_cache(maxsize=50_000)
def lemma(word: str) -> str:
    """Singular of a noun by rule; dictionary and text go through the same rule, so it need not be perfect English."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 3 or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word
