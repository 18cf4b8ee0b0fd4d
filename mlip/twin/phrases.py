"""What a radiologist writes: sentence patterns by finding, each with what it says about which observations.

A pattern is (text, statements). Statements are spelled ``+Name`` (affirmed), ``-Name`` (negated), ``?Name`` (uncertain),
separated by commas. Placeholders: {side} right/left/bilateral, {lobe} a lobe, {size} small/moderate/large,
{grade} mild/moderate/severe, {zone} a lung zone, {device} filled by the report writer.

No sentence is a prompt of zero-shot classification, or holds one, or lies in one: the literature's prompts are fixed, so
the reports say the same in other words (tests/benchmarks/tasks/test_prompts_and_corpus.py).
"""

from __future__ import annotations

Pattern = tuple[str, str]

_PNA, _CON, _OPA = "Pneumonia", "Consolidation", "Lung Opacity"

FINDINGS: dict[str, tuple[Pattern, ...]] = {
    "Pneumonia": (
        ("There is a {dense} opacity in the {lobe}, compatible with pneumonia", f"+{_OPA},+{_PNA}"),
        ("Consolidation in the {lobe} is consistent with pneumonia", f"+{_CON},+{_PNA}"),
        ("Focal consolidation is seen in the {lobe}", f"+{_CON}"),
        ("There is {lobe} pneumonia", f"+{_PNA}"),
        ("{Dense} airspace opacity in the {lobe} is concerning for pneumonia", f"+{_OPA},?{_PNA}"),
        ("New opacification of the {lobe} with air bronchograms, consistent with pneumonia", f"+{_OPA},+{_PNA}"),
        ("Increased opacity projecting over the {zone} may represent pneumonia", f"+{_OPA},?{_PNA}"),
        ("An ill-defined opacity is present in the {lobe}", f"+{_OPA}"),
        ("{Dense} consolidation involving the {lobe}, in keeping with infection", f"+{_CON},+{_PNA}"),
    ),
    "Consolidation": (
        ("There is {dense} consolidation in the {lobe}", f"+{_CON}"),
        ("Focal consolidation in the {lobe} is noted", f"+{_CON}"),
        ("{Dense} airspace consolidation of the {lobe}", f"+{_CON}"),
        ("The {lobe} is consolidated", f"+{_CON}"),
        ("There is {lobe} consolidation with air bronchograms", f"+{_CON}"),
    ),
    "Pleural Effusion": (
        ("There is a {size} {side} pleural effusion", "+Pleural Effusion"),
        ("{Size} {side} pleural effusion is present", "+Pleural Effusion"),
        ("Blunting of the {side} costophrenic angle is compatible with a {size} pleural effusion", "+Pleural Effusion"),
        ("There is a {size} {side} pleural effusion with a meniscus", "+Pleural Effusion"),
        ("A {size} layering effusion is seen on the {side}", "+Pleural Effusion"),
        ("{Size} {side} pleural fluid is noted", "+Pleural Effusion"),
    ),
    "Pneumothorax": (
        ("There is a {size} {side} pneumothorax", "+Pneumothorax"),
        ("{Size} {side} apical pneumothorax is present with a visible pleural line", "+Pneumothorax"),
        (
            "A {side} pleural line is seen without lung markings beyond it, consistent with a {size} pneumothorax",
            "+Pneumothorax",
        ),
        ("{Size} {side} pneumothorax with partial collapse of the lung", "+Pneumothorax"),
        ("There is a {side} sided pneumothorax, {size} in size", "+Pneumothorax"),
    ),
    "Cardiomegaly": (
        ("The heart is {gradely} enlarged", "+Cardiomegaly"),
        ("There is {grade} cardiomegaly", "+Cardiomegaly"),
        ("{Grade} cardiac enlargement is noted", "+Cardiomegaly"),
        ("Cardiomegaly is present", "+Cardiomegaly"),
        ("The cardiac silhouette is {gradely} enlarged", "+Cardiomegaly"),
        ("Heart size is {gradely} enlarged", "+Cardiomegaly"),
    ),
    "Edema": (
        ("There is pulmonary edema of {grade} degree", "+Edema"),
        ("{Grade} interstitial pulmonary edema is present", "+Edema"),
        ("Perihilar haziness and vascular indistinctness are consistent with {grade} hydrostatic edema", "+Edema"),
        ("Bilateral perihilar opacities reflect {grade} alveolar edema", f"+{_OPA},+Edema"),
        ("{Grade} vascular congestion with interstitial edema", "+Edema"),
    ),
    "Atelectasis": (
        ("There is {side} basilar atelectasis", "+Atelectasis"),
        ("Linear opacities at the {side} base reflect atelectasis", f"+{_OPA},+Atelectasis"),
        ("{Grade} atelectasis is seen at the {side} lung base", "+Atelectasis"),
        ("Plate-like atelectasis at the {side} base", "+Atelectasis"),
        ("Streaky {side} basilar opacities are likely atelectasis", f"+{_OPA},?Atelectasis"),
        ("There is volume loss at the {side} base consistent with atelectasis", "+Atelectasis"),
    ),
    "Lung Lesion": (
        ("There is a {mm} mm {lesion} in the {lobe}", "+Lung Lesion"),
        ("A {mm} mm rounded {lesion} projects over the {lobe}", "+Lung Lesion"),
        ("{Lesion} in the {lobe} measures {mm} mm", "+Lung Lesion"),
        ("Well-defined pulmonary {lesion} in the {lobe}", "+Lung Lesion"),
    ),
}

