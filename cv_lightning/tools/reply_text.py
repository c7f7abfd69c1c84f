"""Tool calls as our policies write them in text, and as OpenAI's messages hold them: (name, arguments as JSON text)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

_THINK_END = "</think>"
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def write_call(name: str, arguments: str) -> str:
    """A call as our policies write it; arguments that are no JSON stay as they are."""
    try:
        payload = json.dumps({"name": name, "arguments": json.loads(arguments)}, ensure_ascii=False)
    except (ValueError, RecursionError):
        payload = f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}'
    return f"<tool_call>\n{payload}\n</tool_call>"


def join_calls(text: str, calls: Sequence[tuple[str, str]]) -> str:
    """A turn as our policies write it, from its words and its calls (name, arguments as JSON text)."""
    if not calls:
        return text
    return "\n".join([text, *(write_call(name, arguments) for name, arguments in calls)]).lstrip("\n")


def split_calls(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The words and the calls (name, arguments as JSON text) of a turn; a turn with a call that is none stays text."""
    start = max(0, text.rfind(_THINK_END))
    head, tail = text[:start], text[start:]
    calls = [_parsed(payload) for payload in _CALL.findall(tail)]
    if not calls or None in calls or "<think>" in tail:
        return text, []
    words = head + tail[: tail.index("<tool_call>")]
    after = _CALL.sub("", tail[tail.index("<tool_call>") :]).strip()
    content = words.rstrip("\n") + (f"\n{after}" if after else "")
    return content, [call for call in calls if call is not None]


def _parsed(payload: str) -> tuple[str, str] | None:
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("name"), str) or "arguments" not in content:
        return None
    return content["name"], json.dumps(content["arguments"], ensure_ascii=False)


def stable_text(text: str, holds_calls: bool) -> str:
    """What of an unfinished reply will not change: no half character, and no words that may become a tool call."""
    text = text.rstrip("\ufffd")
    if not holds_calls:
        return text
    tag = "<tool_call>"
    start = text.find(tag)
    if start >= 0:
        return text[:start].rstrip("\n")
    length = next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)
    return text[: len(text) - length].rstrip("\n")
