"""Recorded rows: each row comes once before any row comes twice, and a bad row is skipped with one warning."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cv_lightning.data.oracle import EpisodeBuilder
from cv_lightning.data.sources import FileSource
from cv_lightning.errors import ConfigError, DataError
from sandbox import ToolExecutor, orient

N = 7

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    for index in range(N):
        pixels = np.random.default_rng(index).integers(0, 256, (6, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])

    def write_rows(rows: list[Any], name: str = "rows.jsonl") -> str:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(tmp_path / name)

    return write_rows


def row(index: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"q{index}", "question": "What?", "images": [f"{index}.png"], "answer": str(index)} | changes


def ids(source: FileSource, split: Any, indices: range) -> list[str]:
    return [source.sample(split, index).id for index in indices]


def test_training_takes_every_row_once_in_each_pass_in_a_new_order(write: Write) -> None:
    source = FileSource(train=write([row(i) for i in range(N)]))
    passes = [ids(source, "train", range(start, start + N)) for start in range(0, 5 * N, N)]
    assert all(sorted(one) == [f"q{i}" for i in range(N)] for one in passes)
    assert len({tuple(one) for one in passes}) > 1
    again = FileSource(train=write([row(i) for i in range(N)]))
    assert ids(again, "train", range(2 * N)) == passes[0] + passes[1]
    other = FileSource(train=write([row(i) for i in range(N)]), seed=1)
    assert ids(other, "train", range(2 * N)) != passes[0] + passes[1]


def test_held_out_rows_come_in_their_order(write: Write) -> None:
    source = FileSource(validation=write([row(i) for i in range(N)]))
    assert ids(source, "validation", range(N + 2)) == [f"q{i}" for i in (*range(N), 0, 1)]
    assert source.size("validation") == N
    assert source.size("train") == source.size("test") == 0


def test_a_transform_that_is_asked_for_replaces_the_recorded_one(write: Write) -> None:
    source = FileSource(test=write([row(0, transforms=["rotate_90", "flip_vertical"], box=[1, 1, 4, 3])]))
    recorded = source.sample("test", 0)
    assert recorded.transforms == ("rotate_90", "flip_vertical")
    upright = source.sample("test", 0, ())
    assert upright.transforms == ()
    expected = orient(orient(recorded.images[0], "flip_vertical"), "rotate_270")
    assert upright.images[0].tobytes() == expected.tobytes()
    turned = source.sample("test", 0, ("flip_horizontal",))
    assert turned.transforms == ("flip_horizontal",)
    assert turned.images[0].tobytes() == orient(expected, "flip_horizontal").tobytes()
    assert turned.box is not None
    assert turned.images[0].crop(tuple(map(int, turned.box))).size == (2, 3)


def test_weights_choose_orientations_reproducibly(write: Write) -> None:
    path = write([row(i) for i in range(N)])
    source = FileSource(train=path, weights={"none": 1.0, "rotate_90": 1.0})
    chosen = [source.sample("train", index).transforms for index in range(60)]
    assert set(chosen) == {(), ("rotate_90",)}
    assert 12 < chosen.count(()) < 48
    again = FileSource(train=path, weights={"none": 1.0, "rotate_90": 1.0})
    assert [again.sample("train", index).transforms for index in range(60)] == chosen


BAD = [
    ("{not json", "not a JSON object"),
    ("[1, 2]", "expected an object"),
    (row(1, answer=""), "no answer"),
    (row(1, images=["gone.png"]), "does not exist"),
    (row(1, transforms=["rotate_45"]), "transforms: expected"),
    (row(1, box=[0, 0, 100, 100]), "box: expected"),
    (row(1, images=["broken.png"]), "truncated"),
    ('{"question": "\\ud800"', "not a JSON object"),
    ("[" * 100_000, "not a JSON object"),
]


@pytest.mark.parametrize(("bad", "words"), BAD, ids=[words for _, words in BAD])
def test_a_bad_row_is_skipped_with_one_warning(bad: Any, words: str, write: Write) -> None:
    path = write([row(0), bad, row(2)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = FileSource(test=path)
        found = [source.sample("test", index).answer for index in range(12)]
    assert set(found) == {"0", "2"}
    assert len(caught) == 1
    assert words in str(caught[0].message)
    assert "rows.jsonl, line 2" in str(caught[0].message)


@pytest.mark.parametrize(("bad", "words"), BAD, ids=[words for _, words in BAD])
def test_a_strict_source_raises_at_a_bad_row(bad: Any, words: str, write: Write) -> None:
    path = write([row(0), bad, row(2)])

    def read_all() -> None:
        source = FileSource(test=path, strict=True)
        for index in range(3):
            source.sample("test", index)

    with pytest.raises(DataError, match=rf"line 2.*{words}"):
        read_all()


def test_blank_lines_a_byte_order_mark_and_another_folder(write: Write, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = Path(write(["\ufeff" + json.dumps(row(0)), "", "   ", json.dumps(row(1))], "elsewhere/rows.jsonl"))
    source = FileSource(test=str(path), folder=str(tmp_path), strict=True)
    assert ids(source, "test", range(2)) == ["q0", "q1"]


def test_bytes_that_are_no_utf8_are_a_bad_row(write: Write, tmp_path: Path) -> None:
    path = Path(write([row(0), row(1)]))
    path.write_bytes(b'{"question": "\xff\xfe"}\n' + path.read_bytes())
    source = FileSource(test=str(path))
    with pytest.warns(UserWarning, match="line 1: not a JSON object"):
        found = ids(source, "test", range(3))
    assert found == ["q0", "q0", "q1"]


def test_a_file_without_a_good_row_raises(write: Write) -> None:
    source = FileSource(train=write([row(0, answer=None), "nonsense"]))
    with pytest.warns(UserWarning, match="Left out"), pytest.raises(DataError, match="none of its 2 rows can be used"):
        source.sample("train", 0)
    with pytest.raises(DataError, match="expected rows, got none"):
        FileSource(train=write([]))


def test_rows_whose_images_are_all_broken_raise_instead_of_running_on(write: Write) -> None:
    source = FileSource(train=write([row(i, images=["broken.png"]) for i in range(3)]))
    with pytest.warns(UserWarning, match="Left out"), pytest.raises(DataError, match="none of its 3 rows can be used"):
        source.sample("train", 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "expected a file for train, validation or test"),
        ({"train": "gone.jsonl"}, r"FileSource\.train: There is no file or folder gone\.jsonl"),
        ({"train": "rows.jsonl", "test": "./rows.jsonl"}, "two splits read the same file"),
        ({"train": "rows.jsonl", "weights": {"upright": 1.0}}, r"FileSource\.weights"),
        ({"train": "rows.jsonl", "seed": -1}, r"FileSource\.seed"),
    ],
)
def test_arguments_that_cannot_be_say_why(
    arguments: dict[str, Any], words: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(write([row(0)])).parent)
    with pytest.raises(ConfigError, match=words):
        FileSource(**arguments)


def test_a_split_without_a_file_names_the_argument(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"no file for the validation split\. Give `validation:"):
        FileSource(train=write([row(0)])).sample("validation", 0)


def test_the_oracle_writes_episodes_of_recorded_rows(write: Write) -> None:
    source = FileSource(train=write([row(i, transforms=["flip_vertical"]) for i in range(N)]))
    builder = EpisodeBuilder(source)
    with ToolExecutor(lane="pillow") as executor:
        episodes = [builder.episode("train", index, executor) for index in range(20)]
    for episode in episodes:
        assert episode is not None
        upright = source.sample("train", episodes.index(episode), ())
        assert episode.images[-1].image.tobytes() == upright.images[0].tobytes()
        assert episode.answer == upright.answer
