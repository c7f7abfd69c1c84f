"""Rows of recorded data: each row becomes a `Sample`, or a `DataError` with row, cause and remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageOps

from cv_lightning.console.suggestions import closest, did_you_mean
from cv_lightning.data.orientation import check_transforms
from cv_lightning.errors import DataError
from cv_lightning.types import IMAGE, Box, Sample
from sandbox.images import as_rgb

T = TypeVar("T")

#: The pixels of an image: a file, its encoded bytes, or an image.
ImageSource = Path | bytes | Image.Image

FIELDS = ("id", "question", "images", "answer", "transforms", "box", "family", "alternatives", "rule")

#: Larger images are rejected before decoding. 100 megapixels take 300 MB in memory; an 8K image has 33 megapixels.
MAX_MEGAPIXELS = 100

#: Maximum ratio of an image's sides in the image processors of the Qwen-VL family.
MAX_ASPECT = 200

#: Optional fields; a similar unknown name is a fault, because it may be a misspelling. Other unknown names are ignored.
_EASILY_LOST = ("transforms", "box")


@dataclass(frozen=True)
class Row:
    """A row with checked text; its images are opened at their first use.

    Attributes:
        where: File and line, for messages.
        id: Unique within its source.
        question: The text shown to the policy.
        images: Files, bytes or images.
        answer: The correct answer.
        transforms: Transforms that were applied to the first image, in order.
        box: The region that holds the answer, in pixels of the first image as given.
        family: The kind of task.
        alternatives: Other correct answers.
        rule: Name of the rule that compares answers.
    """

    where: str
    id: str
    question: str
    images: tuple[ImageSource, ...]
    answer: str
    transforms: tuple[str, ...] = ()
    box: Box | None = None
    family: str = "recorded"
    alternatives: tuple[str, ...] = ()
    rule: str = "match"


def sample_from_row(fields: Mapping[str, Any], where: str, folder: Path | None = None) -> Sample:
    """The sample of a row.

    Args:
        fields: `question`, `images` (paths, encoded bytes or Pillow images; one or a list), `answer`, and optionally
            `id`, `transforms`, `box` (x1, y1, x2, y2 in pixels of the first image as given), `family`,
            `alternatives` (other correct answers) and `rule` (the rule that compares answers).
        where: File and line, for messages.
        folder: Relative image paths start here.

    Raises:
        DataError: A field is missing or invalid.
    """
    return load_sample(read_row(fields, where, folder))


def read_row(fields: Mapping[str, Any], where: str, folder: Path | None = None) -> Row:
    """Check all of a row except its pixels; arguments and errors as in `sample_from_row`."""
    faults: list[DataError] = []
    row = _read(fields, where, folder, faults)
    if row is None or faults:
        raise faults[0]
    return row


def row_faults(fields: Mapping[str, Any], where: str, folder: Path | None = None) -> list[str]:
    """All faults of a row, including its images; empty if the row becomes a `Sample`."""
    faults: list[DataError] = []
    row = _read(fields, where, folder, faults)
    if row is not None:
        try:
            load_sample(row)
        except DataError as error:
            faults.append(error)
    return [str(fault) for fault in faults]


def _read(fields: Mapping[str, Any], where: str, folder: Path | None, faults: list[DataError]) -> Row | None:
    """The readable part of a row; unreadable fields add to `faults`. None if its images cannot be found."""
    if not isinstance(fields, Mapping):
        faults.append(DataError(f"{where}: expected an object with {', '.join(FIELDS)}, got {type(fields).__name__}."))
        return None
    for name in map(str, fields):
        if name not in FIELDS and closest(name, _EASILY_LOST):
            hint = did_you_mean(name, _EASILY_LOST)
            faults.append(DataError(f"{where}: unknown field {name!r}. {hint} Rename or remove it."))

    def checked(read: Callable[..., T], otherwise: T, *arguments: Any) -> T:
        try:
            return read(*arguments)
        except DataError as error:
            faults.append(error)
            return otherwise

    given = fields.get("id")
    row_id = where if given is None or not str(given).strip() else str(given)
    question = checked(_text, "", fields, "question", where)
    images = checked(_images, None, fields.get("images"), where, folder)
    row = Row(
        where=where if row_id == where else f"{where} (id {row_id!r})",
        id=row_id,
        question=question,
        images=images or (),
        answer=checked(_text, "", fields, "answer", where),
        transforms=checked(_transforms, (), fields.get("transforms"), where),
        box=checked(_box, None, fields.get("box"), where),
        family=str(fields.get("family") or "recorded"),
        alternatives=checked(_alternatives, (), fields.get("alternatives"), where),
        rule=str(fields.get("rule") or "match"),
    )
    if images is not None:
        faults += _image_faults(row)
    return None if images is None else row


def _image_faults(row: Row) -> list[DataError]:
    """Faults of a row that refers to images that it does not have."""
    n_places, n_images = row.question.count(IMAGE), len(row.images)
    if n_places > n_images:
        needed = f"at least {n_places}, one for each {IMAGE} in the question"
        return [DataError(f"{row.where}: images: expected {needed}, got {n_images}.")]
    if not n_images and (row.box is not None or row.transforms):
        return [DataError(f"{row.where}: the row has no image. Name one in 'images' or remove its transforms and box.")]
    return []


def load_sample(row: Row) -> Sample:
    """Open the images of a row.

    Raises:
        DataError: An image is missing or broken, or the box is not inside the first image.
    """
    images = tuple(open_image(source, row.where) for source in row.images)
    if row.box is not None:
        check_box(row.box, images[0].size, row.where)
    source = row.where.partition(" (id ")[0]
    return Sample(
        row.id,
        row.question,
        images,
        row.answer,
        row.transforms,
        row.box,
        row.family,
        source,
        row.alternatives,
        row.rule,
    )


def open_image(source: ImageSource, where: str) -> Image.Image:
    """Decode an image to RGB, turned by its EXIF tag, with transparent parts on white.

    Raises:
        DataError: The image is missing, truncated, not an image, larger than `MAX_MEGAPIXELS`, or its sides differ by a
            factor of more than `MAX_ASPECT`.
    """
    name = str(source) if isinstance(source, Path) else "of the row"
    image = _decoded(source, name, where)
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise DataError(
            f"{where}: image {name} has {image.width} x {image.height} pixels; expected sides that differ by a factor "
            f"of {MAX_ASPECT} at most. Cut or pad the image, or remove the row."
        )
    return image


def _decoded(source: ImageSource, name: str, where: str) -> Image.Image:
    try:
        if isinstance(source, Image.Image):
            return _plain(source)
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > MAX_MEGAPIXELS * 1e6:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            return _plain(image)
    except FileNotFoundError as error:
        raise DataError(f"{where}: image {name} does not exist. Correct the path or remove the row.") from error
    except PermissionError as error:
        raise DataError(f"{where}: image {name} may not be read. Change its permissions or remove the row.") from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{where}: image {name} cannot be read, it is too large ({error}); at most {MAX_MEGAPIXELS} megapixels are "
            "decoded. Reduce the image (and its box with it) or remove the row."
        ) from error
    except Exception as error:  # decoders can raise any error for broken bytes
        message = f"{where}: image {name} cannot be read, it is truncated or no image ({error})."
        raise DataError(f"{message} Replace the image or remove the row.") from error


def check_box(box: Box, size: tuple[int, int], where: str) -> None:
    """Raise `DataError` for a box that is not inside an image of `size` (width, height)."""
    width, height = size
    if not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise DataError(
            f"{where}: box: expected (x1, y1, x2, y2) in pixels of the image as it is given, with 0 <= x1 < x2 <= "
            f"{width} and 0 <= y1 < y2 <= {height}, got {list(box)}."
        )


def _plain(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        # Without alpha, dark text on a transparent background would be black on black.
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return as_rgb(image)


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if _number(value) is not None:
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(
            f"{where}: the row has no {name} (it has: {', '.join(map(str, fields))}). Add one or remove the row."
        )
    if not isinstance(value, str):
        raise DataError(f"{where}: {name}: expected text or a number, got {value!r}. Write it as text.")
    return value


def _images(value: object, where: str, folder: Path | None) -> tuple[ImageSource, ...] | None:
    values = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    return tuple(_image(item, where, folder) for item in values)


def _image(value: object, where: str, folder: Path | None) -> ImageSource:
    if isinstance(value, bytes | Image.Image):
        return value
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise DataError(f"{where}: images: expected the path of an image, got {value!r}. Correct it or remove the row.")
    path = Path(value).expanduser()
    path = path if folder is None else folder / path
    if not _is_file(path):
        raise DataError(f"{where}: image {path} does not exist. Correct the path or remove the row.")
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long for a file name
        return False


def _transforms(value: object, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: transforms: expected a list of names, got {value!r}.")
    check_transforms(names, where)
    return tuple(names)


def _alternatives(value: object, where: str) -> tuple[str, ...]:
    values = [] if value is None else value
    if not isinstance(values, list | tuple) or not all(isinstance(text, str) for text in values):
        raise DataError(f"{where}: alternatives: expected a list of texts, got {value!r}.")
    return tuple(values)


def _box(value: object, where: str) -> Box | None:
    if value is None:
        return None
    edges = [_number(edge) for edge in value] if isinstance(value, list | tuple) else []
    numbers = [edge for edge in edges if edge is not None]
    if len(edges) != 4 or len(numbers) != 4:
        raise DataError(f"{where}: box: expected four numbers (x1, y1, x2, y2), got {value!r}.")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]
