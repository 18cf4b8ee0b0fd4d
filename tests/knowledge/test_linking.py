"""Linking: names, aliases, negation, uncertainty, scopes; precision and recall on sentences written by hand."""

from __future__ import annotations

import time

import pytest

from mlip.knowledge.entities import Knowledge
from mlip.text.reports import parse_report
from tests.text.iu import iu_reports

P, A, U = "present", "absent", "uncertain"
EFFUSION, PNEUMONIA, PTX, HEART = "Pleural Effusion", "Pneumonia", "Pneumothorax", "Cardiomegaly"
EDEMA, ATELECTASIS, CONSOLIDATION, OPACITY = "Edema", "Atelectasis", "Consolidation", "Lung Opacity"
LESION, DEVICES, NORMAL, MEDIASTINUM, FRACTURE = (
    "Lung Lesion",
    "Support Devices",
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Fracture",
)

# Written from the truth side: what a reader would tick for the sentence.
SENTENCES: list[tuple[str, dict[str, str]]] = [
    ("No effusion, pneumothorax or consolidation.", {EFFUSION: A, PTX: A, CONSOLIDATION: A}),
    ("No focal consolidation, large pleural effusion, or pneumothorax is identified.", {CONSOLIDATION: A, EFFUSION: A, PTX: A}),
    ("There is no change in the small left pleural effusion.", {EFFUSION: P}),
    ("Bilateral pleural effusions have not significantly changed.", {EFFUSION: P}),
    ("Pneumonia cannot be excluded.", {PNEUMONIA: U}),
    ("Cannot exclude a small pleural effusion.", {EFFUSION: U}),
    ("Superimposed pneumonia is not excluded.", {PNEUMONIA: U}),
    ("Heart size is mildly enlarged.", {HEART: P}),
    ("The heart is not enlarged.", {HEART: A}),
    ("Heart size is within normal limits.", {HEART: A}),
    ("Enlarged heart with pulmonary vascular congestion.", {HEART: P, EDEMA: P}),
    ("Opacity may represent atelectasis or pneumonia.", {OPACITY: P, ATELECTASIS: U, PNEUMONIA: U}),
    ("Atelectasis versus pneumonia at the left base.", {ATELECTASIS: U, PNEUMONIA: U}),
    ("No effusion but moderate cardiomegaly.", {EFFUSION: A, HEART: P}),
    ("No pneumothorax, the heart is enlarged.", {PTX: A, HEART: P}),
    ("No new consolidation, stable small effusion.", {CONSOLIDATION: A, EFFUSION: P}),
    ("Lungs are clear without effusion.", {OPACITY: A, EFFUSION: A}),
    ("The endotracheal tube has been removed.", {DEVICES: A}),
    ("Ptx has resolved.", {PTX: A}),
    ("Pneumothoraces are not identified.", {PTX: A}),
    ("Pleural fluid on the right has increased.", {EFFUSION: P}),
    ("Cardiomegaly without edema.", {HEART: P, EDEMA: A}),
    ("No acute cardiopulmonary process.", {NORMAL: P}),
    ("The cardiomediastinal silhouette is unremarkable.", {HEART: A, MEDIASTINUM: A}),
    ("Findings are concerning for pneumonia.", {PNEUMONIA: U}),
    ("Probable small right effusion and left basilar atelectasis.", {EFFUSION: U, ATELECTASIS: U}),
    ("ETT tip above the carina.", {DEVICES: P}),
    ("A 2.5 cm nodule in the right upper lobe.", {LESION: P}),
    ("No suspicious mass or nodules.", {LESION: A}),
    ("Ground-glass opacities in both lower lobes.", {OPACITY: P}),
    ("Large right pneumothorax with mediastinal shift.", {PTX: P}),
    ("Small apical pneumothorax, no effusion.", {PTX: P, EFFUSION: A}),
    ("Blunting of the left costophrenic angle.", {EFFUSION: P}),
    ("Left lower lobe consolidation consistent with pneumonia.", {CONSOLIDATION: P, PNEUMONIA: P}),
    ("No findings.", {NORMAL: P}),
    ("Negative for pneumonia.", {PNEUMONIA: A}),
    ("The lungs are free of consolidation, although a small effusion remains.", {CONSOLIDATION: A, EFFUSION: P}),
    ("Widened mediastinum.", {MEDIASTINUM: P}),
    ("Healing fracture of the left sixth rib.", {FRACTURE: P}),
    ("No displaced rib fracture.", {FRACTURE: A}),
    ("Right PICC line in place; no pneumothorax.", {DEVICES: P, PTX: A}),
    ("Mild interstitial edema, unchanged.", {EDEMA: P}),
    ("There is neither effusion nor pneumothorax.", {EFFUSION: A, PTX: A}),
    ("Pneumonia is unlikely.", {PNEUMONIA: A}),
    ("No findings to suggest pneumonia.", {PNEUMONIA: A}),
    ("Patchy opacities, likely atelectasis, but pneumonia cannot be ruled out.", {OPACITY: P, ATELECTASIS: U, PNEUMONIA: U}),
    ("Interval removal of the chest tube.", {DEVICES: A}),
    ("Pleural effusion or pneumothorax is not seen.", {EFFUSION: A, PTX: A}),
    ("Basilar opacities are likely atelectasis.", {OPACITY: P, ATELECTASIS: U}),
    ("Pneumonia is likely.", {PNEUMONIA: U}),
    ("Low lung volumes.", {}),
    ("The patient was seen at 3 p.m.", {}),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "truth"), SENTENCES)
