"""What a client of the chat server may ask, checked: OpenAI's request for a chat completion.

Images come as data URLs only: a server that fetched addresses for strangers would fetch from inside its network.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from cv_lightning.data.rows import open_image
from cv_lightning.errors import DataError
from cv_lightning.tools.reply_text import join_calls

ROLES = ("system", "developer", "user", "assistant", "tool")

#: Images of one request, and their pixels together: 600 MB in memory.
MAX_IMAGES = 64
MAX_TOTAL_MEGAPIXELS = 200

#: Keys that would change the reply and that this server does not know, with the value that changes nothing.
_NEUTRAL: dict[str, Any] = {"n": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "logprobs": False}

_DATA_URL = re.compile(r"data:image/[a-zA-Z0-9.+-]+;base64,", re.ASCII)


class BadRequest(Exception):
    """A request that is refused.

    Attributes:
        status: The HTTP status.
        code: A word for programs.
        param: The key of the request that is wrong.
    """

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value", status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        role: One of `ROLES`.
        parts: Texts and RGB images in their order; an assistant's tool calls are text in it, as the policy writes them.
    """

    role: str
    parts: tuple[str | Image.Image, ...]

    @property
    def text(self) -> str:
        """The texts as one."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> list[Image.Image]:
        """The images."""
        return [part for part in self.parts if isinstance(part, Image.Image)]


@dataclass(frozen=True)
class ChatRequest:
    """A request that was found right.

    Attributes:
        model: The model's name.
        messages: The conversation.
        tools: The tools that the client offers, as it wrote them; empty where calls stay text.
        temperature: Softmax temperature.
        max_new_tokens: Longest reply; None: the server's.
        seed: None draws one.
        is_streamed: Whether the reply comes in pieces.
        counts_stream: Whether a streamed reply ends with its usage.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    temperature: float = 1.0
    max_new_tokens: int | None = None
    seed: int | None = None
    is_streamed: bool = False
    counts_stream: bool = False