IMPRESSIONS: dict[str, tuple[Pattern, ...]] = {
    "Pneumonia": (
        ("{Lobe} pneumonia", f"+{_PNA}"),
        ("There is {lobe} pneumonia", f"+{_PNA}"),
        ("Findings consistent with {lobe} pneumonia", f"+{_PNA}"),
        ("Findings suggesting {lobe} pneumonia", f"?{_PNA}"),
        ("{Dense} opacity in the {lobe}, concerning for pneumonia", f"+{_OPA},?{_PNA}"),
        ("{Lobe} consolidation compatible with pneumonia", f"+{_CON},+{_PNA}"),
        ("{Lobe} opacity likely represents pneumonia", f"+{_OPA},?{_PNA}"),
        ("Findings are most compatible with {lobe} pneumonia", f"+{_PNA}"),
        ("Acute pneumonia in the {lobe}", f"+{_PNA}"),
        ("{Lobe} consolidation", f"+{_CON}"),
    ),
    "Consolidation": (
        ("{Lobe} consolidation", f"+{_CON}"),
        ("{Dense} consolidation in the {lobe}", f"+{_CON}"),
        ("{Lobe} consolidation, possibly aspiration or pneumonia", f"+{_CON},?{_PNA}"),
    ),
    "Pleural Effusion": (
        ("{Size} {side} pleural effusion", "+Pleural Effusion"),
        ("There is a {size} {side} pleural effusion", "+Pleural Effusion"),
    ),
    "Pneumothorax": (
        ("{Size} {side} pneumothorax", "+Pneumothorax"),
        ("There is a {size} {side} pneumothorax", "+Pneumothorax"),
        ("{Side} pneumothorax", "+Pneumothorax"),
    ),
    "Cardiomegaly": (
        ("Cardiomegaly of {grade} degree", "+Cardiomegaly"),
        ("Cardiomegaly is seen", "+Cardiomegaly"),
        ("Enlarged heart", "+Cardiomegaly"),
    ),
    "Edema": (
        ("Pulmonary edema, {grade}", "+Edema"),
        ("There is {grade} cardiogenic edema", "+Edema"),
        ("Findings of {grade} congestive heart failure with pulmonary edema", "+Edema"),
    ),
    "Atelectasis": (
        ("{Side} basilar atelectasis", "+Atelectasis"),
        ("{Grade} {side} basilar atelectasis", "+Atelectasis"),
    ),
    "Lung Lesion": (
        ("{Lobe} {lesion}, CT is recommended", "+Lung Lesion"),
        ("{mm} mm {lesion} in the {lobe}", "+Lung Lesion"),
    ),
}

ABSENT: dict[str, tuple[Pattern, ...]] = {
    "Pneumonia": (
        ("There is no radiographic evidence of pneumonia", f"-{_PNA}"),
        ("Negative for acute pneumonia", f"-{_PNA}"),
        ("There is no acute pneumonia", f"-{_PNA}"),
        ("No findings to suggest pneumonia", f"-{_PNA}"),
        ("No focal opacity to suggest pneumonia", f"-{_OPA},-{_PNA}"),
    ),
    "Consolidation": (
        ("There is no focal consolidation", f"-{_CON}"),
        ("No lobar consolidation", f"-{_CON}"),
        ("The lungs are clear without focal consolidation", f"-{_CON},-{_OPA}"),
        ("No focal airspace consolidation is seen", f"-{_CON}"),
    ),
    "Pleural Effusion": (
        ("There is no layering pleural effusion", "-Pleural Effusion"),
        ("No pleural fluid is seen", "-Pleural Effusion"),
        ("A pleural effusion is not identified", "-Pleural Effusion"),
        ("The costophrenic angles are sharp without effusion", "-Pleural Effusion"),
    ),
    "Pneumothorax": (
        ("There is no visible pneumothorax", "-Pneumothorax"),
        ("Pneumothorax is not evident", "-Pneumothorax"),
        ("The study is negative for pneumothorax", "-Pneumothorax"),
    ),
    "Cardiomegaly": (
        ("Heart size is normal", "-Cardiomegaly"),
        ("The heart is normal in size", "-Cardiomegaly"),
        ("The cardiac silhouette is within normal limits", "-Cardiomegaly"),
        ("The cardiomediastinal silhouette is normal", "-Cardiomegaly,-Enlarged Cardiomediastinum"),
        ("There is no overt cardiomegaly", "-Cardiomegaly"),
    ),
    "Edema": (
        ("There is no pulmonary edema", "-Edema"),
        ("No evidence of pulmonary edema", "-Edema"),
        ("The pulmonary vasculature is normal without edema", "-Edema"),
    ),
    "Atelectasis": (("No atelectasis is seen", "-Atelectasis"),),
    "Lung Lesion": (
        ("No pulmonary nodule or mass is identified", "-Lung Lesion"),
        ("There is no suspicious nodule", "-Lung Lesion"),
    ),
}

