"""The known formats: the columns that identify them, and the meaning of their records."""

from __future__ import annotations

import ast
import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cv_lightning.data.sources.records import Record, Records
from cv_lightning.errors import DataError
from cv_lightning.types import IMAGE

#: The letters of choices.
LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Format:
    """A published data format.

    Attributes:
        name: Its name in configs.
        title: Its readable name.
        columns: Sets of columns; a file has this format if it has all columns of one set.
        fields: (record, where, image folder) -> the unchecked fields for `rows.read_row`.
        expand: Makes several records of each record; their answers depend on how the image was turned.
    """

    name: str
    title: str
    columns: Sequence[frozenset[str]]
    fields: Callable[[Record, str, Path], dict[str, Any]]
    expand: Callable[[Records], Records] | None = None

    def fits(self, columns: Sequence[str]) -> bool:
        """Whether a file with these columns has this format."""
        return any(needed <= set(columns) for needed in self.columns)


def columns(*names: str) -> frozenset[str]:
    """A set of columns."""
    return frozenset(names)


#: Beginnings of base64 text of PNG, GIF, WebP and BMP; other text is base64 if it is longer than any path.
_BASE64_STARTS = ("iVBORw0KGgo", "R0lGOD", "UklGR", "Qk")
_LONGEST_PATH = 512
_DATA_URI = re.compile(r"data:[\w.+/-]*(?:;[\w=-]+)*;base64,")


def unwrap_image(value: Any, where: str) -> Any:
    """Bytes or path of an image cell: `{"bytes", "path"}`, `{"url"}`, bytes, data URI, base64 text with line breaks."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("bytes", "path", "url", "image", "image_url") if value.get(name)), None)
        return unwrap_image(value, where) if isinstance(value, Mapping) else _unwrap_text(value, where)
    return _unwrap_text(value, where)


def unwrap_images(value: Any, where: str) -> list[Any]:
    """The images of a cell that holds nothing, one image, a list of images, or such a list as text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise DataError(f"{where}: the list of images cannot be read ({error}). Write a JSON list.") from error
    values = value if isinstance(value, list | tuple) else [] if value in (None, "") else [value]
    return [unwrap_image(one, where) for one in values]


def _unwrap_text(value: Any, where: str) -> Any:
    if not isinstance(value, str):
        return value
    is_path = len(value) <= _LONGEST_PATH and not (value.startswith(_BASE64_STARTS) and len(value) > 64)
    return value if is_path and not _DATA_URI.match(value) else decode_image(value, where)


def place_images(question: str) -> str:
    """A question without its leading `<image>` places; if there are others between words, all places stay."""
    rest = question.strip()
    while rest.startswith(IMAGE):
        rest = rest.removeprefix(IMAGE).lstrip()
    return question.strip() if IMAGE in rest else rest


def content_text(content: Any) -> str:
    """The content of a message (a text or a list of parts) as text, with `<image>` at the place of each image."""
    parts = content if isinstance(content, list | tuple) else [] if content is None else [content]
    return "".join(
        str(part) if not isinstance(part, Mapping) else IMAGE if is_image(part) else str(part.get("text") or "")
        for part in parts
    )


def is_image(part: Mapping[str, Any]) -> bool:
    """Whether a part of a message is an image, with its pixels in the part or elsewhere."""
    return str(part.get("type")) in ("image", "image_url", "input_image")


def decode_image(text: Any, where: str) -> bytes:
    """The bytes of an image in base64 text, with or without line breaks, or in a data URI.

    Raises:
        DataError: The text is not base64.
    """
    try:
        if not isinstance(text, str) or not text:
            raise ValueError("it is empty")
        start = _DATA_URI.match(text)
        return base64.b64decode("".join(text[start.end() if start else 0 :].split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise DataError(f"{where}: the image is not base64 text ({error}). Replace it or remove the row.") from error


def with_choices(question: Any, options: Mapping[str, str]) -> str:
    """A question followed by its lettered options."""
    return "\n".join([str(question), *(f"({letter}) {text}" for letter, text in options.items())])