def read_request(body: bytes) -> ChatRequest:
    """Read the JSON of a request.

    Raises:
        BadRequest: It is none, or asks for what this server does not have.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The request is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(content, dict):
        raise BadRequest("Expected a JSON object with model and messages.")
    for name, neutral in _NEUTRAL.items():
        if content.get(name) not in (None, neutral):
            raise BadRequest(f"{name}: this server only knows {neutral!r}.", name, "unsupported_value")
    for name in ("stop", "logit_bias"):
        if content.get(name):
            raise BadRequest(f"{name}: this server does not know it.", name, "unsupported_value")
    if (content.get("response_format") or {"type": "text"}) != {"type": "text"}:
        raise BadRequest("response_format: this server only gives text.", "response_format", "unsupported_value")
    limit = "max_completion_tokens" if content.get("max_completion_tokens") is not None else "max_tokens"
    options = content.get("stream_options")
    return ChatRequest(
        model=_typed(content, "model", str, ""),
        messages=_messages(content.get("messages")),
        tools=_tools(content),
        temperature=_number(content, "temperature", 1.0, 0.0, 100.0),
        max_new_tokens=_integer(content, limit, 1),
        seed=_integer(content, "seed", -(1 << 63)),
        is_streamed=_typed(content, "stream", bool, False),
        counts_stream=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _typed(content: Mapping[str, Any], name: str, kind: type[Any], otherwise: Any) -> Any:
    value = content.get(name)
    if value is None:
        return otherwise
    if not isinstance(value, kind):
        raise BadRequest(f"{name}: expected {kind.__name__} but got {type(value).__name__}.", name)
    return value


def _number(content: Mapping[str, Any], name: str, otherwise: float, low: float, high: float) -> float:
    value = otherwise if content.get(name) is None else content[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise BadRequest(f"{name}: expected a number from {low:g} to {high:g} but got {value!r}.", name)
    return float(value)


def _integer(content: Mapping[str, Any], name: str, low: int) -> int | None:
    value: int | None = _typed(content, name, int, None)
    if isinstance(value, bool) or (value is not None and not low <= value < 1 << 63):
        raise BadRequest(f"{name}: expected a whole number from {low} on but got {value!r}.", name)
    return value


def _tools(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    tools, choice = content.get("tools") or [], content.get("tool_choice")
    if choice not in (None, "auto", "none"):
        raise BadRequest("tool_choice: the policy decides; give auto or none.", "tool_choice", "unsupported_value")
    is_right = isinstance(tools, list) and all(
        isinstance(tool, dict)
        and isinstance(tool.get("function"), dict)
        and isinstance(tool["function"].get("name"), str)
        for tool in tools
    )
    if not is_right:
        raise BadRequest('tools: expected a list of {"type": "function", "function": {"name": ...}}.', "tools")
    return () if choice == "none" else tuple(tools)


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise BadRequest("messages: expected a list with at least one message.", "messages")
    images = _Images()
    messages = tuple(_message(message, f"messages[{index}]", images) for index, message in enumerate(value))
    for index, message in enumerate(messages):
        if message.role in ("system", "developer") and index:
            raise BadRequest(f"messages[{index}]: only the first message may be of the system.", "messages")
    if messages[-1].role not in ("user", "tool"):
        raise BadRequest("messages: the last one must be of the user or a tool.", "messages")
    return messages


class _Images:
    """Decodes the images of a request, as long as they are not too many."""

    def __init__(self) -> None:
        self._count = 0
        self._pixels = 0

    def decode(self, encoded: bytes, where: str) -> Image.Image:
        """One image; raises `DataError` for what is none."""
        self._count += 1
        if self._count > MAX_IMAGES:
            raise BadRequest(f"{where}: more than {MAX_IMAGES} images.", where)
        image = open_image(encoded, where)
        self._pixels += image.width * image.height
        if self._pixels > MAX_TOTAL_MEGAPIXELS * 1_000_000:
            raise BadRequest(f"{where}: the images have more than {MAX_TOTAL_MEGAPIXELS} megapixels together.", where)
        return image


def _message(value: Any, where: str, images: _Images) -> Message:
    role = value.get("role") if isinstance(value, dict) else None
    if role not in ROLES:
        raise BadRequest(f"{where}.role: expected one of {', '.join(ROLES)} but got {role!r}.", f"{where}.role")
    content = value.get("content")
    if isinstance(content, str):
        parts: list[str | Image.Image] = [_whole(content, f"{where}.content")]
    elif content is None and role == "assistant":
        parts = []
    elif isinstance(content, list):
        parts = [_part(part, role, f"{where}.content[{index}]", images) for index, part in enumerate(content)]
    else:
        raise BadRequest(f"{where}.content: expected a text or a list of parts.", f"{where}.content")
    if role == "assistant":
        given = value.get("tool_calls") or []
        if not isinstance(given, list):
            raise BadRequest(f"{where}.tool_calls: expected a list.", f"{where}.tool_calls")
        calls = [_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(given)]
        text = "".join(part for part in parts if isinstance(part, str))
        parts = [join_calls(text, calls)]
    return Message(role, tuple(part for part in parts if part != ""))


def _part(value: Any, role: str, where: str, images: _Images) -> str | Image.Image:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("text", "refusal") and isinstance(value.get(kind), str):
        return _whole(value[kind], where)
    if kind != "image_url" or role not in ("user", "tool"):
        raise BadRequest(f"{where}: expected a text part, or of the user or a tool an image_url part.", where)
    image_url = value.get("image_url")
    url = image_url.get("url") if isinstance(image_url, dict) else image_url
    if not isinstance(url, str) or (match := _DATA_URL.match(url)) is None:
        raise BadRequest(
            f"{where}: images must come as data URLs (data:image/png;base64,...); this server fetches nothing.", where
        )
    try:
        return images.decode(base64.b64decode(url[match.end() :], validate=True), where)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"{where}: the data URL is not valid base64.", where, "invalid_image") from error
    except DataError as error:
        raise BadRequest(str(error), where, "invalid_image") from error


def _whole(text: str, where: str) -> str:
    """JSON can hold halves of characters, and a tokenizer cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"{where}: the text holds half a character (a lone surrogate).", where) from error
    return text


def _call(value: Any, where: str) -> tuple[str, str]:
    function = value.get("function") if isinstance(value, dict) else None
    fields = function if isinstance(function, dict) else {}
    name, arguments = fields.get("name"), fields.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, str):
        raise BadRequest(f'{where}: expected {{"function": {{"name": ..., "arguments": "..."}}}}.', where)
    return _whole(name, where), _whole(arguments, where)
