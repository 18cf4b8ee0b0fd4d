"""Report parsing: the layouts that MIMIC-CXR, Open-i and plain notes really have."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlip.text.reports import Report, parse_report, split_sentences
from tests.text.iu import iu_reports

MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PORTABLE AP)

 INDICATION:  ___ year old woman with cough // eval for pneumonia

 COMPARISON:  ___ at 9:13 a.m.

 FINDINGS:

 There is a 2.5 cm nodule in the right
 upper lobe, discussed with Dr. ___ at 10:30 a.m. on ___ by phone.  No
 effusion.

 IMPRESSION:

 1.  Right upper lobe nodule.
 2.  No pneumonia.
"""


def test_mimic_layout() -> None:
    report = parse_report(MIMIC)
    assert report.sentences == [
        "Right upper lobe nodule",
        "No pneumonia",
        "There is a 2.5 cm nodule in the right upper lobe, discussed with Dr. ___ at 10:30 a.m. on ___ by phone",
        "No effusion",
    ]
    assert report.impression == "1. Right upper lobe nodule. 2. No pneumonia."
    assert report.text.startswith("Right upper lobe nodule . No pneumonia . There is a 2.5 cm")
    assert "cough" not in report.text and "9:13" not in report.text


@pytest.mark.parametrize(
    ("raw", "findings", "impression"),
    [
        ("FINDINGS: Lungs clear. IMPRESSION: Normal chest.", ["Lungs clear"], ["Normal chest"]),
        ("Findings:\nLungs clear.\n\nimpression:\nNormal.", ["Lungs clear"], ["Normal"]),
        ("FINDINGS  The lungs are clear.\n\nIMPRESSION\nNormal chest.", ["The lungs are clear"], ["Normal chest"]),
        ("FINDINGS AND IMPRESSION: Small effusion.", ["Small effusion"], []),
        ("FINDINGS: Clear lungs.\n\nCONCLUSION: Normal.", ["Clear lungs"], ["Normal"]),
        ("IMPRESSION: Old words.\n\nFINDINGS: Clear.\n\nIMPRESSION: New words.", ["Clear"], ["New words"]),
        ("IMPRESSION: Kept words.\n\nIMPRESSION:\n", [], ["Kept words"]),
        ("PORTABLE CHEST RADIOGRAPH:\n\nThe lungs are clear.\n\nIMPRESSION: Normal.", ["The lungs are clear"], ["Normal"]),
        ("INDICATION: cough.\n\n COMPARISON: none.\n\n Lungs clear.\n\n No effusion.", ["Lungs clear", "No effusion"], []),
        ("FINDINGS:\nLUNGS: clear.\n\nHEART: enlarged\n\nRECOMMENDATION: CT", ["LUNGS: clear", "HEART: enlarged"], []),
        ("FINAL REPORT\n The lungs are clear.", ["The lungs are clear"], []),
        ("FINDINGS: Clear.\r\n\r\nIMPRESSION: Normal.\r\nNOTIFICATION: called", ["Clear"], ["Normal"]),
        ("Severe ARDS. Person is intubated with an OG in place.", ["Severe ARDS", "Person is intubated with an OG in place"], []),
    ],
)  # fmt: skip
def test_layouts(raw: str, findings: list[str], impression: list[str]) -> None:
    report = parse_report(raw)
    assert report.sentences == impression + findings
    assert split_sentences(report.findings) == findings
    assert split_sentences(report.impression) == impression


@pytest.mark.parametrize("raw", ["", "  \n", "FINDINGS:\n\nIMPRESSION:\n", "INDICATION: cough", "___", "1. 2. 3."])
def test_empty(raw: str) -> None:
    report = parse_report(raw)
    assert report.empty and report.sentences == [] and report.text == ""
    assert not Report("a", "b", ["Clear lungs"]).empty


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("1. Foo bar 2. Bar baz 3) No effusion", ["Foo bar", "Bar baz", "No effusion"]),
        ("1.No effusion.2.Clear lungs.", ["No effusion", "Clear lungs"]),
        ("Size measuring 3. No effusion.", ["Size measuring 3", "No effusion"]),
        ("A 2.5 x 3.1 cm. nodule is seen. Clear.", ["A 2.5 x 3.1 cm. nodule is seen", "Clear"]),
        ("Seen at 3 p.m. The heart is large.", ["Seen at 3 p.m", "The heart is large"]),
        ("Read by Dr. J. Smith. Lungs clear.No effusion!", ["Read by Dr. J. Smith", "Lungs clear", "No effusion"]),
        ("Atelectasis vs. pneumonia, e.g. lobar.", ["Atelectasis vs. pneumonia, e.g. lobar"]),
        ("no effusion. heart is normal.", ["no effusion", "heart is normal"]),
        ("- Clear lungs\n- No effusion", ["Clear lungs", "No effusion"]),
        ("Compared to ___. No change", ["Compared to ___", "No change"]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="abN 12.,:;\n-_?)(Dr", max_size=120))
def test_text_gives_the_same_sentences_again(raw: str) -> None:
    report = parse_report(raw)
    assert split_sentences(report.text) == report.sentences


def test_real_reports() -> None:
    reports = [sections for sections, _ in iu_reports()]
    assert len(reports) == 3955
    start = time.process_time()
    parsed = [parse_report("\n\n".join(f" {title}: {body}" for title, body in r.items())) for r in reports]
    seconds = time.process_time() - start
    print(f"{1e3 * seconds / len(parsed):.3f} ms a report")
    assert seconds < 6, "200,000 reports must parse in minutes"
    nested = 0
    for sections, report in zip(reports, parsed, strict=True):
        assert split_sentences(report.text) == report.sentences
        expected = split_sentences(sections["IMPRESSION"]) + split_sentences(sections["FINDINGS"])
        nested += report.sentences != expected
    assert nested <= 1  # one report repeats all its sections inside its impression
    assert 20 < sum(r.empty for r in parsed) < 60
