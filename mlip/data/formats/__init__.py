"""File formats that several readers share: DICOM, run lengths, tables."""
