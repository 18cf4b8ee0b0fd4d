"""``make bench``: measured speed of the parts that were built for it, as ratios against a stated alternative.

Both sides of a ratio run in turn in this process, so that a shared machine's moods hit both; the best of a few runs is
printed. Nothing here is a test: a slow machine fails nothing.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def best(actions: dict[str, Callable[[], object]], repeats: int = 3) -> dict[str, float]:
    """Best wall-clock seconds of each action over ``repeats`` interleaved runs."""
    seconds = dict.fromkeys(actions, float("inf"))
    for _ in range(repeats):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


def loader() -> str:
    """Batches out of the memory-mapped store against decoding the files anew, 224 px."""
    import cv2

    from mlip.data.pixels import load, to_tensor

    count, size = 2000, 224
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, size, size))
        smooth = cv2.resize(rng.integers(0, 255, (64, 16, 16), dtype=np.uint8).transpose(1, 2, 0), (size, size))
        for row in range(count):
            store[row] = smooth[:, :, row % 64]
        store.flush()
        files = [folder / f"{n}.jpg" for n in range(128)]
        for n, path in enumerate(files):
            cv2.imwrite(str(path), smooth[:, :, n % 64])
        batches = np.split(rng.permutation(count)[: 48 * 40], 40)

        def mapped() -> None:
            for rows in batches:
                to_tensor(load(store, rows))

        def decoded() -> None:
            images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in files]
            to_tensor(np.stack([i for i in images if i is not None]))

        seconds = best({"mapped": mapped, "decoded": decoded})
    rates = 48 * 40 / seconds["mapped"], len(files) / seconds["decoded"]
    return f"loader: {rates[0]:.0f} images/s from the map, {rates[1]:.0f} decoding jpg files: ratio {rates[0] / rates[1]:.1f}"


def store(counts: tuple[int, int] = (500, 4000)) -> str:
    """Peak memory of building the store at 224 px, few films against many, each in a fresh process with one worker."""
    import cv2

    program = (  # VmHWM, because ru_maxrss of a child begins at what its parent held
        "import re, sys; from mlip.data.build import build_store; from mlip.study import load_study; "
        "build_store('nih', load_study(sys.argv[1]), 1); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    peaks, seconds = [], 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = np.random.default_rng(0).integers(0, 255, (16, 16), dtype=np.uint8)
        cv2.imwrite(str(folder / "film.png"), cv2.resize(small, (320, 320)))
        for count in counts:
            root = folder / str(count)
            (root / "images").mkdir(parents=True)
            names = [f"{i:08d}_000.png" for i in range(count)]
            for one in names:  # NIH ChestX-ray14's layout, every film a link to one file
                os.link(folder / "film.png", root / "images" / one)
            rows = "".join(f"{one},No Finding,{i},PA\n" for i, one in enumerate(names))
            (root / "Data_Entry_2017.csv").write_text(
                "Image Index,Finding Labels,Patient ID,View Position\n" + rows, encoding="utf-8"
            )
            study = {
                "study": "bench", "title": "", "data_note": "", "work": str(root / "work"), "image_size": 224,
                "datasets": {"nih": {"reader": "nih", "root": str(root)}},
                "encoders": {"cnn": {"name": "resnet"}, "vit": {"name": "vit"}, "text": {}},
                "pretrain": {"datasets": ["nih"]}, "tasks": {},
            }  # fmt: skip
            (root / "study.json").write_text(json.dumps(study), encoding="utf-8")
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", program, str(root / "study.json")], check=True, capture_output=True, text=True
            )
            seconds = time.perf_counter() - started
            peaks.append(int(done.stdout) / 1024)
    return (
        f"store: peak memory {peaks[1]:.0f} MiB building {counts[1]} films, {peaks[0]:.0f} MiB building {counts[0]}: "
        f"ratio {peaks[1] / peaks[0]:.2f}; {counts[1] / seconds:.0f} films/s with one worker, start included"
    )


def transport() -> str:
    """POT's batched solver against POT one problem at a time: 256 problems of 98 x 6, entropic, 100 iterations."""
    import ot
    import torch

    from mlip.isbi24.transport import entropic_plan

    cost = torch.rand(256, 98, 6, generator=torch.Generator().manual_seed(0))
    a, b = torch.full((256, 98), 1 / 98), torch.full((256, 6), 1 / 6)

    def one_by_one() -> None:
        for c, x, y in zip(cost, a, b, strict=True):
            ot.sinkhorn(x, y, c, 0.05, method="sinkhorn_log", numItermax=100, stopThr=0, warn=False)

    seconds = best({"batched": lambda: entropic_plan(cost, a, b, 0.05, 100), "single": one_by_one})
    ratio = seconds["single"] / seconds["batched"]
    return f"transport: batched {seconds['batched']:.2f} s, one by one {seconds['single']:.2f} s: ratio {ratio:.1f}"


