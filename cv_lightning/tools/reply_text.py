"""The one reader of what models write in a turn: reasoning, calls, answers.

Models keep to the format of the prompt only roughly. A turn is read as its writer meant it if that is unambiguous:

- A call ends where its JSON object ends: code may hold any tag.
- Reasoning lasts from `<think>` to `</think>`. Templates may put `<think>` into the prompt, so a `</think>` without one
  makes everything before it reasoning, whatever tags that names.
- In a call these are read: raw line breaks and tabs in strings, a fence around the object, a trailing comma, arguments
  as a JSON text, words after the object. Nothing else is repaired, so no code runs that was not written.

Served models and OpenAI's messages use the other form of a call, (name, arguments as JSON text).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: What a call looks like, for messages that a policy reads.
SHAPE = '{"name": ..., "arguments": {...}}'
ONE_ACTION = "Give exactly one tool call or one answer in a turn."

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_THINK_TAG = re.compile(r"</?think>")
_BEFORE_OBJECT = re.compile(r"\s*(?:```\w*\s*)?")
_AFTER_OBJECT = re.compile(r"\s*(?:```\s*)?</tool_call>")
_ANY_TAG = re.compile(r"</?(?:tool_call|think|answer)>")

_STRING = r'"(?:[^"\\]|\\.)*"'
_BRACKET = re.compile(rf"{_STRING}|[{{}}\[\]]", re.DOTALL)
_TRAILING_COMMA = re.compile(rf"({_STRING})|,(?=\s*[}}\]])", re.DOTALL)

#: Not strict: models write line breaks and tabs in strings as they are.
_DECODER = json.JSONDecoder(strict=False)

#: Calls of a turn that are looked at: each that is broken costs a look at the rest of the text.
_MAX_CALLS = 32


@dataclass(frozen=True)
class CallText:
    """A call in the text of a turn.

    Attributes:
        start: Index of its opening tag; of a broken call, the end of the turn.
        end: Index behind it.
        content: The JSON value, None if it cannot be read.
        fault: Why it cannot be read, in words that the policy can act upon.
    """

    start: int
    end: int
    content: Any = None
    fault: str | None = None


@dataclass(frozen=True)
class TurnText:
    """A turn, read.

    Attributes:
        calls: The calls outside of reasoning, those that can be read first.
        words: What is neither reasoning nor a call; it holds the answers in their tags.
        open_tag: "think" or "tool_call" if the turn cannot be read because that tag is not closed.
    """

    calls: tuple[CallText, ...]
    words: str
    open_tag: str | None = None

    @property
    def answers(self) -> list[str]:
        """The answers, as written between their tags."""
        return [self.words[start:end] for start, end in tagged_spans(self.words, "answer")]


def read_turn(text: str) -> TurnText:
    """Find reasoning, calls and answers in a turn; never raises."""
    whole = _whole_calls(text)
    reasoning, is_open = _reasoning(text, whole)
    if is_open:
        return TurnText((), "", "think")
    calls = [call for call in whole if not any(start <= call.start < end for start, end in reasoning)]
    pieces, at = [], 0
    for start, end in sorted([*reasoning, *((call.start, call.end) for call in calls)]):
        pieces.append(text[at:start])
        at = max(at, end)
    words = "\n".join([*pieces, text[at:]])
    broken = tagged_spans(words, "tool_call")
    calls += [_broken_call(words[start:end], len(text)) for start, end in broken]
    for start, end in reversed(broken):
        words = words[: start - len(_OPEN)] + words[end + len(_CLOSE) :]
    return TurnText(tuple(calls), words, "tool_call" if not calls and _OPEN in words else None)


def decode_object(text: str, at: int = 0) -> tuple[Any, int]:
    """The JSON object that begins at a brace, and where it ends.

    Raises:
        ValueError: It is not whole, or not JSON but for trailing commas and raw control characters in strings.
    """
    try:
        return _DECODER.raw_decode(text, at)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        end = _end_of_object(text, at)
        if end is None:
            raise ValueError(f"a closing brace or quote is missing ({_plain(error)})") from error
        try:
            return _DECODER.decode(_TRAILING_COMMA.sub(r"\1", text[at:end])), end
        except (ValueError, RecursionError):
            raise ValueError(_plain(error)) from error


def decode_payload(payload: str) -> tuple[Any, str | None]:
    """The JSON value between the tags of a call, and why it cannot be read.

    Returns:
        (value, None), or (None, the fault in words that the policy can act upon).
    """
    at = _start_of_object(payload)
    try:
        if payload[at : at + 1] != "{":
            return _DECODER.decode(payload.strip()), None
        content, end = decode_object(payload, at)
    except (ValueError, RecursionError) as error:
        return None, f"The tool call is not valid JSON: {_plain(error)}. Write {SHAPE}."
    return (None, ONE_ACTION) if _has_another(payload[end:]) else (content, None)


def decode_arguments(arguments: Any) -> Any:
    """The arguments of a call: some models write the object as a JSON text."""
    if isinstance(arguments, str) and arguments.lstrip().startswith("{"):
        value, fault = decode_payload(arguments)
        return arguments if fault is not None else value
    return arguments


def whole_object(text: str, at: int) -> tuple[int, int] | None:
    """Where the object of a call is whose opening tag ends at an index, as (start, end); None if it is not whole."""
    start = _start_of_object(text, at)
    if text[start : start + 1] != "{":
        return None
    try:
        return start, decode_object(text, start)[1]
    except ValueError:
        return None


def tagged_spans(text: str, tag: str) -> list[tuple[int, int]]:
    """Where the texts between `<tag>` and the next `</tag>` are; an expression would be slow on many open tags."""
    opening, closing, found, at = f"<{tag}>", f"</{tag}>", [], 0
    while (start := text.find(opening, at)) >= 0 and (end := text.find(closing, start)) >= 0:
        found.append((start + len(opening), end))
        at = end + len(closing)
    return found


def _plain(error: BaseException) -> str:
    return str(error).partition(": line ")[0].partition("; use sys.")[0]


def _start_of_object(text: str, at: int = 0) -> int:
    match = _BEFORE_OBJECT.match(text, at)
    return at if match is None else match.end()


def _end_of_object(text: str, at: int) -> int | None:
    depth = 0
    for match in _BRACKET.finditer(text, at):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(match.group(), 0)
        if depth == 0:
            return match.end()
    return None


def _has_another(rest: str) -> bool:
    """Whether a second call follows an object before the next tag."""
    return rest.lstrip(" \t\r\n,;`").startswith(("{", "[")) or '"name"' in rest


def _whole_calls(text: str) -> list[CallText]:
    """The calls whose object is whole, those in reasoning too: tags inside of them mean nothing."""
    calls, at = [], 0
    for _ in range(_MAX_CALLS):
        start = text.find(_OPEN, at)
        if start < 0:
            break
        at = start + len(_OPEN)
        brace = _start_of_object(text, at)
        if text[brace : brace + 1] != "{":
            continue
        try:
            content, at = decode_object(text, brace)
        except ValueError:
            continue
        closing, following = _AFTER_OBJECT.match(text, at), _ANY_TAG.search(text, at)
        fault = ONE_ACTION if _has_another(text[at : following.start() if following else None]) else None
        at = at if closing is None else closing.end()
        calls.append(CallText(start, at, content, fault))
    return calls


def _reasoning(text: str, calls: Sequence[CallText]) -> tuple[list[tuple[int, int]], bool]:
    """Where reasoning is, as (start, end), and whether the last of it has no end."""
    tags = [tag for tag in _THINK_TAG.finditer(text) if not any(c.start <= tag.start() < c.end for c in calls)]
    spans: list[tuple[int, int]] = []
    opened = None
    for tag in tags:
        if tag.group() == "<think>":
            opened = tag.start() if opened is None else opened
        elif opened is None:
            spans = [(0, tag.end())]
        else:
            spans.append((opened, tag.end()))
            opened = None
    return spans, opened is not None


def _broken_call(payload: str, end: int) -> CallText:
    content, fault = decode_payload(payload)
    # An object that is whole only without the reasoning inside of it is not what was written.
    return CallText(end, end, content, ONE_ACTION if isinstance(content, dict) else fault)


# ---- the form of OpenAI's messages -----------------------------------------------------------------------------------


def write_call(name: str, arguments: str) -> str:
    """A call as our policies write it; arguments that are not JSON stay as they are."""
    try:
        payload = json.dumps({"name": name, "arguments": json.loads(arguments)}, ensure_ascii=False)
    except (ValueError, RecursionError):
        payload = f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}'
    return f"{_OPEN}\n{payload}\n{_CLOSE}"


def join_calls(text: str, calls: Sequence[tuple[str, str]]) -> str:
    """A turn as our policies write it, from its words and its calls (name, arguments as JSON text)."""
    if not calls:
        return text
    return "\n".join([text, *(write_call(name, arguments) for name, arguments in calls)]).lstrip("\n")


def split_calls(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The words and the calls (name, arguments as JSON text) of a turn; a turn with a broken call stays text."""
    turn = read_turn(text)
    calls = [_named(call.content) for call in turn.calls]
    if not calls or None in calls or any(call.fault is not None for call in turn.calls):
        return text, []
    start, after, at = turn.calls[0].start, "", turn.calls[0].start
    for call in turn.calls:
        after += text[at : call.start]
        at = call.end
    after = (after + text[at:]).replace(_CLOSE, "").strip()
    return text[:start].rstrip("\n") + (f"\n{after}" if after else ""), [call for call in calls if call is not None]


def _named(content: Any) -> tuple[str, str] | None:
    if not isinstance(content, dict) or not isinstance(content.get("name"), str) or "arguments" not in content:
        return None
    return content["name"], json.dumps(decode_arguments(content["arguments"]), ensure_ascii=False)


def stable_text(text: str, holds_calls: bool) -> str:
    """The part of an unfinished reply that cannot change: no half character, no words that may become a tool call."""
    text = text.rstrip("\ufffd")
    if not holds_calls:
        return text
    start = text.find(_OPEN)
    if start >= 0:
        return text[:start].rstrip("\n")
    length = next((n for n in range(len(_OPEN) - 1, 0, -1) if text.endswith(_OPEN[:n])), 0)
    return text[: len(text) - length].rstrip("\n")
