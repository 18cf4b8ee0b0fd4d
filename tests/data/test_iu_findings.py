"""Labels of IU X-ray from its coders' words: on single reports, and on all 3,955 real ones."""

from __future__ import annotations

import numpy as np
import pytest

from mlip.data.readers.iu_xray import READER, findings
from tests.text.iu import iu_reports

# Reports with each finding among the 3,860 that are coded, counted once by this table and looked through by heading.
COUNTS = {
    "No Finding": 1391, "Cardiomegaly": 395, "Lung Opacity": 482, "Lung Lesion": 126, "Edema": 46, "Consolidation": 30,
    "Pneumonia": 42, "Atelectasis": 332, "Pneumothorax": 27, "Pleural Effusion": 163, "Fracture": 84, "Support Devices": 272,
    "Infiltration": 65, "Mass": 17, "Nodule": 111, "Emphysema": 102, "Fibrosis": 20, "Pleural Thickening": 47, "Hernia": 50,
}  # fmt: skip


@pytest.mark.parametrize(
    ("codes", "present"),
    [
        (["normal"], {"No Finding"}),
        (["Cardiomegaly/mild"], {"Cardiomegaly"}),
        (["Cardiac Shadow/enlarged/borderline"], {"Cardiomegaly"}),
        (["Cardiac Shadow/obscured/right"], set()),
        (["Opacity/lung/base/left", "Pleural Effusion/left/small"], {"Lung Opacity", "Pleural Effusion"}),
        (["Opacity/ribs/left"], set()),
        (["Hydropneumothorax/right"], {"Pneumothorax", "Pleural Effusion"}),
        (["Nodule/lung/upper lobe/left"], {"Nodule", "Lung Lesion"}),
        (["Subcutaneous  Emphysema"], set()),
        (["Pulmonary Emphysema"], {"Emphysema"}),
        (["Thickening/pleura/apex/right"], {"Pleural Thickening"}),
        (["Thickening/bronchi"], set()),
        ([" Mass/lung/hilum/right ", "CARDIOMEGALY"], {"Mass", "Lung Lesion", "Cardiomegaly"}),
        (["Technical Quality of Image Unsatisfactory "], set()),
    ],
)
def test_labels_of_single_reports(codes: list[str], present: set[str]) -> None:
    found = findings(codes)
    assert {label for label, value in found.items() if value} == present
    assert set(found) == set(READER.labels) and set(found.values()) <= {0.0, 1.0}


@pytest.mark.parametrize("codes", [[], [""], ["No Indexing"]])
def test_a_report_that_was_not_coded_has_no_labels(codes: list[str]) -> None:
    assert np.isnan(list(findings(codes).values())).all()


def test_counts_of_the_real_reports() -> None:
    rows = [findings(codes) for _, codes in iu_reports()]
    coded = [row for row in rows if not np.isnan(row["Mass"])]
    assert (len(rows), len(coded)) == (3955, 3860)
    assert {label: int(sum(row[label] for row in coded)) for label in READER.labels} == COUNTS
    assert not any(row["No Finding"] and sum(row.values()) > 1 for row in coded)


def test_labels_agree_with_what_the_reports_say() -> None:
    """The words of a finding stand in most reports that are coded with it, and hardly in those coded as normal."""
    words = {
        "Cardiomegaly": ("cardiomegaly", "enlarge", "prominent"),
        "Atelectasis": ("atelecta",),
        "Pleural Effusion": ("effusion",),
    }
    for label, stems in words.items():
        said = [
            any(s in " ".join(texts.values()).lower() for s in stems)
            for texts, codes in iu_reports()
            if findings(codes)[label] == 1
        ]
        assert np.mean(said) > 0.9, label
    normal = [" ".join(t.values()).lower() for t, codes in iu_reports() if findings(codes)["No Finding"] == 1]
    assert np.mean(["atelecta" in text for text in normal]) < 0.05
