"""Records read by their place are those that a whole reading gives, and memory does not grow with the file."""

from __future__ import annotations

import csv
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cv_lightning.data.sources import parquet, records
from cv_lightning.data.sources.opening import open_records
from cv_lightning.data.sources.parquet import ParquetRecords
from cv_lightning.data.sources.records import JsonArrayRecords, JsonLinesRecords, TableRecords
from cv_lightning.errors import ConfigError, DataError

ROOT = Path(__file__).parents[4]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)
objects = st.lists(st.dictionaries(st.text(), values, max_size=3), max_size=6)

#: The files are written anew by each example.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_all(source: Any) -> list[Any]:
    return [source.read(index) for index in range(len(source))]


@same_folder
@given(
    rows=objects,
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 2]),
    is_ascii=st.booleans(),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_an_array_in_pieces_of_any_size(
    rows: list[Any], chunk: int, indent: int | None, is_ascii: bool, mark: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=is_ascii)
    path.write_bytes((mark + text).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_CHUNK", chunk)
        assert read_all(JsonArrayRecords(path)) == rows


@same_folder
@given(rows=objects)
def test_lines(rows: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n \n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert read_all(JsonLinesRecords(path)) == rows


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\t\n"'), max_size=8)


@same_folder
@given(rows=st.lists(st.tuples(cells, cells), max_size=5))
def test_a_table_with_quotes_tabs_and_line_breaks(rows: list[tuple[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([("question", "answer"), *rows])
    assert read_all(TableRecords(path)) == [{"question": a, "answer": b} for a, b in rows]


def test_a_table_row_with_missing_cells_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a\tb\n1\t2\n3\n", encoding="utf-8")
    table = TableRecords(tmp_path / "a.tsv")
    assert table.read(0) == {"a": "1", "b": "2"}
    with pytest.raises(DataError, match=r"a\.tsv, row 1: .*1 cells .* 2"):
        table.read(1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}', "expected a JSON array of objects. Is it JSONL"),
        ("", "expected a JSON array"),
        ('[{"a": 1}, {"a": 2', "breaks off or is wrong after row 0"),
        ('[{"a": 1}, nonsense]', "breaks off or is wrong after row 0"),
        ('[{"a": 1}', "breaks off or is wrong after row 0"),
    ],
)
def test_an_array_that_is_none_says_where(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        JsonArrayRecords(tmp_path / "a.json")


def test_an_array_that_is_no_utf8_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[{"a": "\xff\xfe"}]')
    with pytest.raises(DataError, match="not UTF-8"):
        JsonArrayRecords(tmp_path / "a.json")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files of 0 to 69, row groups of 10 and less, about 1 KiB a row."""
    paths = []
    for number, (start, stop) in enumerate([(0, 25), (25, 26), (26, 70)]):
        path = tmp_path / f"{number}.parquet"
        rows = [{"n": n, "data": np.random.default_rng(n).bytes(1024)} for n in range(start, stop)]
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10, compression="none", use_dictionary=False)
        paths.append(path)
    return paths


@pytest.mark.parametrize("block_bytes", [1, 3000, 1 << 20])
def test_parquet_rows_in_any_order(block_bytes: int, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_BLOCK_BYTES", block_bytes)
    source = ParquetRecords(files)
    assert len(source) == 70
    order = [*range(70), *np.random.default_rng(0).permutation(70)]
    for index in order:
        assert source.read(index) == {"n": index, "data": np.random.default_rng(index).bytes(1024)}
    assert len(source._kept) <= parquet._KEPT_BLOCKS
    assert (source.where(0), source.where(25), source.where(27)) == tuple(
        f"{files[number]}, row {row}" for number, row in [(0, 0), (1, 0), (2, 1)]
    )
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read(33)["n"] == 33
    assert not pickle.loads(pickle.dumps(source))._kept


@pytest.mark.parametrize("block_bytes", [1, 3000, 1 << 20])
def test_parquet_windows_hold_every_row_once_and_are_read_once(
    block_bytes: int, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_BLOCK_BYTES", block_bytes)
    source = ParquetRecords(files)
    rng = np.random.default_rng(1)
    windows = list(source.windows(rng))
    assert sorted(np.concatenate(windows).tolist()) == list(range(70))
    n_reads = 0
    read_block = source._read_block

    def counted(number: int) -> Any:
        nonlocal n_reads
        n_reads += 1
        return read_block(number)

    monkeypatch.setattr(source, "_read_block", counted)
    for window in windows:
        for index in rng.permutation(window):
            assert source.read(int(index))["n"] == index
    assert n_reads == len(source._blocks), "no block is read twice in a pass"


def test_files_of_two_schemas_are_not_joined(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pq.write_table(pa.table({name: [1]}), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: its columns are b, but a\.parquet beside it has a"):
        open_records(str(tmp_path))


@pytest.mark.parametrize("name", ["gone/", "gone.jsonl", "gone-*.parquet", "/gone/gone.parquet"])
def test_what_is_not_there_says_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="gone"):
        open_records(name)


READ = """
import re, sys
from pathlib import Path
from cv_lightning.data.sources import FileSource
# Not ru_maxrss: that begins with the memory of the process that started this one, and hides what is below it.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
split, path = sys.argv[1:]
import cv_lightning.data.sources.parquet as p
p._BLOCK_BYTES = 1 << 20
import pyarrow.parquet, PIL.PngImagePlugin
start = peak()
source = FileSource(**{split: path})
opened = peak()
rows = source._rows[split]
import cv_lightning.data.sources.file_source as f
places = range(len(rows)) if split == "test" else f._order(rows.records, 0, 0)
total = sum(len(rows.fields(int(place))["images"]) for place in places)
print(opened - start, peak() - start, total // 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("split", ["test", "train"])
def test_memory_does_not_grow_with_the_file(split: str, tmp_path: Path) -> None:
    """200 MiB in blocks of 1 MiB: what is held are eight blocks and what the reader needs."""
    for number in range(2):
        rows = [
            {"question": "?", "images": np.random.default_rng(n).bytes(100 * 1024), "answer": "x"} for n in range(1000)
        ]
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=20, compression="none")
    command = [sys.executable, "-c", READ, split, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    opened_mb, read_mb, total_mb = map(int, done.stdout.split())
    assert total_mb >= 195
    assert opened_mb < 20
    assert 8 <= read_mb < 90, "eight blocks, and not nothing: then memory was not measured"


class Limited:
    """A Parquet file whose batches may not have more than so many rows, as pyarrow's not more than 2 GiB of bytes."""

    def __init__(self, file: Any, limit: int) -> None:
        self.file = file
        self.limit = limit

    def __enter__(self) -> Limited:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def iter_batches(self, batch_size: int, row_groups: list[int]) -> Any:
        if batch_size > self.limit:
            raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")
        return self.file.iter_batches(batch_size=batch_size, row_groups=row_groups)


@pytest.mark.parametrize("limit", [1, 6])
def test_a_row_group_of_more_bytes_than_a_batch_may_have_is_read_in_parts(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"question": str(n), "images": [{"bytes": b"same" * 100, "path": str(n)}]} for n in range(100)]
    for number in range(2):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{number}.parquet", row_group_size=50)
    source = open_records(str(tmp_path))
    opened = parquet._opened
    monkeypatch.setattr(parquet, "_opened", lambda path: Limited(opened(path), limit))
    for index in (170, 3, 60, 199, 0, 99, 100):
        assert source.read(index) == rows[index % 100], index
    assert [source.read(index) for index in range(200)] == rows * 2
    monkeypatch.setattr(parquet, "_opened", opened)
    again = open_records(str(tmp_path / "1.parquet"))
    monkeypatch.setattr(parquet, "_opened", lambda path: Limited(opened(path), 0))
    with pytest.raises(DataError, match=r"1\.parquet, row 50: the row is larger than 2 GiB"):
        again.read(50)
