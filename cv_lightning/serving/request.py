"""OpenAI's request for a chat completion, checked by pydantic.

Images must be data URLs: a server that fetched addresses for strangers would fetch from inside its network.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
from io import BytesIO
from typing import Annotated, Any, Literal, cast

from PIL import Image
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cv_lightning.data.rows import open_image
from cv_lightning.errors import DataError
from cv_lightning.tools.reply_text import join_calls
from cv_lightning.types import IMAGE, interleave

#: Largest number of images in one request, and of all their pixels together: 600 MB in memory.
MAX_IMAGES = 64
MAX_TOTAL_MEGAPIXELS = 200

#: Largest number of replies to one request.
MAX_CHOICES = 128

_DATA_URL = re.compile(r"data:image/[a-zA-Z0-9.+-]+;base64,", re.ASCII)


class BadRequest(Exception):
    """A request that is refused.

    Attributes:
        status: The HTTP status.
        code: Machine-readable name of the error.
        param: The wrong key of the request.
    """

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value", status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


def decode_data_url(url: Any) -> bytes:
    """Decode the data URL of an image to bytes; raises `ValueError` for any other text."""
    match = _DATA_URL.match(url) if isinstance(url, str) else None
    if match is None:
        raise ValueError("images must come as data URLs (data:image/png;base64,...); this server fetches nothing")
    try:
        return base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("the data URL is not valid base64") from error


def count_pixels(encoded: bytes) -> int:
    """Number of pixels according to the image's header, before decoding; 0 if it cannot be read."""
    try:
        with Image.open(BytesIO(encoded)) as image:
            return image.width * image.height
    except Image.DecompressionBombError:  # Pillow opens no image that is so large
        return sys.maxsize
    except Exception:  # noqa: BLE001 - decoding reports the error
        return 0


class RequestImages:
    """Decodes the images of one request and counts them."""

    def __init__(self) -> None:
        self._count = 0
        self._pixels = 0

    def add(self, encoded: bytes) -> Image.Image:
        """Decode one image; raises `ValueError` if it cannot be read, or exceeds the limits."""
        self._count += 1
        if self._count > MAX_IMAGES:
            raise ValueError(f"more than {MAX_IMAGES} images")
        self._pixels += count_pixels(encoded)
        if self._pixels > MAX_TOTAL_MEGAPIXELS * 1_000_000:
            raise ValueError(f"the images have more than {MAX_TOTAL_MEGAPIXELS} megapixels together")
        return open_image(encoded, "the image")


def _image(value: Any, info: ValidationInfo) -> Image.Image:
    images = cast(RequestImages, info.context)
    try:
        return images.add(decode_data_url(value.get("url") if isinstance(value, dict) else value))
    except (DataError, ValueError) as error:
        raise PydanticCustomError("invalid_image", "{reason}", {"reason": str(error)}) from error


def _only(neutral: Any) -> AfterValidator:
    """Refuse a key that would change the reply, unless it has the neutral value."""

    def check(value: Any) -> Any:
        if value != neutral:
            raise PydanticCustomError(
                "unsupported_value", "this server supports only {value}", {"value": repr(neutral)}
            )
        return value

    return AfterValidator(check)


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class MessagePart(_Checked):
    """A text or an image of a message."""

    type: Literal["text", "refusal", "image_url"]
    text: str = ""
    refusal: str = ""
    image_url: Annotated[Any, PlainValidator(_image)] = None

    @property
    def value(self) -> str | Image.Image:
        """The text, or the RGB image."""
        image: Image.Image | None = self.image_url
        return image if image is not None else self.text or self.refusal

    @model_validator(mode="after")
    def _holds_its_type(self) -> MessagePart:
        if self.type not in self.model_fields_set or (self.type != "image_url" and self.image_url is not None):
            raise ValueError(f"expected a part of type {self.type!r} to hold {self.type!r}")
        return self


class _Function(_Checked):
    name: str
    arguments: str


class _FunctionCall(_Checked):
    function: _Function


