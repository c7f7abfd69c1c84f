"""Splits a policy's reply into parts for display, even while it is incomplete; makes text safe for a terminal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cv_lightning.tools.reply_text import whole_object

Kind = Literal["thought", "code", "call", "answer", "text"]

_KINDS: dict[str, Kind] = {"think": "thought", "answer": "answer"}
_OPENING = re.compile(r"<(think|tool_call|answer)>")
_CLOSE = "</tool_call>"
_TAGS = tuple(f"<{slash}{name}>" for name in ("tool_call", *_KINDS) for slash in ("", "/"))

_CODE = re.compile(r'"code"\s*:\s*"')
#: The complete part of a JSON string, without a cut-off escape.
_STRING = re.compile(r'(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*')
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")

#: Characters that move a cursor, ring, retitle a window or reverse text; lone surrogates have no UTF-8 form.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


@dataclass(frozen=True)
class Part:
    """A piece of a reply.

    Attributes:
        kind: "thought", "code" (of a call), "call" (a call without readable code, as written), "answer", or "text" for
            everything else.
        text: The words, without tags and surrounding space.
    """

    kind: Kind
    text: str


def read_parts(text: str, is_whole: bool = True) -> list[Part]:
    """The parts of a reply, in order; empty ones are left out.

    Args:
        text: The reply, or its beginning.
        is_whole: False for the beginning of a reply. Text that may still change is then left out, so a longer beginning
            only extends the last part or adds parts.
    """
    if not is_whole:
        text = _stable(text)
    parts: list[Part] = []
    end = 0
    while (opening := _OPENING.search(text, end)) is not None:
        _add(parts, "text", text[end : opening.start()])
        name = opening.group(1)
        if name == "tool_call":
            end = _add_call(parts, text, opening.end(), is_whole)
            continue
        close = text.find(f"</{name}>", opening.end())
        is_closed = close >= 0
        _add(parts, _KINDS[name], text[opening.end() : close] if is_closed else text[opening.end() :])
        end = close + len(f"</{name}>") if is_closed else len(text)
    _add(parts, "text", text[end:])
    return parts


def _add_call(parts: list[Part], text: str, at: int, is_whole: bool) -> int:
    """Add the call whose opening tag ends at an index; returns where it ends.

    The call ends after its object and the closing tag. An earlier closing tag may be part of the code. Only if the
    reply is whole is it certain that the object is broken; then the call ends at that tag.
    """
    found = whole_object(text, at)
    start, inner_end = found or (at, at)
    close = text.find(_CLOSE, inner_end)
    following = _OPENING.search(text, inner_end)
    if found and following is not None and not 0 <= close < following.start():
        end = following.start()  # the closing tag was forgotten
    elif close >= 0 and (found or is_whole):
        end = close + len(_CLOSE)
    else:
        end = inner_end if found and is_whole else len(text)
    payload = text[start : inner_end if found else close if close >= 0 else len(text)]
    code = _code(payload)
    _add(parts, "code", code)
    if not code and (found or is_whole):
        _add(parts, "call", payload)
    return end


def _add(parts: list[Part], kind: Kind, text: str) -> None:
    if text.strip():
        parts.append(Part(kind, text.strip("\n") if kind == "code" else text.strip()))


def _stable(text: str) -> str:
    """Remove half a character, or the beginning of a tag, from the end."""
    text = text.rstrip("\ufffd")
    start = text.rfind("<")
    if start >= 0 and any(tag.startswith(text[start:]) and tag != text[start:] for tag in _TAGS):
        text = text[:start]
    return text


def _code(payload: str) -> str:
    """The code of a call so far; its JSON may be incomplete."""
    key = _CODE.search(payload)
    if key is None:
        return ""
    written = _STRING.match(payload, key.end())
    return _unescaped(written.group() if written else "").rstrip("\n")


def _unescaped(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        number, letter = match.groups()
        return chr(int(number, 16)) if number else _ESCAPED.get(letter, letter)

    joined = _PAIR.sub(
        lambda pair: pair.group().encode("utf-16", "surrogatepass").decode("utf-16"), _ESCAPE.sub(character, text)
    )
    return joined.rstrip("".join(map(chr, range(0xD800, 0xDC00)))) if joined[-1:] >= "\ud800" else joined


def printable(text: str) -> str:
    """Replace every character that would control a terminal by a visible sign."""
    return _CONTROL.sub(lambda match: chr(0x2400 + ord(match.group())) if match.group() < " " else "\ufffd", text)
