"""Records read by index equal those of a full read, and memory does not grow with the file."""

from __future__ import annotations

import csv
import json
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

from cv_lightning.data.sources import records
from cv_lightning.data.sources.records import JsonArrayRecords, JsonLinesRecords, TableRecords
from cv_lightning.errors import DataError

ROOT = Path(__file__).parents[4]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)


objects = st.lists(st.dictionaries(st.text(), values, max_size=3), max_size=6)


#: Each example writes its files again.
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
    with pytest.raises(DataError, match=r"a\.tsv, row 1: not a table row .*expected 2 cells.* got 1"):
        table.read(1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}', "expected a JSON array of objects. Is it JSONL"),
        ("", "expected a JSON array"),
        ('[{"a": 1}, {"a": 2', "truncated or wrong from row 1 on"),
        ('[{"a": 1}, nonsense]', "truncated or wrong from row 1 on"),
        ('[{"a": 1}', "truncated or wrong from row 1 on"),
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


READ = """
import re, sys
from pathlib import Path
from cv_lightning.data.sources import FileSource
from sandbox.memory import peak_memory_bytes
peak = lambda: peak_memory_bytes() // 2**20
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
    """The files have 200 MiB in blocks of 1 MiB; memory holds eight blocks and the reader's own data."""
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