class Message(_Checked):
    """One message; a text counts as one part."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: list[MessagePart] = Field(default=None, validate_default=True)
    tool_calls: list[_FunctionCall] | None = None

    @property
    def text(self) -> str:
        """The texts joined; for an assistant's message, with its tool calls in the policy's format."""
        text = "".join(part.value for part in self.content if isinstance(part.value, str))
        if self.role != "assistant":
            return text
        return join_calls(text, [(call.function.name, call.function.arguments) for call in self.tool_calls or ()])

    @property
    def images(self) -> list[Image.Image]:
        """The RGB images."""
        return [part.image_url for part in self.content if part.image_url is not None]

    @property
    def parts(self) -> tuple[str | Image.Image, ...]:
        """Texts and images in order; if the texts have one `<image>` per image, the images go to these places."""
        if self.images and self.text.count(IMAGE) == len(self.images):
            return interleave(self.text, self.images)
        return tuple(part.value for part in self.content if part.value != "")

    @field_validator("content", mode="before")
    @classmethod
    def _as_parts(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            return [{"type": "text", "text": value}]
        return [] if value is None and info.data.get("role") == "assistant" else value

    @field_validator("content")
    @classmethod
    def _images_of_users_only(cls, value: list[MessagePart], info: ValidationInfo) -> list[MessagePart]:
        if info.data.get("role") not in ("user", "tool") and any(part.image_url is not None for part in value):
            raise ValueError("expected text parts; only the user and a tool may send images")
        return value


def _tool(value: dict[str, Any]) -> dict[str, Any]:
    function = value.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError('expected {"type": "function", "function": {"name": ...}}')
    return value


class _StreamOptions(_Checked):
    include_usage: bool | None = None


class ChatRequest(_Checked):
    """A valid request; null counts as absent.

    Attributes:
        model: The model's name.
        messages: The conversation.
        temperature: Softmax temperature.
        seed: Seed of the reply; None for a random one.
        is_streamed: Whether the reply is sent in pieces.
        n: Number of replies to sample.
        stop: A reply ends before the first of these texts.
        has_logprobs: Whether to return the log-probabilities of the sampled tokens.
        top_p: Must be 1, except at temperature 0, which always takes the most probable token.
    """

    model: str = ""
    messages: list[Message] = Field(min_length=1)
    offered_tools: list[Annotated[dict[str, Any], AfterValidator(_tool)]] = Field([], alias="tools")
    tool_choice: str = "auto"
    temperature: float = Field(1.0, ge=0, le=100)
    max_tokens: int | None = Field(None, ge=1, lt=1 << 63)
    max_completion_tokens: int | None = Field(None, ge=1, lt=1 << 63)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    is_streamed: bool = Field(False, alias="stream")
    stream_options: _StreamOptions = _StreamOptions()
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stop: list[Annotated[str, Field(min_length=1, max_length=1000)]] = Field([], max_length=16)
    has_logprobs: bool = Field(False, alias="logprobs")
    top_logprobs: Annotated[Any, _only(0)] = 0
    top_p: float = Field(1, ge=0, le=1)
    presence_penalty: Annotated[Any, _only(0)] = 0
    frequency_penalty: Annotated[Any, _only(0)] = 0
    response_format: Annotated[Any, _only({"type": "text"})] = None
    logit_bias: Annotated[Any, _only({})] = None

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools that the client offers, as it wrote them; empty if calls are to stay text."""
        return [] if self.tool_choice == "none" else self.offered_tools

    @property
    def max_new_tokens(self) -> int | None:
        """Longest reply; None for the server's limit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def counts_stream(self) -> bool:
        """Whether a streamed reply ends with its token usage."""
        return self.stream_options.include_usage is True

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value

    @field_validator("stop", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("top_p")
    @classmethod
    def _whole_distribution(cls, value: float, info: ValidationInfo) -> float:
        if value != 1 and info.data.get("temperature") != 0:
            raise PydanticCustomError("unsupported_value", "this server supports only 1, or any value at temperature 0")
        return value

    @field_validator("tool_choice")
    @classmethod
    def _policy_chooses(cls, value: str) -> str:
        if value not in ("auto", "none"):
            raise PydanticCustomError("unsupported_value", "expected auto or none; the policy decides")
        return value

    @field_validator("messages")
    @classmethod
    def _order(cls, value: list[Message]) -> list[Message]:
        if any(message.role in ("system", "developer") for message in value[1:]):
            raise ValueError("only the first message may have the role system or developer")
        if value[-1].role not in ("user", "tool"):
            raise ValueError("the last message must have the role user or tool")
        return value


def read_request(body: bytes) -> ChatRequest:
    """Read the JSON of a request.

    Raises:
        BadRequest: The request is not valid, or asks for something that this server does not support.
    """
    try:
        return ChatRequest.model_validate_json(body, context=RequestImages())
    except ValidationError as error:
        raise refusal_of(error) from error


def refusal_of(error: ValidationError) -> BadRequest:
    """The first error that pydantic found, with its place as a program would access it: `messages[0].content`."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"]).removeprefix(".")
    reason = first["msg"].removeprefix("Value error, ")
    known = {"json_invalid": "invalid_json", "invalid_image": "invalid_image", "unsupported_value": "unsupported_value"}
    code = known.get(first["type"], "invalid_value")
    return BadRequest(f"{where}: {reason}." if where else f"{reason}.", where or None, code)
