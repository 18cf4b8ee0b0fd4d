"""Every column of every table of every reader: what is wrong in a cell is one line with file and row, or a stated rule."""

from __future__ import annotations

import csv
import gzip
import io
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlip.data import labels
from mlip.data.catalogue import readers
from mlip.data.formats import tables
from mlip.data.formats.tables import Column, read_table
from mlip.data.records import Record
from mlip.data.validation import validate_records
from mlip.errors import UserError
from tests.data.layouts import WRITERS

IN_CSV = ("mimic_cxr", "chexpert", "rsna", "siim", "object_cxr", "nih", "covid_chestxray")
Rows = list[list[str]]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a reader's mini data set; whoever changes a file there puts it back."""
    folder = tmp_path_factory.mktemp("layouts")

    def of(name: str) -> Path:
        if not (folder / name).exists():
            write: Any = WRITERS[name]
            write(folder / name, **({"per_class": 2} if name == "chexpert" else {}))
        return folder / name

    return of


def read(name: str, root: Path) -> list[Record]:
    """As the doctor and the run read it."""
    reader = readers()[name]
    options = reader.Options.model_validate({})
    reader.verify(root, options)
    records = reader.records(root, options)
    validate_records(records, root, name)
    assert all(isinstance(record.path.is_file(), bool) for record in records)
    return records


def columns_of(name: str, root: Path, patch: pytest.MonkeyPatch) -> dict[Path, tuple[Column, ...]]:
    """The tables that a reader reads and the columns it asks each for, seen while it reads."""
    seen: dict[Path, tuple[Column, ...]] = {}

    def spy(path: Path, columns: tuple[Column, ...], *rest: object, **named: object) -> object:
        seen[path] = max(seen.get(path, ()), tuple(columns), key=len)
        return read_table(path, columns, *rest, **named)  # type: ignore[arg-type]

    with patch.context() as within:
        for module in (labels, __import__(f"mlip.data.readers.{name}", fromlist=["x"])):
            if hasattr(module, "read_table"):
                within.setattr(module, "read_table", spy)
        read(name, root)
    return seen


def load(path: Path) -> Rows:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def dump(path: Path, rows: Rows, mark: str = "") -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    data = (mark + text.getvalue()).encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@contextmanager
def put_back(path: Path) -> Iterator[bytes]:
    """The file's bytes, which it holds again afterwards."""
    original = path.read_bytes()
    try:
        yield original
    finally:
        path.write_bytes(original)


def changed(rows: Rows, row: int, at: int, cell: str) -> Rows:
    return [[cell if (r, c) == (row, at) else v for c, v in enumerate(line)] for r, line in enumerate(rows)]


def outcome(name: str, root: Path) -> str:
    """The records, or the one line."""
    try:
        return repr(read(name, root))
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        assert error.fix
        return f"error: {error}"


def required(column: Column) -> bool:
    free = column.kind == "label" or (column.kind == "text" and not column.pattern)
    return not (column.optional or free)


def cases(column: Column, cell: str) -> Iterator[tuple[str, str]]:
    """Cells that may stand where ``cell`` stood, and what must become of each: the same records, a line, or either."""
    yield "", "line" if required(column) else "either"
    yield "  ", "line" if required(column) else "either"
    yield "NaN", "line" if required(column) else "either"
    if column.kind != "text" or column.pattern:
        yield f" {cell}\t", "same"
    if column.kind == "category":
        yield cell.swapcase(), "same"
    if column.kind in ("number", "label") or column.pattern or (column.kind == "category" and column.words):
        yield "left", "line"
    if column.kind in ("number", "label"):
        yield "inf", "line"
    if column.kind in ("id", "path"):
        yield "..", "line"
        yield "/etc/passwd", "line"
        yield "x" * 300, "line"
        yield cell.swapcase(), "either"


