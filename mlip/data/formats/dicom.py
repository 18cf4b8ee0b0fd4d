"""DICOM radiographs to 8-bit grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, apply_windowing

from mlip.data.formats.files import PICTURES, unreadable
from mlip.errors import UserError

# A value that breaks the rules of its type is judged where it is used; pydicom's warnings would print raw identifiers into logs.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
_WINDOWED = 2.0**16 - 1  # what a window gives at most, in the 16 bits that it is asked for
_NARROWEST = {"LINEAR": 1.0, "LINEAR_EXACT": 0.0, "SIGMOID": 0.0}  # C.11.2.1.2.1, C.11.2.1.3: width >= 1, > 0, > 0


def read_dicom(path: Path) -> np.ndarray:
    """Decode one radiograph to uint8 [H, W], bright = dense.

    The rule, in order (PS3.3 C.11.1, C.11.2; docs/datasets.md says it in words):

    1. modality LUT, else rescale slope and intercept where the file has both;
    2. the VOI LUT, else the first window whose width its function allows: its whole output range becomes 0..255;
    3. without either, pixels of 8 bits and fewer go from the lowest to the highest value that their bits (or their
       modality LUT's) can hold to 0..255, deeper ones from the film's lowest to its highest value;
    4. MONOCHROME1 is inverted.

    JPEG baseline and lossless, JPEG 2000 and RLE are decoded by pydicom with pylibjpeg, which also masks unused bits.

    Raises
    ------
    UserError : the file is missing, truncated, no DICOM, or not one grey frame; its rescale slope is 0 or not finite.
    """
    try:
        data = pydicom.dcmread(path)
        photometric, frames = str(data.PhotometricInterpretation), int(data.get("NumberOfFrames") or 1)
        if photometric not in ("MONOCHROME1", "MONOCHROME2") or frames != 1 or int(data.SamplesPerPixel) != 1:
            raise UserError(
                f"holds {photometric} pixels in {frames} frames, not one grey frame", where=path, fix="leave it out"
            )
        stored = data.pixel_array
        low, high = int(stored.min()), int(stored.max())
        if stored.ndim != 2 or stored.dtype.kind not in "iu" or high - low >= 2**24:
            raise UserError(
                f"holds {stored.dtype} pixels of {low}..{high}, not the integers of a film",
                where=path,
                fix="leave it out",
            )
        # A grey level depends on the stored value alone, so the rule is worked out once for each value, not for each pixel.
        at = np.subtract(stored, low, dtype=np.int32)
        present = np.zeros(high - low + 1, bool)
        present[at.ravel()] = True
        levels = np.arange(low, high + 1, dtype=np.int64)
        grey = np.zeros(len(levels), np.uint8)
        grey[present] = grey_levels(levels[present], data)
    except FileNotFoundError:
        raise UserError("is missing", where=path, fix="complete the download") from None
    except UserError as error:
        raise UserError(error.problem, where=path, fix=error.fix) from None
    except Exception as error:  # pydicom and its decoders raise a dozen unrelated types for damaged files
        raise unreadable(path, error) from None
    return (255 - grey if photometric == "MONOCHROME1" else grey)[at]


def dicom_header(path: Path) -> pydicom.Dataset:
    """The data set without its pixels: cheap access to Rows, Columns, PatientID."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except FileNotFoundError:
        raise UserError("is missing", where=path, fix="complete the download") from None
    except Exception as error:
        raise unreadable(path, error) from None


def is_dicom(path: Path) -> bool:
    """Whether a film is a DICOM file: by its suffix, or where that is no picture's (exports often have none) by its preamble."""
    if path.suffix.lower() in (".dcm", ".dicom", *PICTURES):
        return path.suffix.lower() not in PICTURES
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header.

    Raises
    ------
    UserError : the file is missing or no DICOM, or its header names no size.
    """
    header = dicom_header(path)
    try:
        return int(header.Columns), int(header.Rows)
    except (AttributeError, TypeError, ValueError) as error:
        raise unreadable(path, error) from None


def grey_levels(levels: np.ndarray, data: Dataset) -> np.ndarray:
    """The grey level, uint8 [n], of each stored value (int64 [n], all that the film holds), before MONOCHROME1 is inverted."""
    values, low, high = _modality(levels, data)
    if _is_lut(data, "VOILUTSequence"):
        values, depth = _look_up(np.rint(values).astype(np.int64), data, "VOILUTSequence")
        low, high = 0.0, 2.0**depth - 1
    elif (window := _window(data)) is not None:
        with np.errstate(over="ignore"):  # the sigmoid of values far outside the window
            values, low, high = apply_windowing(values.astype(np.float64), *window), 0.0, _WINDOWED
    values = values.astype(np.float64)
    if high == low:
        return np.zeros(len(levels), np.uint8)
    return np.clip((values - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)


def _modality(levels: np.ndarray, data: Dataset) -> tuple[np.ndarray, float, float]:
    """Modality values of the stored ones, and those that become 0 and 255 where the file says no more."""
    bits = int(data.BitsStored)
    if _is_lut(data, "ModalityLUTSequence"):
        values, bits = _look_up(levels, data, "ModalityLUTSequence")
        ends = np.array([0.0, 2.0**bits - 1])
    else:
        slope, intercept = (data.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
        # An empty element is an absent one, and one without the other means nothing (C.11.1.1: both or neither).
        given = not any(v is None or v == "" for v in (slope, intercept))
        slope, intercept = (float(slope), float(intercept)) if given else (1.0, 0.0)
        if slope == 0 or not np.isfinite([slope, intercept]).all():
            raise UserError(f"has the rescale slope {slope:g} and intercept {intercept:g}", fix="leave it out")
        values = np.asarray(apply_modality_lut(levels, data)) if given else levels
        signed = int(data.PixelRepresentation) == 1
        ends = (np.array([0.0, 2.0**bits - 1]) - (2 ** (bits - 1) if signed else 0)) * slope + intercept
    if bits > 8:
        ends = values
    return values, float(ends.min()), float(ends.max())


def _is_lut(data: Dataset, name: str) -> bool:
    """Whether the file has a look-up table there, not an empty sequence or item."""
    item = next(iter(data.get(name) or ()), None)
    return item is not None and None not in (item.get("LUTDescriptor"), item.get("LUTData"))


def _look_up(values: np.ndarray, data: Dataset, name: str) -> tuple[np.ndarray, int]:
    """The values through a table, and the bits of its entries."""
    item = data[name].value[0]
    entries, first, depth = (int(v) for v in item.LUTDescriptor)
    if not 1 <= depth <= 16:
        raise ValueError(f"{name}: {depth} bits per entry")
    # Said to be 16 bits deep and asked only within the table: pydicom keeps places in the entries' type, where they wrap.
    item["LUTDescriptor"].value = [entries, first, 16]
    apply = apply_modality_lut if name == "ModalityLUTSequence" else apply_voi_lut
    return np.asarray(apply(np.clip(values, first, first + (entries or 2**16) - 1), data)), depth


def _window(data: Dataset) -> tuple[Dataset, int] | None:
    """What pydicom needs to apply the first valid window, and which one it is; None without any.

    A width that its function does not allow (0, negative, empty) is no window. The output range is always 16 bits: pydicom
    would turn it round for a negative slope.
    """
    centres, widths = (_numbers(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = str(data.get("VOILUTFunction") or "LINEAR").strip().upper()
    pairs = list(zip(centres, widths, strict=False))
    if not any(np.isfinite(pair).all() for pair in pairs):
        return None
    if function not in _NARROWEST:
        raise UserError(f"has the unknown VOI LUT function {function[:20]!r}", fix="leave it out")
    least = _NARROWEST[function]
    for index, (centre, width) in enumerate(pairs):
        if np.isfinite([centre, width]).all() and (width >= least if least else width > 0):
            window = Dataset()
            window.PhotometricInterpretation, window.PixelRepresentation = "MONOCHROME2", 0
            window.BitsStored, window.VOILUTFunction = 16, function
            window.add(data["WindowCenter"])
            window.add(data["WindowWidth"])
            return window, index
    return None


def _numbers(value: object) -> list[float]:
    """The values of a decimal string, NaN where one is empty."""
    values = [] if value is None else [value] if isinstance(value, (str, float, int)) else list(value)  # type: ignore[call-overload]
    return [float("nan") if v is None or v == "" else float(v) for v in values]
