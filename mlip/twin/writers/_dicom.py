"""Films as DICOM files, in the spellings that real archives mix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian


def write_dicom(
    path: Path,
    image: np.ndarray,
    *,
    patient: str,
    view: str,
    sex: str,
    age: int,
    study_uid: str,
    series_uid: str,
    uid: str,
    form: str = "plain",
) -> None:
    """Write a grey film, uint8 [H, W] with bright = dense.

    ``form``: ``plain`` (8 bits, MONOCHROME2), ``inverted`` (MONOCHROME1), ``deep`` (12 bits with a window that spans
    them) or ``rescaled`` (12 bits stored at half scale with RescaleSlope 2 and a window).
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = ComputedRadiographyImageStorage, uid
    data.StudyInstanceUID, data.SeriesInstanceUID = study_uid, series_uid
    data.PatientID = data.PatientName = patient
    data.PatientSex, data.PatientAge = sex, f"{age:03d}Y"
    data.Modality, data.BodyPartExamined, data.ViewPosition = "CR", "CHEST", view
    data.ConversionType = "WSD"
    data.Rows, data.Columns = image.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.PixelSpacing = [0.139, 0.139]
    data.PhotometricInterpretation = "MONOCHROME1" if form == "inverted" else "MONOCHROME2"
    bits, pixels = 8, 255 - image if form == "inverted" else image
    if form in ("deep", "rescaled"):
        bits, pixels = 12, np.rint(image * (4095 / 255)).astype(np.uint16)
        top = 4095
        if form == "rescaled":
            pixels, top = pixels // 2, 4094
            data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 2, 0, "US"
        data.WindowCenter, data.WindowWidth = (top + 1) / 2, top + 1
    data.BitsStored, data.HighBit, data.BitsAllocated = bits, bits - 1, 8 if bits == 8 else 16
    raw = np.ascontiguousarray(pixels).tobytes()
    data.PixelData = raw + b"\0" * (len(raw) % 2)
    data["PixelData"].VR = "OB" if bits == 8 else "OW"
    data.save_as(path, enforce_file_format=True)
