"""CodeVision-SFT and other recorded conversations, in the format of ShareGPT, LLaMA-Factory, or OpenAI's messages.

`{"conversations": [{"from": .., "value": ..}], "images": [..]}` with the authors human, gpt and tool (LLaMA-Factory:
also function_call and observation), or `{"messages": [{"role": .., "content": text or parts}]}` with user, assistant
(also with `tool_calls`) and tool. The first human turn is the question. Its `<image>` places take the first images, and
the places in tool turns take the rest. The answer is between the answer tags of the last turn. Rows from `data build`
also have `transforms`, `box`, `id` and `family`; the published rows do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cv_lightning.data.sources.formats import Format, columns, content_text, is_image, place_images, unwrap_image
from cv_lightning.data.sources.records import Record
from cv_lightning.errors import DataError
from cv_lightning.tools.reply_text import join_calls, read_turn
from cv_lightning.types import IMAGE

_AUTHORS = {
    "human": "human",
    "user": "human",
    "gpt": "gpt",
    "assistant": "gpt",
    "function_call": "call",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "system": "system",
    "developer": "system",
}


@dataclass(frozen=True)
class RecordedTurns:
    """The turns of a conversation without system turns.

    Attributes:
        turns: (author, text) with the authors "human", "gpt" and "tool".
        images: Image cells in the order of the `<image>` places in the texts.
    """

    turns: list[tuple[str, str]]
    images: list[Any]


def read_turns(record: Record, where: str) -> RecordedTurns:
    """The conversation of a row.

    Raises:
        DataError: The row is in none of the known formats, or the numbers of places and images differ.
    """
    name = "conversations" if record.get("conversations") is not None else "messages"
    given = record.get(name)
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise DataError(f"{where}: {name}: expected a list of turns, got {type(given).__name__}.")
    turns: list[tuple[str, str]] = []
    column, images, n_places = list(record.get("images") or []), [], 0
    for number, turn in enumerate(given):
        author, text, own = _read_turn(turn, f"{where}: turn {number}")
        if author == "system":
            continue
        for image in own:
            n_places += 1
            images += [image] if image is not None else [column.pop(0)] if column else []
        if author == "call":  # its reasoning may be a separate turn before it
            before = f"{turns.pop()[1]}\n" if turns and turns[-1][0] == "gpt" else ""
            author, text = "gpt", before + text
        turns.append((author, text))
    if column or len(images) != n_places:
        n_images = len(images) + len(column)
        raise DataError(f"{where}: images: expected {n_places}, one for each {IMAGE} in the turns, got {n_images}.")
    return RecordedTurns(turns, images)


def _read_turn(turn: Any, where: str) -> tuple[str, str, list[Any]]:
    """Author and text of a turn, and its image cells: None for each image that comes from the column."""
    author = turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else None
    content = turn.get("value", turn.get("content")) if isinstance(turn, Mapping) else None
    calls = turn.get("tool_calls") if isinstance(turn, Mapping) else None
    has_content = isinstance(content, str | list | tuple) or (content is None and calls)
    if not isinstance(author, str) or author not in _AUTHORS or not has_content:
        shape = '{"from": .., "value": ..} or {"role": .., "content": ..}'
        raise DataError(f"{where}: expected {shape}, both texts, from one of {', '.join(_AUTHORS)}.")
    text = content_text(content)
    if _AUTHORS[author] == "call" and "<tool_call>" not in text:
        text = f"<tool_call>\n{text}\n</tool_call>"
    if calls:
        text = join_calls(text, [_call(call, where) for call in calls])
    parts = content if isinstance(content, list | tuple) else []
    own = [
        unwrap_image({**part, "type": None}, where) for part in parts if isinstance(part, Mapping) and is_image(part)
    ]
    return _AUTHORS[author], text, [*own, *[None] * (text.count(IMAGE) - len(own))]


def _call(call: Any, where: str) -> tuple[str, str]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f'{where}: tool_calls: expected {{"function": {{"name": .., "arguments": ..}}}}.')
    arguments = function.get("arguments", "{}")
    return function["name"], arguments if isinstance(arguments, str) else json.dumps(arguments)


def fields(record: Record, where: str, folder: Path) -> dict[str, Any]:
    """The question, its images and the answer of a conversation."""
    recorded = read_turns(record, where)
    question = next((text for author, text in recorded.turns if author == "human"), "")
    if not recorded.turns or recorded.turns[-1][0] != "gpt":
        last = recorded.turns[-1][0] if recorded.turns else "system"
        raise DataError(f"{where}: last turn: expected 'gpt', got {last!r}. Remove the turns after the answer.")
    answers = read_turn(recorded.turns[-1][1]).answers
    kept = {
        name: record[name] for name in ("id", "transforms", "box", "family", "alternatives", "rule") if name in record
    }
    return {
        "question": place_images(question),
        "images": [unwrap_image(image, where) for image in recorded.images[: question.count(IMAGE)]],
        "answer": answers[-1].strip() if answers else None,
        **kept,
    }


FORMAT = Format("codevision_sft", "CodeVision-SFT (ShareGPT)", [columns("conversations"), columns("messages")], fields)
