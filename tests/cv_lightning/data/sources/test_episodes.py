"""Recorded conversations become episodes with the tokens, masks and images that they were recorded with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cv_lightning.conversation import format_answer, format_call, format_tool_call
from cv_lightning.data.datamodules import EpisodeDataModule
from cv_lightning.data.sources import FileSource, RecordedEpisodes
from cv_lightning.data.sources.episodes import episode_of
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.errors import DataError
from cv_lightning.tools import make_toolbox
from cv_lightning.types import StopReason, ToolCall
from sandbox import orient

BROKEN, RIGHT = "result = image.nothing()", "result = image.rotate(270, expand=True)"


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    upright = Image.fromarray(pixels)
    orient(upright, "rotate_90").save(tmp_path / "0.png")
    upright.save(tmp_path / "1.png")
    return {
        "conversations": [
            {"from": "system", "value": "You are helpful."},
            {"from": "human", "value": "<image>What is written?"},
            {"from": "gpt", "value": format_call("Turned.", ToolCall(BROKEN))},
            {"from": "tool", "value": "<tool_response>AttributeError: nothing</tool_response>"},
            {"from": "gpt", "value": format_call("An error.", ToolCall(RIGHT))},
            {"from": "tool", "value": "<tool_response>\n<image>\ndone</tool_response>"},
            {"from": "gpt", "value": format_answer("Upright.", "FJ7")},
        ],
        "images": ["0.png", "1.png"],
    }


def test_a_conversation_with_named_tools(record: dict[str, Any], tmp_path: Path) -> None:
    turns = [dict(turn) for turn in record["conversations"]]
    turns[2]["value"] = format_tool_call("Turned.", "rotate", {"angle": "right"})
    turns[4]["value"] = format_tool_call("An error.", "rotate", {"angle": 270})
    episode = episode_of(record | {"conversations": turns}, "row 0", tmp_path, make_toolbox("named"))
    first, second = (turn.reply.call for turn in episode.turns[:2])
    assert first is not None
    assert second is not None
    assert (first.name, (first.fault or "")[:10], second.code) == ("rotate", "TypeError:", RIGHT)
    assert [viewed.turn for viewed in episode.images] == [-1, 1]


def test_a_conversation_turn_by_turn(record: dict[str, Any], tmp_path: Path) -> None:
    episode = episode_of(record, "row 0", tmp_path)
    assert (episode.sample.question, episode.answer, episode.n_calls) == ("What is written?", "FJ7", 2)
    assert episode.stop_reason is StopReason.ANSWERED
    assert [turn.reply.call.code for turn in episode.turns[:2] if turn.reply.call] == [BROKEN, RIGHT]
    first, second, last = (turn.observation for turn in episode.turns)
    assert first is not None
    assert second is not None
    assert (first.status, first.image, first.text) == ("error", None, "AttributeError: nothing")
    assert (second.status, second.text, last) == ("ok", "done", None)
    assert second.image is not None
    assert second.image.tobytes() == orient(episode.sample.images[0], "rotate_270").tobytes()
    assert [viewed.turn for viewed in episode.images] == [-1, 1]
    assert [turn.is_trained for turn in episode.turns] == [True] * 3
    marked = episode_of(record | {"trained": [False, True, True]}, "row 0", tmp_path)
    assert [turn.is_trained for turn in marked.turns] == [False, True, True]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trained": [True]}, "trained: expected true or false for each of 3 gpt turns"),
        ({"images": ["0.png", "gone.png"]}, "gone.png does not exist"),
        ({"images": ["0.png", 7]}, "expected the path of an image but got 7"),
    ],
)
def test_a_bad_row_says_why(changes: dict[str, Any], words: str, record: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"row 0: .*{words}"):
        episode_of(record | changes, "row 0", tmp_path)


def test_turns_out_of_order_say_so(record: dict[str, Any], tmp_path: Path) -> None:
    turns = record["conversations"]
    with pytest.raises(DataError, match=r"expected the turns human, gpt, tool, gpt, .* but got human, gpt, gpt"):
        episode_of(record | {"conversations": [*turns[:3], *turns[4:]]}, "row 0", tmp_path)


def test_episodes_train_and_a_world_tests(record: dict[str, Any], tmp_path: Path) -> None:
    broken = record | {"images": ["0.png", "gone.png"]}
    path = tmp_path / "sft.json"
    path.write_text(json.dumps([record, broken, record | {"images": ["0.png", "1.png"]}]), encoding="utf-8")
    assert FileSource(test=str(path)).sample("test", 0).answer == "FJ7"
    module = EpisodeDataModule(
        RecordedEpisodes(str(path), PlateWorld()), batch_size=6, n_test_per_orientation=2, eval_batch_size=12
    )
    module.setup("fit")
    with pytest.warns(UserWarning, match=r"sft\.json, row 1: image .*gone\.png does not exist"):
        batch = next(iter(module.train_dataloader()))
    module.teardown("fit")
    assert [episode.answer for episode in batch] == ["FJ7"] * 6
    assert {sample.source for sample in next(iter(module.test_dataloader()))} == {"PlateWorld"}
