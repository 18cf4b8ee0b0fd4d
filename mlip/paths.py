"""The path grammar: files are the only interface between stages (see ``docs/study.md``)."""

from __future__ import annotations

from pathlib import Path

from mlip.study import Study

ROOT = Path(__file__).resolve().parent.parent  # the checkout


class StudyPaths:
    """Where each stage of a study reads and writes. All paths are relative to the folder Snakemake runs in."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.work = study.work / study.study
        self.results = study.results / study.study
        self.leaderboard = study.results / f"{study.study}.md"
        self.audit = self.work / "audit.md"
        self.tokenizer = self.work / "tokenizer"
        self.knowledge = self.work / "knowledge"
        self.anatomy = self.work / "twin" / "anatomy.npz"
        self.cells = self.results / "cells.csv"
        self.contrasts = self.results / "contrasts.json"  # what the study says to the papers' claims
        self.maps = self.results / "maps"
        self.false_negatives = self.results / "false_negatives.md"
        self.parts = self.results / "parts.md"
        self.salt = study.work / ".salt"

    def resolved(self, content: str) -> Path:
        """The resolved study that the jobs of a run read; its name is decided by its content, so that no other run changes it."""
        return self.work / "resolved" / f"{content}.json"

    def made(self, stage: str, *names: object) -> Path:
        """What a job notes when it is done: {"fingerprint"} of what it made."""
        return self.work / "made" / stage / f"{'-'.join(map(str, names)) or stage}.json"

    def failure(self, stage: str, *names: object) -> Path:
        """Where a failed job leaves its reason."""
        return self.work / "failures" / stage / f"{'-'.join(map(str, names)) or stage}.json"

    def hospital(self, name: str) -> Path:
        """Folder that a virtual hospital of this study is written to."""
        return self.work / "raw" / name

    def raw(self, dataset: str) -> Path:
        """Folder in the data set's own layout."""
        return self.study.datasets[dataset].root

    def data(self, dataset: str) -> Path:
        """Folder of ``images.npy``, ``masks.npy``, ``records.parquet``, ``manifest.json``."""
        return self.work / "data" / dataset

    def splits(self, dataset: str) -> Path:
        return self.work / "splits" / f"{dataset}.parquet"

    def pretrain(self, method: str, seed: int | str) -> Path:
        """Folder of ``encoder.safetensors``, ``method.safetensors``, ``card.json``, ``metrics.jsonl``."""
        return self.work / "pretrain" / method / f"seed{seed}"

    def training_state(self, method: str, seed: int | str) -> Path:
        """Resumable state, outside the declared outputs so that Snakemake does not delete it when a job dies."""
        return self.work / "state" / method / f"seed{seed}.pt"

    def evaluation_state(self, task: str, protocol: str, dataset: str, method: str, seed: int | str) -> Path:
        """Folder of what an evaluation that trains for long keeps until it is done; outside the outputs too."""
        return self.work / "state" / "evaluate" / task / protocol / dataset / method / f"seed{seed}"

    def features(self, method: str, seed: int | str, dataset: str) -> Path:
        return self.work / "features" / method / f"seed{seed}" / f"{dataset}.safetensors"

    def predictions(self, task: str, protocol: str, dataset: str, method: str, seed: int | str) -> Path:
        return self.work / "predictions" / task / protocol / dataset / method / f"seed{seed}.parquet"