@pytest.mark.parametrize("name", IN_CSV)
def test_every_column_ends_in_a_line_or_in_a_rule(
    name: str, pristine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pristine(name)
    sound = outcome(name, root)
    assert not sound.startswith("error")
    wrong = []
    for path, columns in columns_of(name, root, monkeypatch).items():
        rows = load(path)
        places = {column.name: [cell.strip() for cell in rows[0]].index(column.name) for column in columns}
        said = [sum(bool(line[at]) for at in places.values()) for line in rows[1:]]
        row = 1 + said.index(
            max(said)
        )  # the row that says most: one without any cell but the tried one counts as empty
        for column in columns:
            at = places[column.name]
            tried = [(cell, want, changed(rows, row, at, cell), "") for cell, want in cases(column, rows[row][at])]
            tried += [
                ("(header twice)", "named", [[*line, line[at]] for line in rows], ""),
                ("(header of another case)", "named", changed(rows, 0, at, column.name.swapcase()), ""),
            ]
            if column is columns[0]:
                tried.append(("(byte order mark)", "same", rows, "\ufeff"))
                tried.append(("(empty row)", "same", [rows[0], [""] * len(rows[0]), *rows[1:]], ""))
            if column.kind == "label" and column.name != "Edema":  # fourteen alike: of the others, no number
                tried = [case for case in tried if case[0] == "left"]
            for cell, want, table, mark in tried:
                with put_back(path):
                    dump(path, table, mark)
                    got = outcome(name, root)
                line = f"{path.name}: line {row + 1}: " in got
                if column.name in ("view", "modality") and want == "line":
                    want = "left out"  # of covid_chestxray: rows of other views and modalities are not read
                found = {
                    "same": got == sound,
                    "line": line,
                    "left out": got.count("Record(") == sound.count("Record(") - 1,
                    "either": f"{path.name}: " in got or not got.startswith("error"),
                    "named": path.name in got and repr(column.name) in got,
                }[want]
                if not found:
                    wrong.append((path.name, column.name, cell, want, got[:300]))
    assert wrong == []


@pytest.mark.parametrize("name", [n for n in IN_CSV if n not in ("rsna", "siim")])
def test_a_row_that_is_there_twice_is_named(
    name: str, pristine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RSNA and SIIM list a film once for each of its boxes or masks."""
    root = pristine(name)
    for path, columns in columns_of(name, root, monkeypatch).items():
        if not any(column.unique for column in columns):
            assert path.name == "BBox_List_2017.csv"
            continue
        rows = load(path)
        with put_back(path):
            dump(path, [*rows, rows[1]])
            assert re.search(rf"{path.name}: line {len(rows) + 1}: '.*' is the same as in line 2", outcome(name, root))


@pytest.mark.parametrize("name", WRITERS)
def test_the_tables_of_a_reader_are_those_that_move_its_records(name: str, pristine: Callable[[str], Path]) -> None:
    root, reader = pristine(name), readers()[name]
    found = reader.tables(root, reader.Options.model_validate({}))
    assert found
    assert len(set(found)) == len(found)
    assert all(path.is_file() and path.name.endswith((".csv", ".csv.gz", ".txt", ".json", ".xml")) for path in found)
    sound = outcome(name, root)
    for path in found:  # a table that says nothing changes what is read; every file is one of the records' sources
        with put_back(path):
            path.write_bytes(b"")
            assert outcome(name, root) != sound, path
    assert outcome(name, root) == sound
    assert reader.tables(root / "nowhere", reader.Options.model_validate({})) == []


TABLES = {
    "mimic_cxr": {f"mimic-cxr-2.0.0-{kind}.csv.gz" for kind in ("metadata", "split", "chexpert")},
    "chexpert": {"train.csv", "valid.csv"},
    "rsna": {"stage_2_train_labels.csv"},
    "siim": {"train-rle.csv"},
    "covidx": {"train_COVIDx9A.txt", "test_COVIDx9A.txt"},
    "object_cxr": {"train.csv", "dev.csv"},
    "nih": {"Data_Entry_2017.csv", "BBox_List_2017.csv", "train_val_list.txt", "test_list.txt"},
    "covid_chestxray": {"metadata.csv", "annotations.json"},
    "iu_xray": {f"{i}.xml" for i in range(1, 6)},
    "image_csv": {"films.csv"},
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_tables_of_a_reader_by_name(name: str, pristine: Callable[[str], Path]) -> None:
    reader = readers()[name]
    assert {p.name for p in reader.tables(pristine(name), reader.Options.model_validate({}))} == TABLES[name]


NASTY = st.one_of(
    st.sampled_from(["", " ", "nan", "NULL", "-1", "0", "1.5", "1e999", "..", "a/b", "\x00", "\n", '"', "|", ";", "\ufeff", "é", "x" * 400]),
    st.text(max_size=6),
)  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_whatever_a_table_holds_ends_in_records_or_in_one_line(
    name: str, pristine: Callable[[str], Path], tmp_path: Path
) -> None:
    """Cells of csv tables, and bytes of every file that a reader reads, are exchanged at random."""
    root, reader = tmp_path / name, readers()[name]
    shutil.copytree(pristine(name), root)
    files = reader.tables(root, reader.Options.model_validate({}))
    originals = {path: path.read_bytes() for path in files}
    sound = {repr(record) for record in read(name, root)}

    @settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(files))
        touched = None
        if ".csv" in path.suffixes and data.draw(st.booleans()):
            rows = load(path)
            row = data.draw(st.integers(1, len(rows) - 1))
            rows = changed(rows, row, data.draw(st.integers(0, len(rows[0]) - 1)), data.draw(NASTY))
            touched = 1
            dump(path, rows)
        else:
            packed = path.suffix == ".gz"
            content = gzip.decompress(originals[path]) if packed else originals[path]
            start = data.draw(st.integers(0, len(content)))
            stop = min(len(content), start + data.draw(st.integers(0, 12)))
            content = (
                content[:start] + data.draw(st.one_of(st.binary(max_size=6), NASTY.map(str.encode))) + content[stop:]
            )
            path.write_bytes(gzip.compress(content) if packed and data.draw(st.booleans()) else content)
        try:
            records = read(name, root)
        except UserError as error:
            assert len(str(error).splitlines()) == 1
            assert error.fix
        else:
            # What was not touched is read as before.
            assert touched is None or len(sound - {repr(record) for record in records}) <= touched
        finally:
            path.write_bytes(originals[path])

    fuzz()


def test_the_line_of_a_row_counts_line_breaks_within_cells(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text('id,note,n\na,"one\ntwo\nthree",1\n\nb,"four",left\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"notes\.csv: line 6: 'n' is 'left', no number"):
        read_table(path, (Column("id", "id"), Column("note"), Column("n", "number")))


def test_a_packed_table_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    columns = (Column("id", "id"), Column("n", "number", optional=True))
    (tmp_path / "a.csv.gz").write_text("n,id\n2,x\n,y\n", encoding="utf-8")
    (tmp_path / "b.csv").write_bytes(gzip.compress(b"id,n,,\nx,2,,\ny,,,\n"))
    first, second = read_table(tmp_path / "a.csv.gz", columns), read_table(tmp_path / "b.csv", columns)
    assert list(first.columns) == ["n", "id"]
    assert first.id.tolist() == second.id.tolist() == ["x", "y"]
    assert first.n.iloc[0] == second.n.iloc[0] == 2
    (tmp_path / "b.csv").write_bytes(gzip.compress(b"id,n\nx,2\n")[:-6])
    with pytest.raises(UserError, match=r"b\.csv: cannot be read as a table"):
        read_table(tmp_path / "b.csv", columns)
    assert tables.header(tmp_path / "a.csv.gz") == ["n", "id"]
