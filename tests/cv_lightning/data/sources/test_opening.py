"""Files that are opened together, and missing files or packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cv_lightning.data.sources import FileSource, parquet
from cv_lightning.data.sources.opening import open_records
from cv_lightning.errors import ConfigError, DataError
from tests.cv_lightning.data.sources.published_rows import CODEVISION, Write, is_image, ocrbench_rows


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


class Limited:
    """A Parquet file that limits the rows of a batch, as pyarrow limits the bytes of a batch to 2 GiB."""

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


def test_a_folder_and_a_pattern_join_their_files(write: Write) -> None:
    for part in range(3):
        write(f"data/test-{part}.parquet", [CODEVISION, CODEVISION])
    write("data/train-0.parquet", [CODEVISION])
    folder = str(Path(write("data/x.txt", b"")).parent)
    assert FileSource(test=folder).size("test") == 7
    assert FileSource(test=f"{folder}/test-*.parquet").size("test") == 6


def test_a_file_of_another_schema_says_what_is_there_and_what_is_missing(write: Write) -> None:
    path = write("x.parquet", [{"prompt": "a", "images": [], "reward_model": {"a": 1}, "label": 3}])
    with pytest.raises(
        DataError, match=r"columns prompt, images, reward_model, label.*'codevision'.*also need extra_info"
    ):
        FileSource(test=path)
    assert FileSource(test=path, format="codevision").size("test") == 1
    with pytest.raises(ConfigError, match=r"no format 'codevison'. Did you mean 'codevision'"):
        FileSource(test=path, format="codevison")


class Hub:
    """The part of `datasets` that is used: rows as Arrow tables."""

    def __init__(self, rows: list[Any]) -> None:
        self.table = pa.Table.from_pylist(rows)
        self.asked: list[Any] = []
        self.column_names = self.table.column_names

    def load_dataset(self, repository: str, config: str | None, split: str) -> Hub:
        self.asked.append((repository, config, split))
        if repository == "owner/gone":
            raise ConnectionError("Couldn't reach 'owner/gone'\nlong trace")
        return self

    def with_format(self, kind: str) -> Hub:
        assert kind == "arrow"
        return self

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: int) -> pa.Table:
        return self.table.slice(index, 1)


def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ocrbench_rows()["test.parquet"]
    hub = Hub([row, row | {"image": {"bytes": b"broken", "path": None}}])
    monkeypatch.setitem(__import__("sys").modules, "datasets", hub)  # type: ignore[arg-type]
    source = FileSource(test="echo840/OCRBench", validation="owner/name:config:part", strict=True)
    assert hub.asked == [("owner/name", "config", "part"), ("echo840/OCRBench", None, "test")]
    sample = source.sample("test", 0)
    assert is_image(sample)
    assert (sample.id, sample.answer) == ("echo840/OCRBench, row 0", "CENTRE")
    with pytest.raises(DataError, match="echo840/OCRBench, row 1: image of the row cannot be read"):
        source.sample("test", 1)
    with pytest.raises(ConfigError, match=r"owner/gone: cannot be loaded from the hub: Couldn't reach 'owner/gone'$"):
        FileSource(test="owner/gone")


def test_the_hub_needs_datasets_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"echo840/OCRBench:test: reading from the hub needs.*cv-lightning.hub"):
        FileSource(test="echo840/OCRBench:test")
