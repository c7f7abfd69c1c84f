"""Adapts requests to demands of a server beyond the protocol, learned from its refusals.

Servers that call themselves OpenAI-compatible differ in three things: the settings that they know, the places where
they accept images of tool results, and the fields of their own messages that they accept back. A refusal that names
such a thing changes the request. The change is kept once a request has succeeded with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cv_lightning.endpoint.meter import RequestError

#: Place of the images of tool results: a user turn after the tool's turn (OpenAI), a user turn after an extra assistant
#: turn ("bridge": Mistral, templates whose roles alternate), or the tool's turn.
ToolImages = Literal["user", "bridge", "tool"]
_PLACES: tuple[ToolImages, ...] = ("user", "bridge", "tool")
_PLACE_NOTES: Mapping[ToolImages, str] = {
    "user": "images of tool results in a turn of the user",
    "bridge": "images of tool results in a turn of the user after one of the assistant",
    "tool": "images of tool results in the tool's turn",
}
_BRIDGE = "I look at the result."

#: Settings that a server may not know, and their newer names; None means that they are left out.
_SETTINGS: Mapping[str, str | None] = {"temperature": None, "seed": None, "max_tokens": "max_completion_tokens"}

#: Status codes of refusals. 500: llama.cpp, if the chat template raises. A busy server (429, 503) refuses no form.
_REFUSALS = (400, 422, 500)
_REFUSED = re.compile(
    r"unsupported|(?:not|n't) (?:be )?support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|deprecated"
    r"|extra inputs|remove",
    re.IGNORECASE,
)
_ABOUT_ORDER = re.compile(r"\broles?\b|alternat|order|\bafter\b|follow|\bturn", re.IGNORECASE)
_ABOUT_CONTENT = re.compile(r"image|content|string|multimodal|vision|\btext\b", re.IGNORECASE)


@dataclass(frozen=True)
class Adaptation:
    """The changes to a server's requests.

    Attributes:
        tool_images: Place of the images of tool results.
        refused_places: Places that the server refused.
        settings: Settings to leave out or rename.
        fields: Fields of the assistant's messages that are not sent back.
    """

    tool_images: ToolImages = "user"
    refused_places: frozenset[ToolImages] = field(default_factory=frozenset)
    settings: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()

    def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request in a form that the server accepts; in `body`, images of tool results are in the tool's turns."""
        adapted = {key: value for key, value in body.items() if key not in self.settings}
        for key in self.settings & body.keys():
            if (newer := _SETTINGS[key]) is not None:
                adapted.setdefault(newer, body[key])
        messages = [
            {key: value for key, value in message.items() if key not in self.fields}
            if message["role"] == "assistant"
            else message
            for message in body["messages"]
        ]
        adapted["messages"] = _place_images(messages, self.tool_images)
        return adapted

    def notes(self, body: Mapping[str, Any]) -> tuple[str, ...]:
        """The changes to a request, in words."""
        found = [_setting_note(key) for key in sorted(self.settings & body.keys())]
        if self.refused_places and _shows_results(body["messages"]):
            found.append(_PLACE_NOTES[self.tool_images])
        sent = _own_fields(body["messages"])
        return (*found, *(f"{name} of earlier turns left out" for name in sorted(self.fields & sent)))

    def after(self, error: RequestError, body: Mapping[str, Any]) -> Adaptation | None:
        """The changes that a refusal of `body` asks for; None if it asks for nothing that was not tried yet."""
        if error.status not in _REFUSALS or error.is_too_long:
            return None
        if _REFUSED.search(f"{error.code} {error}"):
            settings = {key for key in _SETTINGS.keys() & body.keys() if _names(error, key)}
            fields = {name for name in _own_fields(body["messages"]) if _names(error, name)}
            if not settings <= self.settings or not fields <= self.fields:
                return replace(self, settings=self.settings | settings, fields=self.fields | fields)
        about = _ABOUT_CONTENT if self.tool_images == "tool" else _ABOUT_ORDER
        if not _shows_results(body["messages"]) or not about.search(str(error)):
            return None
        refused = self.refused_places | {self.tool_images}
        at = _PLACES.index(self.tool_images) + 1
        place = next((place for place in (*_PLACES[at:], *_PLACES[:at]) if place not in refused), None)
        return None if place is None else replace(self, tool_images=place, refused_places=refused)

    def join(self, other: Adaptation) -> Adaptation:
        """Combine these changes with those that another request needed."""
        is_newer = len(other.refused_places) > len(self.refused_places)
        place = other if is_newer else self
        return Adaptation(
            place.tool_images, place.refused_places, self.settings | other.settings, self.fields | other.fields
        )


def _setting_note(key: str) -> str:
    newer = _SETTINGS[key]
    return f"{key} left out" if newer is None else f"{key} renamed to {newer}"


def _names(error: RequestError, name: str) -> bool:
    """Whether a refusal is about a parameter; if the server's field `param` names a setting, it decides."""
    if error.param in _SETTINGS:
        return error.param == name
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(error)) is not None


def _own_fields(messages: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names of the fields of assistant messages that are not part of the protocol."""
    named = {name for message in messages if message["role"] == "assistant" for name in message}
    return named - {"role", "content", "tool_calls"}


def _shows_results(messages: Sequence[Mapping[str, Any]]) -> bool:
    return any(message["role"] == "tool" and isinstance(message["content"], list) for message in messages)


def _place_images(messages: Iterable[Mapping[str, Any]], place: ToolImages) -> list[Mapping[str, Any]]:
    """Move the images of tool results to their place: the tool's turn, or after all results of a reply.

    A tool's turn keeps its text. The size of the image replaces an empty text, because servers refuse those.
    """
    moved: list[Mapping[str, Any]] = []
    shown: list[Mapping[str, Any]] = []

    def show() -> None:
        if shown:
            moved.extend([{"role": "assistant", "content": _BRIDGE}] if place == "bridge" else [])
            moved.append({"role": "user", "content": [*shown]})
            shown.clear()

    for message in messages:
        if message["role"] != "tool":
            show()
        elif isinstance(message["content"], list):
            *images, last = message["content"]
            if place == "tool":
                message = {**message, "content": images + [last] * (last["text"] != "")}
            else:
                shown.extend(images)
                sizes = "".join(part.get("text", "") for part in images).strip()
                message = {**message, "content": last["text"] or sizes}
        moved.append(message)
    show()
    return moved
