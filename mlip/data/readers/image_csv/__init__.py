"""Films of one's own and a table of them, whose columns the study names (docs/own-data.md)."""

from mlip.data.readers.image_csv.reader import ImageCsv

READER = ImageCsv()
