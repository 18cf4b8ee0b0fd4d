"""Mini data sets in the real layouts, written file by file: what the readers are tested on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from mlip.data.formats.rle import encode
from mlip.data.labels import CHEXPERT_LABELS
from mlip.study import Study, parse_study

FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")


def film(seed: int, height: int = 48, width: int = 40) -> np.ndarray:
    """A smooth random picture, uint8 [height, width]: distinct for each seed, and it survives JPEG."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 5), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def dicom(pixels: np.ndarray, photometric: str = "MONOCHROME2", bits: int = 8, **extra: Any) -> FileDataset:
    """A minimal computed-radiography file, uncompressed."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(pixels.sum())])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PatientID = "CR", "raw-patient-id"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated, data.BitsStored, data.HighBit = (8 if bits <= 8 else 16), bits, bits - 1
    data.PixelData = pixels.astype(np.uint8 if bits <= 8 else np.uint16).tobytes()
    for key, value in extra.items():
        setattr(data, key, value)
    return data


def write_dicom(path: Path, pixels: np.ndarray, **extra: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    dicom(pixels, **extra).save_as(path, enforce_file_format=True)


def write_mimic(root: Path, patients: int = 6, prefix: str = "mimic-cxr-2.0.0", zipped: bool = True) -> None:
    meta, split, chexpert = [], [], []
    for p in range(patients):
        subject, study = str(10000000 + p), str(50000000 + p)
        part = ("train", "train", "train", "train", "validate", "test")[p % 6]
        for view in ("PA", "LATERAL"):
            dicom_id = f"{subject}-{view}"
            meta.append({"dicom_id": dicom_id, "subject_id": subject, "study_id": study, "ViewPosition": view})
            split.append({"dicom_id": dicom_id, "study_id": study, "subject_id": subject, "split": part})
            write_image(root / "files" / "p10" / f"p{subject}" / f"s{study}" / f"{dicom_id}.jpg", film(p))
        findings = {name: "" for name in sorted(CHEXPERT_LABELS)} | {"Edema": 1.0 if p % 2 else -1.0, "Pneumonia": 0.0}
        chexpert.append({"subject_id": subject, "study_id": study, **findings})
        (root / "files" / "p10" / f"p{subject}" / f"s{study}.txt").write_text(
            f"FINDINGS: Film number {p}.\nIMPRESSION: Edema.\n", encoding="utf-8"
        )
    for kind, rows in (("metadata", meta), ("split", split), ("chexpert", chexpert)):
        text = pd.DataFrame(rows).to_csv(index=False)
        if zipped:
            with gzip.open(root / f"{prefix}-{kind}.csv.gz", "wt") as file:
                file.write(text)
        else:
            (root / f"{prefix}-{kind}.csv").write_text(text, encoding="utf-8")


def write_chexpert(root: Path, per_class: int = 4, small: bool = False) -> None:
    """``per_class`` exclusive positives of each competition finding (of Edema one fewer), some with a second film."""
    version = "CheXpert-v1.0-small" if small else "CheXpert-v1.0"
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
    patient = 0
    for part, count in (("train", per_class), ("valid", 1)):
        for label in (*FIVE, "none", "both"):
            for _ in range(count - (label == "Edema" and part == "train")):
                patient += 1
                for study, side in ((1, "frontal"), (1, "lateral"), (2, "frontal")):
                    path = f"{part}/patient{patient:05d}/study{study}/view1_{side}.jpg"
                    positive = (
                        {label: 1.0}
                        if label in FIVE
                        else {"Edema": 1.0, "Atelectasis": -1.0}
                        if label == "both"
                        else {}
                    )
                    if study == 2:
                        positive = {}
                    found = {name: "" for name in CHEXPERT_LABELS} | positive
                    rows[part].append(
                        {
                            "Path": f"{version}/{path}",
                            "Sex": "F",
                            "Age": 50,
                            "Frontal/Lateral": side.title(),
                            "AP/PA": "AP" if side == "frontal" else "",
                            **found,
                        }
                    )
                    write_image(root / path, film(patient * 10 + study))
    for part, table in rows.items():
        pd.DataFrame(table).to_csv(root / f"{part}.csv", index=False)


def write_rsna(root: Path, images: int = 12, same_as: dict[int, int] | None = None) -> None:
    """Every third film has pneumonia, every sixth two boxes. ``same_as[i] = j``: film i shows the pixels of film j."""
    rows = []
    for i in range(images):
        name = f"patient-{i:04d}"
        write_dicom(root / "stage_2_train_images" / f"{name}.dcm", film((same_as or {}).get(i, i), 48, 48))
        boxes = [(4, 6, 10, 20), (30, 8, 9, 18)][: 2 if i % 6 == 0 else 1] if i % 3 == 0 else []
        rows += [(name, x, y, w, h, 1) for x, y, w, h in boxes] or [(name, "", "", "", "", 0)]
    table = pd.DataFrame(rows, columns=["patientId", "x", "y", "width", "height", "Target"])
    table.sample(frac=1, random_state=1).to_csv(root / "stage_2_train_labels.csv", index=False)


def siim_masks(i: int, side: int = 48) -> list[np.ndarray]:
    """The masks of film i: none, one, or two (each its own row of the table)."""
    blank = np.zeros((side, side), np.uint8)
    first, second = blank.copy(), blank.copy()
    first[5:20, 3:9], second[30:40, 25:31] = 1, 1
    return [[], [first], [first, second]][i % 3]


def write_siim(root: Path, images: int = 12) -> None:
    lines = ["ImageId, EncodedPixels"]
    for i in range(images):
        name = f"1.2.276.{i}"
        write_dicom(root / "dicom-images-train" / f"study{i}" / f"series{i}" / f"{name}.dcm", film(i, 48, 48))
        lines += [f"{name}, {encode(mask)}" for mask in siim_masks(i)] or [f"{name}, -1"]
    (root / "train-rle.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_covidx(root: Path, images: int = 12, shared_patient: bool = False) -> None:
    for part, offset in (("train", 0), ("test", 100)):
        lines = []
        for i in range(images):
            patient = 0 if shared_patient and i == 0 else offset + i
            kind = ("normal", "pneumonia", "COVID-19")[i % 3]
            lines.append(f"{patient} {part}{i}.png {kind} cohen")
            write_image(root / part / f"{part}{i}.png", film(offset + i))
        (root / f"{part}_COVIDx9A.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_object_cxr(root: Path, images: int = 6) -> None:
    shapes = ["", "0 4 6 14 26", "1 2 2 12 8;2 20 30 28 34 22 40"]
    for part, offset in (("train", 0), ("dev", 100)):
        rows = [(f"{offset + i:05d}.jpg", shapes[i % 3]) for i in range(images)]
        for i, (name, _) in enumerate(rows):
            write_image(root / part / name, film(offset + i))
        pd.DataFrame(rows, columns=["image_name", "annotation"]).to_csv(root / f"{part}.csv", index=False)


NIH_FINDINGS = ("No Finding", "Effusion|Infiltration", "Pneumonia", "Hernia|Pleural_Thickening|Mass")


def write_nih(root: Path, images: int = 8) -> None:
    """Two films of each patient; the second film of the table has a box, the last patient is the official test part."""
    rows = [
        {
            "Image Index": f"{i // 2 + 1:08d}_{i % 2:03d}.png",
            "Finding Labels": NIH_FINDINGS[i % 4],
            "Follow-up #": i % 2,
            "Patient ID": i // 2 + 1,
            "Patient Age": 60,
            "Patient Gender": "F",
            "View Position": "PA" if i % 3 else "AP",
            "OriginalImage[Width": 2048,
            "Height]": 2048,
        }
        for i in range(images)
    ]
    for i, row in enumerate(rows):
        write_image(root / f"images_{i % 2 + 1:03d}" / "images" / str(row["Image Index"]), film(i, 64, 64))
    names = [str(row["Image Index"]) for row in rows]
    pd.DataFrame(rows).to_csv(root / "Data_Entry_2017.csv", index=False)
    (root / "BBox_List_2017.csv").write_text(
        f"Image Index,Finding Label,Bbox [x,y,w,h],,,\n{names[1]},Infiltrate,256.0,128.0,512.0,320.0,,,\n",
        encoding="utf-8",
    )
    (root / "train_val_list.txt").write_text("\n".join(names[:-2]) + "\n", encoding="utf-8")
    (root / "test_list.txt").write_text("\n".join(names[-2:]) + "\n", encoding="utf-8")


IU_CODES = (("normal",), ("Cardiomegaly/mild", "Opacity/lung/base/left"), ("No Indexing",))


def write_iu(root: Path, reports: int = 5) -> None:
    """Every second report names two films, every third was not coded. The films are colour files of equal channels, as the distributed ones are."""
    for i in range(reports):
        names = [f"CXR{i + 1}_IM-{k + 1:04d}-1001" for k in range(1 + i % 2)]
        for k, name in enumerate(names):
            write_image(root / "NLMCXR_png" / f"{name}.png", np.stack([film(10 * i + k)] * 3, axis=-1))
        images = "".join(f'<parentImage id="{name}"/>' for name in names)
        codes = "".join(f"<major>{code}</major>" for code in IU_CODES[i % 3])
        path = root / "ecgen-radiology" / f"{i + 1}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            '<eCitation><Abstract><AbstractText Label="COMPARISON">None.</AbstractText>'
            f'<AbstractText Label="FINDINGS">Film number {i} is clear.</AbstractText>'
            f'<AbstractText Label="IMPRESSION">{"Normal." if i % 2 else ""}</AbstractText></Abstract><MeSH>{codes}</MeSH>{images}'
            "</eCitation>",
            encoding="utf-8",
        )


def write_covid(root: Path, images: int = 8) -> None:
    """Frontal films and a lateral one that is left out; jpg and png, notes, lung boxes, masks for every second film."""
    found = ("Pneumonia/Viral/COVID-19", "No Finding", "todo", "Pneumonia/Bacterial")
    rows, entries, boxes = [], [], []
    for i in range(images):
        name = f"film-{i}.{'png' if i % 2 else 'jpg'}"
        view = "L" if i == images - 1 else ("PA", "AP", "AP Supine")[i % 3]
        notes = f"Patient {i // 2} had a cough." if i % 3 else ""
        rows.append((i // 2, found[i % 4], view, "X-ray", "images", name, notes))
        write_image(root / "images" / name, film(i, 60, 50))
        lungs = np.zeros((60, 50), np.uint8)
        lungs[10:50, 5:20] = lungs[10:50, 30:45] = 255
        if i % 2 == 0:
            write_image(root / "masks" / f"film-{i}.png", lungs)
        entries.append({"id": i, "file_name": name, "width": 50, "height": 60})
        boxes += [{"image_id": i, "category_id": k, "bbox": [5 + 25 * k, 10, 15, 40]} for k in (0, 1)]
    columns = ["patientid", "finding", "view", "modality", "folder", "filename", "clinical_notes"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "metadata.csv", index=False)
    coco = {"images": entries, "annotations": boxes}
    coco["categories"] = [{"id": k, "name": name} for k, name in enumerate(("Right Lung", "Left Lung"))]
    (root / "annotations").mkdir()
    (root / "annotations" / "annotations.json").write_text(json.dumps(coco), encoding="utf-8")


def write_image_csv(root: Path, images: int = 12) -> None:
    """Two films of each patient; the columns that the reader looks for where a study names no others."""
    for i in range(images):
        write_image(root / "films" / f"{i:03d}.png", film(i))
    table = pd.DataFrame({"image": [f"{i:03d}.png" for i in range(images)], "patient": [i // 2 for i in range(images)]})
    table.to_csv(root / "films.csv", index=False)


WRITERS = {
    "mimic_cxr": write_mimic,
    "chexpert": write_chexpert,
    "rsna": write_rsna,
    "siim": write_siim,
    "covidx": write_covidx,
    "object_cxr": write_object_cxr,
    "nih": write_nih,
    "iu_xray": write_iu,
    "covid_chestxray": write_covid,
    "image_csv": write_image_csv,
}


def study_of(tmp_path: Path, datasets: dict[str, dict[str, Any]], **extra: Any) -> Study:
    """A study on these data sets (reader and options by name; the root is ``tmp_path/<name>`` unless given)."""
    full = {name: {"reader": name, "root": str(tmp_path / name)} | config for name, config in datasets.items()}
    names = list(datasets)
    raw: dict[str, Any] = {
        "study": "test",
        "title": "Test",
        "data_note": "Data: written by the tests.",
        "work": str(tmp_path / "work"),
        "image_size": 32,
        "datasets": full,
        "encoders": {"cnn": {"name": "resnet"}, "vit": {"name": "vit"}, "text": {}},
        "pretrain": {"datasets": names[:1]},
        "tasks": {"linear_probe": {"datasets": names, "draws": 2, "fractions": [10, 100]}},
    }
    return parse_study(raw | extra, where="test study")
