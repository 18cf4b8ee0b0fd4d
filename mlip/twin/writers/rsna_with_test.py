"""RSNA stage 2 with its test films and their labels, as the division ``maco-2024`` needs them; else as ``rsna``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mlip.twin.writers import rsna
from mlip.twin.writers._films import whole_folder

TRAIN, TEST = ("stage_2_train_images", "stage_2_train_labels.csv"), ("stage_2_test_images", "stage_2_test_labels.csv")
SHARE = 3000 / 29684  # of all films of the challenge


def write(folder: Path, anatomy_path: Path, images: int, hospital: str, size: int, seed: int, workers: int) -> None:
    """Write ``images`` patients with one film each; the last ones, a tenth, are the test films.

    Their table has the columns of the training films'. The challenge published these labels after its end; what the file is
    called is ours.
    """
    with whole_folder(folder) as scratch:
        whole = scratch / "whole"
        rsna.write(whole, anatomy_path, images, hospital, size, seed, workers)
        for path in whole.iterdir():
            path.rename(scratch / path.name)
        whole.rmdir()
        labels = pd.read_csv(scratch / TRAIN[1])
        patients = list(dict.fromkeys(labels["patientId"]))
        tested = patients[-max(1, round(SHARE * images)) :]
        (scratch / TEST[0]).mkdir()
        for patient in tested:
            (scratch / TRAIN[0] / f"{patient}.dcm").rename(scratch / TEST[0] / f"{patient}.dcm")
        test = labels["patientId"].isin(tested)
        labels[~test].to_csv(scratch / TRAIN[1], index=False)
        labels[test].to_csv(scratch / TEST[1], index=False)
        truth = pd.read_parquet(scratch / "truth.parquet")
        names = truth["path"].str.rsplit("/", n=1).str[-1]
        moved = names.str.removesuffix(".dcm").isin(tested)
        truth.loc[moved, "path"] = f"{TEST[0]}/" + names[moved]
        truth.to_parquet(scratch / "truth.parquet", index=False)