def depthwise() -> str:
    """A depthwise layer of EfficientNet-Lite0 on 4 x 4 cells, and the whole encoder's step, against oneDNN's convolutions."""
    import copy

    import torch
    from torch import Tensor, nn

    from mlip.encoders.depthwise import SmallMapDepthwise, use_small_maps
    from mlip.encoders.timm_models import timm_model
    from mlip.study import ImageEncoderConfig

    torch.set_num_threads(1)
    theirs = nn.Conv2d(1152, 1152, 5, padding=2, groups=1152, bias=False).to(memory_format=torch.channels_last)
    ours = copy.deepcopy(theirs)
    use_small_maps(nn.Sequential(ours))
    assert isinstance(ours, SmallMapDepthwise)
    plain = timm_model(ImageEncoderConfig(name="tf_efficientnet_lite0"), "cnn", 64).to(
        memory_format=torch.channels_last
    )
    mended = copy.deepcopy(plain)
    use_small_maps(mended)
    maps = torch.randn(48, 1152, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    images = torch.randn(48, 3, 64, 64).contiguous(memory_format=torch.channels_last)

    def step(module: nn.Module, x: Tensor) -> None:
        module(x).sum().backward()

    seconds = best(
        {
            "layer": lambda: step(ours, maps),
            "layer before": lambda: step(theirs, maps),
            "encoder": lambda: step(mended, images),
            "encoder before": lambda: step(plain, images),
        },
        5,
    )
    ratios = {name: seconds[f"{name} before"] / seconds[name] for name in ("layer", "encoder")}
    return (
        f"depthwise: a layer of 1152 channels on 4 x 4 cells {1000 * seconds['layer']:.0f} ms, oneDNN "
        f"{1000 * seconds['layer before']:.0f} ms: ratio {ratios['layer']:.1f}; EfficientNet-Lite0 on 48 films of 64 px, forward and "
        f"backward, {1000 * seconds['encoder']:.0f} ms, before {1000 * seconds['encoder before']:.0f} ms: ratio {ratios['encoder']:.1f}"
    )


def films() -> str:
    """Virtual films at 224 px from base projections against projecting a warped volume for each film."""
    from mlip.study import TwinConfig
    from mlip.twin.anatomy import build_anatomies
    from mlip.twin.writers import mimic_cxr

    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "anatomy.npz"
        started = time.perf_counter()
        build_anatomies(path, TwinConfig(anatomies=4, size=224, datasets={}), 0, cores)
        volume = (time.perf_counter() - started) / 4
        started = time.perf_counter()
        mimic_cxr.write(Path(name) / "raw", path, 400, "reference", 224, 0, cores)
        rate = 400 / (time.perf_counter() - started)
    return f"twin: {rate:.0f} films/s written, {1 / volume:.2f} films/s if each projected its own volume: ratio {rate * volume:.0f}"


def gloria() -> str:
    """GLoRIA's local loss, vectorised against a loop over reports (prints its own lines)."""
    from tests.losses.bench_gloria_local import main

    main(2)
    return "gloria: B=48, 768-d, 19x19 patches; the ratios stand in the lines above"


FULL_NIH = {"films": 25_596, "patients": 2_797, "labels": 14}  # the test part of the release


def tables() -> str:
    """Cells at the full size of NIH's test part: 8 methods, 3 seeds, 11 label draws; two processes against one, each measured
    in a process of its own, for the memory.
    """

    def run(part: str, *arguments: object) -> str:
        code = f"from benchmarks.speed import {part}; {part}(*{arguments!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    with tempfile.TemporaryDirectory() as name:
        run("write_nih", name, *FULL_NIH.values())
        lines = [run("compute_nih", name, workers).splitlines()[-1] for workers in (1, 2)]
    one, two = (float(line.split(": ")[-1].split(" s ")[0]) for line in lines)
    return "\n".join([*lines, f"tables: one process takes {one / two:.1f} times as long as two"])


def _nih_plan(folder: str) -> Plan:
    from benchmarks.plan import resolve
    from mlip.paths import ROOT
    from mlip.study import load_study, parse_study

    raw = load_study(ROOT / "config" / "smoke.yaml").model_dump(mode="json")
    methods = ["convirt", "gloria", "mgca", "cvpr24", "isbi24"]
    again = {f"{name}-again": {"method": name, "seed": 10} for name in methods[:3]}
    raw |= {
        "work": folder, "results": folder, "twin": None, "analyses": [], "statistics": {"bootstrap": 1000},
        "datasets": {"nih": {"reader": "nih", "root": folder}}, "methods": {"include": methods, "variants": again},
        "pretrain": {**raw["pretrain"], "datasets": ["nih"], "seeds": [0, 1, 2]},
        "tasks": {"linear_probe": {"datasets": ["nih"], "fractions": [1, 10, 100], "draws": 5}},
    }  # fmt: skip
    return resolve(parse_study(raw, where="speed"), look=False)


def write_nih(folder: str, films: int, patients: int, labels: int) -> None:
    """Predictions of this size: noise with some signal."""
    import pandas as pd

    from benchmarks.scores.predictions import write_predictions

    plan, rng = _nih_plan(folder), np.random.default_rng(0)
    who = np.sort(rng.integers(0, patients, films))
    truth = rng.random((labels, films)) < 0.05
    names = [f"label {k:02d}" for k in range(labels)]
    for e in plan.evaluations:
        parts = []
        for fraction, draws in plan.blocks[0].plan.items():
            for draw in draws:
                score = rng.normal(size=truth.shape) + truth
                part = {
                    "image_id": np.tile(np.char.mod("%016d", np.arange(films)), labels),
                    "patient_id": np.tile(np.char.mod("%016d", who), labels),
                    "fraction": fraction, "draw": draw, "label": np.repeat(names, films),
                    "y": truth.ravel().astype(np.int8), "p": (1 / (1 + np.exp(-score))).ravel().astype(np.float32),
                }  # fmt: skip
                parts.append(pd.DataFrame(part))
        cell = (e.task, e.protocol, e.dataset, e.row, e.seed)
        meta = {"seconds": 0.0, "fingerprint": plan.evaluation(*cell).key}
        write_predictions(pd.concat(parts), plan.paths.predictions(*cell), meta)


def compute_nih(folder: str, workers: int) -> None:
    """The cells of what :func:`write_nih` wrote; prints seconds, and the memory of this process and the largest of the others."""
    from benchmarks.cells import compute

    plan = _nih_plan(folder)
    started = time.perf_counter()
    cells = compute(plan, workers).cells
    seconds = time.perf_counter() - started
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    used = own.ru_utime + others.ru_utime
    memory = (own.ru_maxrss + (workers * others.ru_maxrss if workers > 1 else 0)) / 2**20
    print(
        f"tables: {int((cells['status'] == 'ok').sum())} cells of {int(cells['n_test'].max())} films, {len(plan.rows)} methods, 3 seeds, "
        f"11 label draws, 1000 resamples, {workers} process{'es' * (workers > 1)}: {seconds:.0f} s ({used:.0f} CPU s), "
        f"at most {memory:.1f} GiB"
    )


def main() -> None:
    print(f"{os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}")
    for part in (loader, store, transport, depthwise, films, gloria, tables):
        print(part(), flush=True)


if __name__ == "__main__":
    main()
