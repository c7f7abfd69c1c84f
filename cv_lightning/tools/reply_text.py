"""The only parser for the text of a turn: reasoning, calls, answers.

Models follow the format of the prompt only roughly. A turn is read as intended if the intention is unambiguous:

- A call ends where its JSON object ends: code may hold any tag.
- Reasoning lasts from `<think>` to `</think>`. Templates may put `<think>` into the prompt, so everything before an
  unmatched `</think>` is reasoning, whatever tags it contains.
- A call may have raw line breaks and tabs in strings, a fence around the object, a trailing comma, arguments as a JSON
  text, and words after the object. Nothing else is repaired, so only code that the model wrote can run.

Served models and OpenAI's messages use another form of a call: (name, arguments as JSON text).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: The form of a call, for messages to the policy.
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

#: Not strict: models write raw line breaks and tabs in strings.
_DECODER = json.JSONDecoder(strict=False)

#: Maximum number of calls of a turn to parse: for each broken call, the rest of the text is scanned.
_MAX_CALLS = 32


@dataclass(frozen=True)
class CallText:
    """A call in the text of a turn.

    Attributes:
        start: Index of its opening tag; for a broken call, the length of the turn.
        end: Index after its end.
        content: The JSON value; None if it cannot be parsed.
        fault: Why the call cannot be used, in words that the policy can act on.
    """

    start: int
    end: int
    content: Any = None
    fault: str | None = None


@dataclass(frozen=True)
class TurnText:
    """A parsed turn.

    Attributes:
        calls: The calls outside reasoning; parsed calls come before broken ones.
        words: The text that is neither reasoning nor a call; it holds the answers in their tags.
        open_tag: "think" or "tool_call" if the turn cannot be parsed because that tag is not closed.
    """

    calls: tuple[CallText, ...]
    words: str
    open_tag: str | None = None

    @property
    def answers(self) -> list[str]:
        """The texts between answer tags."""
        return [self.words[start:end] for start, end in tagged_spans(self.words, "answer")]


def read_turn(text: str) -> TurnText:
    """Find reasoning, calls and answers in a turn. It never raises."""
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
    """The JSON object that begins at a brace, and the index of its end.

    Raises:
        ValueError: The object is incomplete, or is not JSON even if trailing commas and raw control characters in
            strings are allowed.
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
    """Parse the JSON value between the tags of a call.

    Returns:
        (value, None), or (None, the fault in words that the policy can act on).
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
    """The arguments of a call as an object: some models write it as a JSON text."""
    if isinstance(arguments, str) and arguments.lstrip().startswith("{"):
        value, fault = decode_payload(arguments)
        return arguments if fault is not None else value
    return arguments


def whole_object(text: str, at: int) -> tuple[int, int] | None:
    """Position (start, end) of a call's object, after an opening tag that ends at `at`; None if it is incomplete."""
    start = _start_of_object(text, at)
    if text[start : start + 1] != "{":
        return None
    try:
        return start, decode_object(text, start)[1]
    except ValueError:
        return None


def tagged_spans(text: str, tag: str) -> list[tuple[int, int]]:
    """Positions of texts between `<tag>` and the next `</tag>`; a regular expression is slow if many tags are open."""
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
    """The calls with a complete object, also inside reasoning; tags inside a call have no meaning."""
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
    """Positions (start, end) of reasoning, and whether the last reasoning is not closed."""
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
    # An object that is complete only after reasoning inside it is removed is not the object that the model wrote.
    return CallText(end, end, content, ONE_ACTION if isinstance(content, dict) else fault)


# ---- the form of OpenAI's messages -----------------------------------------------------------------------------------


def write_call(name: str, arguments: str) -> str:
    """A call in the format of our policies; arguments that are not JSON stay unchanged."""
    try:
        payload = json.dumps({"name": name, "arguments": json.loads(arguments)}, ensure_ascii=False)
    except (ValueError, RecursionError):
        payload = f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}'
    return f"{_OPEN}\n{payload}\n{_CLOSE}"


def join_calls(text: str, calls: Sequence[tuple[str, str]]) -> str:
    """A turn in the format of our policies, from its words and its calls (name, arguments as JSON text)."""
    if not calls:
        return text
    return "\n".join([text, *(write_call(name, arguments) for name, arguments in calls)]).lstrip("\n")


def split_calls(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Words and calls (name, arguments as JSON text) of a turn; a turn with a broken call is returned as words only."""
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
    """The part of an unfinished reply that is final: no incomplete character, no text that may become a tool call."""
    text = text.rstrip("\ufffd")
    if not holds_calls:
        return text
    start = text.find(_OPEN)
    if start >= 0:
        return text[:start].rstrip("\n")
    length = next((n for n in range(len(_OPEN) - 1, 0, -1) if text.endswith(_OPEN[:n])), 0)
    return text[: len(text) - length].rstrip("\n")
