"""Converts a trajectory to the messages of an OpenAI-compatible request, and a reply to a turn."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

from PIL import Image

from cv_lightning.conversation import announcement, escape_markup, parse_reply
from cv_lightning.endpoint.reply import ChatReply
from cv_lightning.errors import ConfigError
from cv_lightning.tools.code import CODE_TOOLS
from cv_lightning.tools.reply_text import ONE_ACTION, join_calls, read_turn, write_call
from cv_lightning.tools.toolbox import Size, Toolbox, Units
from cv_lightning.types import Reply, Sample
from sandbox import Observation

#: How tools are offered: as `tools` of the request, as text in the conversation (the format on which our policies are
#: trained), or not at all.
ToolMode = Literal["native", "text", "none"]

_NATIVE = (
    "You are a helpful assistant that can look at images through {means}. Call {article} tool at most once per turn, "
    "and look at its result before you go on. Give the final answer within <answer></answer>."
)
_NONE = "You are a helpful assistant. Give the final answer within <answer></answer>."


def default_prompt(mode: ToolMode, toolbox: Toolbox) -> str:
    """The system turn for a config without one."""
    if mode == "text":
        return toolbox.system_prompt
    return _NATIVE.format(means=toolbox.means, article=toolbox.article) if mode == "native" else _NONE


_JPEG_QUALITY = 90


@dataclass(frozen=True)
class ImageEncoding:
    """How images are encoded in requests.

    Attributes:
        max_pixels: Larger images are reduced to this many pixels; tools still work on the full image.
        max_kilobytes: A larger PNG is sent as JPEG, and reduced further if necessary.
        format: "png" is lossless; "jpeg" is smaller.
    """

    max_pixels: int = 4096 * 4096
    max_kilobytes: int = 4096
    format: Literal["png", "jpeg"] = "png"

    def __post_init__(self) -> None:
        if self.max_pixels < 1 or self.max_kilobytes < 4:
            raise ConfigError(
                "ImageEncoding: expected max_pixels >= 1 and max_kilobytes >= 4, got "
                f"{self.max_pixels}, {self.max_kilobytes}"
            )

    def data_url(self, image: Image.Image) -> str:
        """Encode an RGB image as a data URL."""
        image = _reduced(image, self.max_pixels)
        kind, limit = self.format, self.max_kilobytes << 10
        encoded = _encode(image, kind)
        while len(encoded) > limit:
            if kind == "jpeg":
                image = _reduced(image, max(1, image.width * image.height // 2))
            kind = "jpeg"
            encoded = _encode(image, kind)
        return f"data:image/{kind};base64,{base64.b64encode(encoded).decode('ascii')}"


def _encode(image: Image.Image, kind: str) -> bytes:
    buffer = BytesIO()
    options: dict[str, Any] = {"quality": _JPEG_QUALITY} if kind == "jpeg" else {"compress_level": 6}
    image.save(buffer, format=kind.upper(), **options)
    return buffer.getvalue()


def _reduced(image: Image.Image, max_pixels: int) -> Image.Image:
    n_pixels = image.width * image.height
    if n_pixels <= max_pixels:
        return image
    scale = (max_pixels / n_pixels) ** 0.5
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


#: Maximum number of executed calls per turn.
MAX_CALLS = 16
_TOO_MANY = f"A turn may make {MAX_CALLS} calls. Make this one in the next turn."


class Dialogue:
    """The messages of one trajectory.

    Args:
        sample: The question.
        mode: How tools are offered.
        system_prompt: Text of the system turn; "" for no system turn.
        encoding: How images are encoded.
        toolbox: The tools.
        announces_sizes: Whether a text before each image gives its number and size. Calls refer to images by number and
            to places in pixels of the full image, but the model may see a reduced one.
    """

    def __init__(
        self,
        sample: Sample,
        mode: ToolMode,
        system_prompt: str,
        encoding: ImageEncoding,
        toolbox: Toolbox = CODE_TOOLS,
        announces_sizes: bool = False,
    ) -> None:
        self.mode: ToolMode = mode
        self.toolbox = toolbox
        self.messages: list[dict[str, Any]] = []
        self._encoding = encoding
        self._announces_sizes = announces_sizes or toolbox.announces
        self._sizes: list[Size] = []
        self._n_calls = 0
        self._open_ids: list[str] = []
        if system_prompt:
            self.messages.append({"role": "system", "content": system_prompt})
        parts: list[dict[str, Any]] = []
        for part in sample.parts:
            parts += [_text(escape_markup(part))] if isinstance(part, str) else self._show(part)
        self.messages.append({"role": "user", "content": parts})

    @property
    def tools(self) -> list[dict[str, Any]] | None:
        """`tools` of the request."""
        return self.toolbox.schemas if self.mode == "native" else None

    def _show(self, image: Image.Image) -> list[dict[str, Any]]:
        shown = {"type": "image_url", "image_url": {"url": self._encoding.data_url(image)}}
        announced = _text(announcement(len(self._sizes), image.size))
        self._sizes.append(image.size)
        return [announced, shown] if self._announces_sizes else [shown]

    def append_reply(self, chat: ChatReply) -> list[tuple[str, Reply]]:
        """Append the model's reply.

        Returns:
            The turns of the reply, each as text in our own format and in parsed form: one per call, or a single one. In
            the modes "native" and "none", which do not describe the format, a reply without tags is the answer.
        """
        # Clients omit nulls and empty lists of calls, because servers refuse them.
        message = {key: value for key, value in (chat.message or {}).items() if value not in (None, [], {})}
        content = message.get("content")
        is_given = isinstance(content, str | list)
        message |= {"role": "assistant", "content": content if is_given else chat.text or (None if chat.calls else "")}
        units = self.toolbox.units(self._sizes)
        if chat.calls:
            self._open_ids = self._ids_of(chat)
            given = message.get("tool_calls") or [{}] * len(chat.calls)
            message["tool_calls"] = [
                {"type": "function", **call, "id": call_id, "function": {**call.get("function", {}), **function}}
                for call, call_id, function in zip(given, self._open_ids, _functions(chat), strict=True)
            ]
        self.messages.append(message)
        if chat.calls:
            return _read_calls(chat, self.toolbox, units)
        reply = parse_reply(chat.text, self.toolbox, units)
        if reply.is_silent and self.mode != "text":
            said = read_turn(chat.text).words.strip()
            reply = Reply(answer=said) if said else reply
        return [(chat.text, reply)]

    def _ids_of(self, chat: ChatReply) -> list[str]:
        """The ids of the calls; our own ids if the server gave none or used one twice."""
        given = [call_id for call_id, _, _ in chat.calls]
        self._n_calls += len(given)
        if all(given) and len(set(given)) == len(given):
            return given
        return [f"call_{number}" for number in range(self._n_calls - len(given), self._n_calls)]

    def append_observation(self, observation: Observation) -> None:
        """Append the result of the first call that does not have one yet."""
        text = escape_markup(observation.text)
        shown = [] if observation.image is None else self._show(observation.image)
        if self._open_ids:
            content = [*shown, _text(text)] if shown else text
            self.messages.append({"role": "tool", "tool_call_id": self._open_ids.pop(0), "content": content})
            return
        opening, closing = "<tool_response>\n", f"{text}\n</tool_response>"
        parts = [_text(opening), *shown, _text(closing)] if shown else [_text(opening + closing)]
        self.messages.append({"role": "user", "content": parts})


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _functions(chat: ChatReply) -> list[dict[str, str]]:
    return [{"name": name, "arguments": arguments} for _, name, arguments in chat.calls]


def _read_calls(chat: ChatReply, toolbox: Toolbox, units: Units) -> list[tuple[str, Reply]]:
    answers_too = parse_reply(chat.text).answer is not None
    read = []
    for number, (_, name, arguments) in enumerate(chat.calls):
        payload = write_call(name, arguments).removeprefix("<tool_call>").removesuffix("</tool_call>")
        reply = Reply(fault=_TOO_MANY) if number >= MAX_CALLS else toolbox.read(payload, units)
        text = join_calls("" if number else chat.text, [(name, arguments)])
        read.append((text, Reply(fault=ONE_ACTION) if answers_too else reply))
    return read
