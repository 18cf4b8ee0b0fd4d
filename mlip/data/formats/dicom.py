"""DICOM radiographs to 8-bit grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from mlip.data.formats.files import unreadable
from mlip.errors import UserError


def read_dicom(path: Path) -> np.ndarray:
    """Decode one radiograph to uint8 [H, W], bright = dense.

    The rule, in order: (1) rescale slope and intercept or modality LUT (PS3.3 C.11.1); (2) the VOI LUT, else the first
    window, where the file has one (C.11.2): its whole output range becomes 0..255; (3) without either, 8-bit pixels
    stay as they are and deeper ones are stretched from the image's minimum..maximum to 0..255; (4) MONOCHROME1 is
    inverted. JPEG baseline and lossless, JPEG 2000 and RLE are decoded by pydicom with pylibjpeg.

    Raises
    ------
    UserError : the file is missing, truncated, no DICOM, or not one grey frame.
    """
    try:
        data = pydicom.dcmread(path)
        stored = data.pixel_array
        photometric = str(data.PhotometricInterpretation)
        values, low, high = _scaled(stored, data)
    except FileNotFoundError:
        raise UserError("is missing", where=path, fix="complete the download") from None
    except Exception as error:  # pydicom and its decoders raise a dozen unrelated types for damaged files
        raise unreadable(path, error) from None
    if stored.ndim != 2 or not photometric.startswith("MONOCHROME"):
        raise UserError(
            f"holds {photometric} pixels of shape {stored.shape}, not one grey frame", where=path, fix="leave it out"
        )
    grey = np.clip((values - low) * (255.0 / max(high - low, 1e-6)), 0, 255).round().astype(np.uint8)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def dicom_header(path: Path) -> pydicom.Dataset:
    """The data set without its pixels: cheap access to Rows, Columns, PatientID."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except FileNotFoundError:
        raise UserError("is missing", where=path, fix="complete the download") from None
    except Exception as error:
        raise unreadable(path, error) from None


def _scaled(stored: np.ndarray, data: pydicom.Dataset) -> tuple[np.ndarray, float, float]:
    """Pixel values as float32 and the values that become 0 and 255."""
    rescaled = np.asarray(apply_modality_lut(stored, data))
    bits = int(data.BitsStored)
    if "VOILUTSequence" in data:
        depth = int(data.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(apply_voi_lut(rescaled, data)).astype(np.float32), 0.0, float(2**depth - 1)
    if "WindowCenter" in data and "WindowWidth" in data:
        windowed = np.asarray(apply_voi_lut(rescaled, data)).astype(np.float32)
        # pydicom maps the window onto the range that the stored bits span after the rescale.
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if data.PixelRepresentation else (0, 2**bits - 1)
        slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
        return windowed, low * slope + intercept, high * slope + intercept
    values = rescaled.astype(np.float32)
    if bits <= 8:
        return values, 0.0, 255.0
    return values, float(values.min()), float(values.max())