def test_findings_of_a_sentence(knowledge: Knowledge, sentence: str, truth: dict[str, str]) -> None:
    assert knowledge.findings(sentence) == truth


def test_scope_ends_with_the_sentence(knowledge: Knowledge) -> None:
    assert knowledge.findings("No effusion. Pneumothorax.") == {EFFUSION: A, PTX: P}
    assert knowledge.findings("No effusion . Pneumothorax .") == {EFFUSION: A, PTX: P}


def test_mentions_point_into_the_text(knowledge: Knowledge) -> None:
    text = "Normal.  Pleural  effusions are small. Heart size is mildly enlarged."
    mentions = knowledge.link(text)
    assert [text[m.start : m.end] for m in mentions] == ["Pleural  effusions", "Heart size is mildly enlarged"]
    assert [m.entity for m in mentions] == [knowledge.find(EFFUSION), knowledge.find(HEART)]


def test_longest_match_wins(knowledge: Knowledge) -> None:
    (mention,) = knowledge.link("pericardial effusion")
    assert knowledge.entities[mention.entity].name == "Pericardial effusion"
    assert knowledge.finding_of(mention.entity) is None


def test_affirmed_keeps_uncertain_and_drops_absent(knowledge: Knowledge) -> None:
    found = knowledge.affirmed("Possible pneumonia. No effusion at the left base. Pneumonia again.")
    assert found == [knowledge.find(PNEUMONIA)]  # the base is only named as a place without effusion
    assert knowledge.find("left base") in knowledge.affirmed("Effusion at the left base.")
    assert knowledge.affirmed("") == []


def test_real_reports_agree_with_their_mesh_codes(knowledge: Knowledge) -> None:
    """Indexers of the Open-i collection coded each report by hand: an independent truth for whole reports.

    They code no uncertain finding consistently, so recall is the stricter of the two numbers.
    """
    codes = {
        HEART: ("Cardiomegaly",),
        EFFUSION: ("Pleural Effusion", "Costophrenic Angle"),
        PTX: ("Pneumothorax", "Hydropneumothorax"),
        ATELECTASIS: ("Pulmonary Atelectasis",),
    }
    reports = iu_reports()
    start = time.process_time()
    found = [
        knowledge.findings(parse_report(f"FINDINGS: {r['FINDINGS']}\n\nIMPRESSION: {r['IMPRESSION']}").text)
        for r, _ in reports
    ]
    print(f"{len(reports) / (time.process_time() - start):.0f} reports a CPU second, parsing included")
    for name, prefixes in codes.items():
        truth = [any(code.startswith(prefixes) for code in mesh) for _, mesh in reports]
        linked = [f.get(name) in (P, U) for f in found]
        hits = sum(t and q for t, q in zip(truth, linked, strict=True))
        precision, recall = hits / sum(linked), hits / sum(truth)
        print(f"{name}: precision {precision:.3f}, recall {recall:.3f} of {sum(truth)}")
        assert precision > 0.75 and recall > 0.8
