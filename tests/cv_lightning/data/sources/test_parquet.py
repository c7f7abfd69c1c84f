"""Rows of Parquet files in any order, a window at a time."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cv_lightning.data.sources import parquet
from cv_lightning.data.sources.parquet import ParquetRecords


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files with rows 0 to 69, in row groups of at most 10 rows, about 1 KiB per row."""
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
