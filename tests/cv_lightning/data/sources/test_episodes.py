"""Recorded conversations become episodes with their recorded tokens, masks and images."""

from __future__ import annotations

import base64
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
        ({"images": ["0.png", 7]}, "expected the path of an image, got 7"),
    ],
)
def test_a_bad_row_says_why(changes: dict[str, Any], words: str, record: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"row 0: .*{words}"):
        episode_of(record | changes, "row 0", tmp_path)


def test_turns_out_of_order_say_so(record: dict[str, Any], tmp_path: Path) -> None:
    turns = record["conversations"]
    with pytest.raises(DataError, match=r"expected the turns human, gpt, tool, gpt, .*, got human, gpt, gpt"):
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


# ---- other spellings -------------------------------------------------------------------------------------------------


def as_messages(record: dict[str, Any], *, parts: bool) -> dict[str, Any]:
    roles = {"system": "system", "human": "user", "gpt": "assistant", "tool": "tool"}
    messages = []
    for turn in record["conversations"]:
        content: Any = turn["value"]
        if parts:
            texts = content.split("<image>")
            content = [{"type": "text", "text": texts[0]}]
            for text in texts[1:]:
                content += [{"type": "image"}, {"type": "text", "text": text}]
        messages.append({"role": roles[turn["from"]], "content": content})
    return {"messages": messages, "images": record["images"]}


def with_function_calls(record: dict[str, Any]) -> dict[str, Any]:
    """LLaMA-Factory's format: the call is a separate turn after the reasoning, and the result is an observation."""
    turns: list[dict[str, Any]] = []
    for turn in record["conversations"]:
        thought, mark, call = turn["value"].partition("\n<tool_call>\n")
        if mark:
            turns += [{"from": "gpt", "value": thought}]
            turns += [{"from": "function_call", "value": call.removesuffix("\n</tool_call>")}]
        else:
            turns.append(turn | {"from": "observation" if turn["from"] == "tool" else turn["from"]})
    return {"conversations": turns, "images": record["images"], "system": "You are helpful.", "tools": "[]"}


def with_tool_calls(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """OpenAI's format: calls beside the text, and images as data URIs in the messages."""
    images = iter(record["images"])

    def url(_: str) -> dict[str, Any]:
        data = base64.b64encode((folder / next(images)).read_bytes()).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

    messages: list[dict[str, Any]] = []
    for message in as_messages(record, parts=True)["messages"]:
        if message["role"] != "assistant":
            content = [url("") if part["type"] == "image" else part for part in message["content"]]
            messages.append(message | {"content": content})
            continue
        thought, mark, call = message["content"][0]["text"].partition("\n<tool_call>\n")
        calls = []
        if mark:
            given = json.loads(call.removesuffix("\n</tool_call>"))
            function = {"name": given["name"], "arguments": json.dumps(given["arguments"])}
            calls = [{"id": "1", "type": "function", "function": function}]
        messages.append({"role": "assistant", "content": thought, "tool_calls": calls})
    return {"messages": messages}


@pytest.mark.parametrize("spelling", ["messages", "parts", "function_call", "tool_calls"])
def test_every_spelling_is_the_same_episode(spelling: str, record: dict[str, Any], tmp_path: Path) -> None:
    spelled = {
        "messages": lambda: as_messages(record, parts=False),
        "parts": lambda: as_messages(record, parts=True),
        "function_call": lambda: with_function_calls(record),
        "tool_calls": lambda: with_tool_calls(record, tmp_path),
    }[spelling]()
    expected, episode = episode_of(record, "row 0", tmp_path), episode_of(spelled, "row 0", tmp_path)
    assert [(turn.text, turn.reply) for turn in episode.turns] == [(turn.text, turn.reply) for turn in expected.turns]
    assert episode.sample.parts[1:] == expected.sample.parts[1:] == ("What is written?",)
    assert [view.image.tobytes() for view in episode.images] == [view.image.tobytes() for view in expected.images]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([spelled]), encoding="utf-8")
    assert FileSource(test=str(path), strict=True).sample("test", 0).answer == "FJ7"


def test_a_conversation_without_images(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": format_answer("Easy.", "4"), "name": None},
    ]
    episode = episode_of({"messages": turns}, "row 0", tmp_path)
    assert (episode.sample.images, episode.sample.question, episode.answer, episode.images) == ((), "2 + 2?", "4", [])


@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "<|vision_start|>"])
def test_a_control_token_in_a_turn_of_the_policy_is_a_fault(token: str, record: dict[str, Any], tmp_path: Path) -> None:
    turns = [dict(turn) for turn in record["conversations"]]
    turns[-1]["value"] = format_answer(f"Upright.{token}", "FJ7")
    with pytest.raises(DataError, match=r"turn 5 contains the control token"):
        episode_of(record | {"conversations": turns}, "row 0", tmp_path)
    turns[-1]["value"] = format_answer("Upright.", "FJ7")
    turns[1]["value"] = f"<image>What is {token}?"
    assert token in episode_of(record | {"conversations": turns}, "row 0", tmp_path).sample.question


def test_a_result_of_two_images_is_a_fault(record: dict[str, Any], tmp_path: Path) -> None:
    turns = [dict(turn) for turn in record["conversations"]]
    turns[5]["value"] = "<tool_response><image><image></tool_response>"
    with pytest.raises(DataError, match="turn 4: expected at most one image, got 2"):
        episode_of({"conversations": turns, "images": ["0.png", "1.png", "1.png"]}, "row 0", tmp_path)
