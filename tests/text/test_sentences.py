"""Where a full stop does not end a sentence."""

from __future__ import annotations

import pytest

from mlip.text.reports import Report, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Told to Dr. ___ at 5:30 p.m. on the phone. No effusion.", ["Told to Dr. ___ at 5:30 p.m. on the phone", "No effusion"]),
        ("Discussed at 3 p.m. ___ by telephone. Clear.", ["Discussed at 3 p.m. ___ by telephone", "Clear"]),
        ("Film of 4:10 p.m. (portable) is clear.", ["Film of 4:10 p.m. (portable) is clear"]),
        ("Seen at 7 a.m. 12 minutes after discovery.", ["Seen at 7 a.m. 12 minutes after discovery"]),
        ("Seen at 3:05 P.M. on Tuesday.", ["Seen at 3:05 P.M. on Tuesday"]),
        ("Seen at 10:00 p. m. on ___. Clear lungs.", ["Seen at 10:00 p. m. on ___", "Clear lungs"]),
        ("Seen at 10:00 p. m. The lungs are clear.", ["Seen at 10:00 p. m", "The lungs are clear"]),
        ("Seen at 3 p.m. The heart is large.", ["Seen at 3 p.m", "The heart is large"]),
        ("Seen at 8 a.m.\nNo effusion.", ["Seen at 8 a.m", "No effusion"]),
        ("Seen at 8 p.m.", ["Seen at 8 p.m"]),
        ("Opacity, e.g. Pneumonia. No edema.", ["Opacity, e.g. Pneumonia", "No edema"]),
        ("Devices (e.g., ICD) unchanged.", ["Devices (e.g., ICD) unchanged"]),
        ("Atelectasis vs. Pneumonia. No effusion.", ["Atelectasis vs. Pneumonia", "No effusion"]),
        ("Dr. J. Smith was told. Clear lungs.", ["Dr. J. Smith was told", "Clear lungs"]),
        ("A 2.5 cm nodule. Tube 4.0 cm above the carina.", ["A 2.5 cm nodule", "Tube 4.0 cm above the carina"]),
        ("1. Clear lungs. 2. A 2.5 cm nodule. 3. Normal heart.", ["Clear lungs", "A 2.5 cm nodule", "Normal heart"]),
    ],
)  # fmt: skip
def test_stops_that_do_not_close(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences
    assert split_sentences(Report(sentences=sentences).text) == sentences