# Negations that name several observations at once.
JOINT_ABSENT: tuple[Pattern, ...] = (
    ("No focal consolidation, pleural effusion, or pneumothorax", f"-{_CON},-Pleural Effusion,-Pneumothorax"),
    ("There is neither pleural effusion nor pneumothorax", "-Pleural Effusion,-Pneumothorax"),
    ("No pneumothorax, pleural effusion or focal consolidation is seen", f"-Pleural Effusion,-Pneumothorax,-{_CON}"),
    (
        "There is no sign of pneumothorax, pleural effusion, or pulmonary edema",
        "-Pneumothorax,-Pleural Effusion,-Edema",
    ),
)

COURSES: dict[str, tuple[str, ...]] = {
    "new": ("new since the prior study", "new compared to the prior examination"),
    "unchanged": ("unchanged from prior", "stable compared with the prior radiograph", "not significantly changed"),
    "increased": ("increased since the prior study", "worse than on the prior examination"),
    "decreased": ("decreased compared to the prior study", "improved since the prior examination"),
}
RESOLVED = ("The previously seen {what} has resolved", "Interval resolution of the {what}", "{What} is no longer seen")

NORMAL: tuple[Pattern, ...] = (
    ("No acute cardiopulmonary process", "+No Finding"),
    ("No acute cardiopulmonary abnormality", "+No Finding"),
    ("Normal chest radiograph", "+No Finding"),
    ("No acute intrathoracic process", "+No Finding"),
)
CLEAR: tuple[Pattern, ...] = (
    ("The lungs are clear", f"-{_OPA}"),
    ("Lungs are well expanded and clear", f"-{_OPA}"),
    ("The lung fields are clear bilaterally", f"-{_OPA}"),
)

DEVICES: dict[str, tuple[str, ...]] = {
    "endotracheal tube": ("An endotracheal tube terminates {cm} cm above the carina", "ET tube in standard position"),
    "nasogastric tube": (
        "An enteric tube courses below the diaphragm with its tip in the stomach",
        "Nasogastric tube ends in the stomach",
    ),
    "central line": (
        "A {side} internal jugular central venous catheter ends in the lower SVC",
        "{Side} central line tip projects over the SVC",
    ),
    "picc": ("A {side} PICC terminates at the cavoatrial junction", "{Side} PICC line ends in the mid to low SVC"),
    "pacemaker": (
        "A {side} chest wall pacemaker with leads in the expected position",
        "{Side} sided pacemaker leads end in the right heart",
    ),
    "sternal wires": ("Median sternotomy wires are intact", "The patient is status post sternotomy with intact wires"),
    "chest tube": ("A {side} chest tube is in place", "{Side} pleural drainage catheter ends at the apex"),
    "ecg leads": ("External monitoring leads overlie the chest",),
}

NEUTRAL = (
    "The osseous structures are unremarkable",
    "No acute osseous abnormality",
    "Degenerative changes are seen in the thoracic spine",
    "The mediastinal contours are unremarkable",
    "The hilar contours are normal",
    "The aorta is tortuous",
    "Low lung volumes accentuate the bronchovascular markings",
    "The patient is slightly rotated",
    "Imaged upper abdomen is unremarkable",
    "Clinical correlation is recommended",
    "The trachea is midline",
    "There is no free air below the right hemidiaphragm",
)
CLOSING = (
    "Findings were discussed with Dr. ___ by telephone at 3:15 p.m. on the day of the study",
    "Recommend follow-up radiographs after treatment",
    "Short-term follow up is recommended",
    "Dr. ___ was notified by e-mail",
)
INDICATIONS = (
    "cough and fever",
    "shortness of breath",
    "chest pain",
    "hypoxia",
    "status post fall",
    "fever, evaluate for pneumonia",
    "dyspnea, assess for edema",
    "line placement",
    "preoperative evaluation",
    "altered mental status",
    "follow up",
)
