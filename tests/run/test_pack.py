"""An archive of a study: the same bytes twice, nothing but hashes of patients, and cells that its predictions give again."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.report.compare import Run, compare
from mlip.errors import UserError
from mlip.run.pack import pack
from mlip.run.unpack import unpack
from tests.benchmarks.simulated import THREE_SEEDS, World, make_world


def hashed(frame: pd.DataFrame) -> pd.DataFrame:
    """Simulated predictions with identifiers as a store has them."""
    for column in ("image_id", "patient_id"):
        frame[column] = [hashlib.sha256(value.encode()).hexdigest()[:16] for value in frame[column]]
    return frame


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Path]]:
    """A world with a control that failed, a row without its second training, and its archive."""
    folder = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        split = {"rsna": {"reader": "rsna", "root": str(folder / "raw"), "split": f"lists:{folder}/mylists"}}
        patch.setattr("mlip.fingerprints._files", lambda _: [])
        siim = {"siim": {"reader": "siim", "root": str(folder / "raw")}}
        world = make_world(folder, patch, datasets={**split, **siim}, **THREE_SEEDS)
        for e in world.plan.evaluations:
            if (e.row, e.seed) != ("gamma", 1):
                world.predict(e.task, e.dataset, e.row, e.seed, hashed)
        world.paths.predictions("direct", "plain", "rsna", "constant", 0).unlink()
        world.fail_evaluation("direct", "rsna", "constant", f"{folder}/raw/p10/p1000001.jpg is broken")
        pack(world.plan, folder / "one.tar.gz")
        yield world, folder / "one.tar.gz"


def members(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]


def rewrite(file: Path, target: Path, change: Callable[[dict[str, bytes]], None], sums: bool = False) -> Path:
    """The archive with other content; ``sums``: with a manifest that says so."""
    content = members(file)
    change(content)
    if sums:
        manifest = json.loads(content["manifest.json"])
        manifest["files"] = {n: hashlib.sha256(c).hexdigest() for n, c in content.items() if n != "manifest.json"}
        content["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(target, "w:gz") as archive:
        for name, data in content.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return target


def test_the_same_study_gives_the_same_bytes(packed: tuple[World, Path], tmp_path: Path) -> None:
    world, file = packed
    pack(world.plan, tmp_path / "other name.tar.gz")
    assert (tmp_path / "other name.tar.gz").read_bytes() == file.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"other name.tar.gz"}


def test_the_manifest_says_what_is_in_it(packed: tuple[World, Path]) -> None:
    content = members(packed[1])
    manifest = json.loads(content.pop("manifest.json"))
    assert manifest["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    assert manifest["config"]["study"] == "simulated" and manifest["cells"]["failed"] and manifest["commit"]
    predicted = {name for name in content if name.endswith(".parquet")}
    assert set(manifest["predictions"]) == predicted and len(predicted) > 20
    assert manifest["config"]["datasets"]["rsna"]["split"] == "lists:mylists"


def test_no_folder_of_the_machine_is_in_it(packed: tuple[World, Path]) -> None:
    world, file = packed
    everything = gzip.decompress(file.read_bytes())
    assert str(file.parent).encode() not in everything and b"p1000001" not in everything
    assert b"is broken" in world.paths.failure("evaluate", "direct", "plain", "rsna", "constant", 0).read_bytes()


def test_raw_identifiers_and_texts_are_refused(
    packed: tuple[World, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, told = make_world(tmp_path / "raw", monkeypatch), make_world(tmp_path / "told", monkeypatch)
    raw.predict("probe", "rsna", "alpha")
    told.predict("probe", "rsna", "alpha", change=lambda f: hashed(f).assign(report="no effusion"))
    for world, problem in ((raw, "values of image_id are no hashes"), (told, "holds text in report")):
        with pytest.raises(UserError, match=problem):
            pack(world.plan, tmp_path / "x.tar.gz")
        assert not (tmp_path / "x.tar.gz").exists()


def test_its_cells_are_computed_again_and_compared_with_the_run(packed: tuple[World, Path], tmp_path: Path) -> None:
    world, file = packed
    manifest = unpack(file, tmp_path / "there", pages=True)
    cells = pd.read_csv(tmp_path / "there/results/simulated/cells.csv")
    assert manifest.cells["ok"] == (cells["status"] == "ok").sum() > 20
    assert set(cells["status"]) == {"ok", "failed", "pending", "skipped"}
    own = world.cells()
    assert cells["value"].round(6).tolist() == pytest.approx(own["value"].round(6).tolist(), nan_ok=True)
    again = Run.read(tmp_path / "there/results/simulated")
    assert compare(again, again).reproduces
    page = (tmp_path / "there/results/simulated.md").read_text(encoding="utf-8")
    assert "SIMULATED" in page and "Alpha" in page


def test_a_cell_that_the_predictions_do_not_give_is_found(packed: tuple[World, Path], tmp_path: Path) -> None:
    name = "results/simulated/cells.csv"

    def better(content: dict[str, bytes]) -> None:
        cells = pd.read_csv(io.BytesIO(content[name]))
        cells.loc[(cells["status"] == "ok") & (cells["method"] == "gamma"), "value"] += 0.001
        cells.loc[(cells["status"] == "ok") & (cells["method"] == "alpha"), "value"] += 0.001
        content[name] = cells.to_csv(index=False).encode()

    with pytest.raises(UserError, match=r"cells are not what its predictions say \(direct plain rsna"):
        unpack(rewrite(packed[1], tmp_path / "x.tar.gz", better, sums=True), tmp_path / "there")
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.update({"results/simulated/made.json": b"{}"}), r"made\.json is not what was packed"),
        (lambda c: c.update({"../evil": b"x"}), r"holds '\.\./evil'"),
        (lambda c: c.pop("results/simulated/made.json"), "lacks 1 files"),
        (lambda c: c.update({"manifest.json": b'{"format": 2, "commit": "abc"}'}), "of format 2.*use the version of commit abc"),
        (lambda c: c.update({"manifest.json": b'{"format": 1}'}), "study: Field required"),
        (lambda c: c.update({"manifest.json": c["manifest.json"].replace(b'"gamma"', b'"theirs"')}), "put the folder theirs under"),
    ],
)  # fmt: skip
def test_damage_is_named(
    packed: tuple[World, Path], tmp_path: Path, change: Callable[[dict[str, bytes]], None], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        unpack(rewrite(packed[1], tmp_path / "x.tar.gz", change), tmp_path / "there")
    assert not (tmp_path / "there").exists() and not (tmp_path / "evil").exists()


def test_a_cut_archive_is_refused(packed: tuple[World, Path], tmp_path: Path) -> None:
    (tmp_path / "cut.tar.gz").write_bytes(packed[1].read_bytes()[:-2000])
    with pytest.raises(UserError, match="cannot be read"):
        unpack(tmp_path / "cut.tar.gz", tmp_path / "there")
    with pytest.raises(UserError, match="there is no such archive"):
        unpack(tmp_path / "none.tar.gz", tmp_path / "there")
