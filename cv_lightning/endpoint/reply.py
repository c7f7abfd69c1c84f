"""Reads servers' answers: JSON objects, and the model's message in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ChatReply:
    """The reply of a model.

    Attributes:
        text: The text; "" if it only called tools.
        calls: (id, name of the function, arguments as JSON text) of each tool call.
        finish_reason: "stop", "length", "tool_calls", "content_filter" or another word of the server.
        message: The message as the server sent it, to be sent back completely; None if there is only the text.
        adapted: The changes to the request that were necessary because the server had refused it.
    """

    text: str
    calls: tuple[tuple[str, str, str], ...] = ()
    finish_reason: str = "stop"
    message: Mapping[str, Any] | None = None
    adapted: tuple[str, ...] = ()


def read_json(text: str | bytes) -> Any:
    """Read a JSON value so that it can be sent back: numbers that JSON does not allow (NaN, 1e999) become None.

    Raises:
        ValueError: The text is not JSON, or nested too deeply.
    """
    try:
        content = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if _is_deep(content):
        raise ValueError("nested too deeply")
    return content


def read_object(text: bytes) -> dict[str, Any]:
    """Read the JSON object in an answer; raises `ValueError` for anything else."""
    try:
        content = read_json(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError("the reply is not a JSON object")
    return content


def _is_deep(content: Any, levels: int = 64) -> bool:
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return levels == 0 or any(_is_deep(each, levels - 1) for each in inner)


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def read_reply(content: Mapping[str, Any], adapted: tuple[str, ...] = ()) -> ChatReply:
    """Read the reply in a chat completion; raises `ValueError` for any other content."""
    try:
        choice = content["choices"][0]
        message = choice["message"]
        text = message.get("content") or message.get("refusal") or ""
        if isinstance(text, list):  # some servers send the text in parts
            text = "".join(part.get("text") or "" for part in text)
        calls = tuple(_read_call(call) for call in message.get("tool_calls") or ())
        if not isinstance(text, str):
            raise TypeError("content is not text")
    except (LookupError, TypeError, AttributeError) as error:
        excerpt = json.dumps(content)[:200]
        raise ValueError(f"the reply is not a chat completion: {excerpt}") from error
    return ChatReply(text, calls, str(choice.get("finish_reason") or "stop"), message, adapted)


def _read_call(call: Mapping[str, Any]) -> tuple[str, str, str]:
    function = call["function"]
    arguments = function["arguments"]
    return (
        str(call.get("id") or ""),
        str(function["name"]),
        arguments if isinstance(arguments, str) else json.dumps(arguments),
    )
