"""The known formats: how they are recognised, and the meaning of their records."""

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
    """A published form of data.

    Attributes:
        name: Its name in configs.
        title: Its name for people.
        columns: Sets of columns; a file is of this format if it has all of one set.
        fields: (record, where, image folder) -> the unchecked fields for `rows.read_row`.
        expand: Makes several records of one, whose answers depend on how the image was turned.
    """

    name: str
    title: str
    columns: Sequence[frozenset[str]]
    fields: Callable[[Record, str, Path], dict[str, Any]]
    expand: Callable[[Records], Records] | None = None

    def fits(self, columns: Sequence[str]) -> bool:
        """Whether a file with these columns is of this format."""
        return any(needed <= set(columns) for needed in self.columns)


def columns(*names: str) -> frozenset[str]:
    """A set of columns."""
    return frozenset(names)


#: How base64 text of PNG, GIF, WebP and BMP begins; other text is base64 if it is longer than any path.
_BASE64_STARTS = ("iVBORw0KGgo", "R0lGOD", "UklGR", "Qk")
_LONGEST_PATH = 512
_DATA_URI = re.compile(r"data:[\w.+/-]*(?:;[\w=-]+)*;base64,")


def unwrap_image(value: Any, where: str) -> Any:
    """An image cell as bytes or a path: `{"bytes", "path"}`, `{"url"}`, bytes, a data URI, base64 text in any lines."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("bytes", "path", "url", "image", "image_url") if value.get(name)), None)
        return unwrap_image(value, where) if isinstance(value, Mapping) else _unwrap_text(value, where)
    return _unwrap_text(value, where)


def unwrap_images(value: Any, where: str) -> list[Any]:
    """The images of a cell that holds none, one, a list of them, or a list written as text."""
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
    """A question whose images come first without their places; places between the words stay."""
    rest = question.strip()
    while rest.startswith(IMAGE):
        rest = rest.removeprefix(IMAGE).lstrip()
    return question.strip() if IMAGE in rest else rest


def content_text(content: Any) -> str:
    """The content of a message, a text or a list of parts, as text with `<image>` at the place of each image."""
    parts = content if isinstance(content, list | tuple) else [] if content is None else [content]
    return "".join(
        str(part) if not isinstance(part, Mapping) else IMAGE if is_image(part) else str(part.get("text") or "")
        for part in parts
    )


def is_image(part: Mapping[str, Any]) -> bool:
    """Whether a part of a message is an image, its pixels in it or elsewhere."""
    return str(part.get("type")) in ("image", "image_url", "input_image")


def decode_image(text: Any, where: str) -> bytes:
    """An image from base64 text in any lines, or from a data URI.

    Raises:
        DataError: It is not base64.
    """
    try:
        if not isinstance(text, str) or not text:
            raise ValueError("it is empty")
        start = _DATA_URI.match(text)
        return base64.b64decode("".join(text[start.end() if start else 0 :].split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise DataError(f"{where}: the image is no base64 text ({error}). Replace it or remove the row.") from error


def with_choices(question: Any, options: Mapping[str, str]) -> str:
    """A question followed by its lettered options."""
    return "\n".join([str(question), *(f"({letter}) {text}" for letter, text in options.items())])
