"""How objects of Pillow read that are used later: filters, enhancers, new images, and what draws; see `image_calls`."""

from __future__ import annotations

from typing import Any

from sandbox.lift.image_calls import parameter_of
from sandbox.lift.symbols import (
    Canvas,
    Enhancer,
    Filter,
    NotLiftableError,
    Pen,
    Picture,
    append,
    bind,
    change,
    frozen,
)
from sandbox.operations.parameters import is_colour, is_integer, is_size
from sandbox.operations.table import OPERATIONS


def make_filter(path: str, arguments: list[Any], keywords: dict[str, Any]) -> Filter:
    """A filter object with its parameters; they are checked where it is used."""
    values = bind(OPERATIONS[path].parameters, arguments, keywords)
    is_rank = path == "ImageFilter.RankFilter" and is_integer(values[0]) and is_integer(values[1])
    if is_rank and values[1] >= values[0] ** 2:
        raise NotLiftableError("a rank that the window does not have")
    if path == "ImageFilter.Kernel":
        size, numbers = frozen(values[0]), frozen(values[1])
        scale = sum(numbers) if values[2] is None else values[2]
        if size not in ((3, 3), (5, 5)) or len(numbers) != size[0] ** 2 or scale == 0:
            raise NotLiftableError("a kernel that is not read here")
        values[:2] = size, numbers
    return Filter(path, tuple(values))


def make_enhancer(path: str, arguments: list[Any], keywords: dict[str, Any]) -> Enhancer:
    """An enhancer of a picture as it is now."""
    (picture,) = bind((parameter_of("image"),), arguments, keywords)
    if not isinstance(picture, Picture) or picture.is_array or min(picture.state.size) < 1:
        raise NotLiftableError("an enhancer of something else than an image")
    return Enhancer(path, picture, picture.operations)


def enhance(enhancer: Enhancer, arguments: list[Any], keywords: dict[str, Any], line: int) -> Picture:
    """The picture that `enhancer.enhance(...)` returns."""
    if enhancer.picture.operations is not enhancer.operations:
        raise NotLiftableError("an enhancer whose image has changed since")
    return append(
        enhancer.picture, enhancer.name, bind(OPERATIONS[enhancer.name].parameters, arguments, keywords), line
    )


def make_canvas(arguments: list[Any], keywords: dict[str, Any]) -> Canvas:
    """What `Image.new` gives."""
    mode, size, color = bind(
        (parameter_of("mode"), parameter_of("size"), parameter_of("color", 0)), arguments, keywords
    )
    size, color = frozen(size), frozen(color)
    if mode not in ("RGB", "L") or not is_size(size) or not is_colour(color):
        raise NotLiftableError("a new image that is not read here")
    if mode == "L" and isinstance(color, tuple):
        raise NotLiftableError("a colour of three channels on a gray image")
    return Canvas(mode, size, color)


def paste(canvas: Canvas, arguments: list[Any], keywords: dict[str, Any], line: int) -> None:
    """A picture on a canvas on which nothing is yet."""
    picture, box = bind((parameter_of("im"), parameter_of("box", None)), arguments, keywords)
    box = (0, 0) if box is None else frozen(box)
    if canvas.picture is not None or not isinstance(picture, Picture) or picture.is_array:
        raise NotLiftableError("something else than one image on a canvas")
    if picture.state.mode != canvas.mode or not isinstance(box, tuple) or not all(map(is_integer, box)):
        raise NotLiftableError("an image of another mode on a canvas, or at a place that is not read here")
    (width, height) = picture.state.size
    if len(box) == 4 and (box[2] - box[0], box[3] - box[1]) != (width, height):
        raise NotLiftableError("a box of another size than the image")
    canvas.picture = append(picture, "Image.paste", (canvas.size, canvas.color, box[:2]), line)


def draw(pen: Pen, name: str, arguments: list[Any], keywords: dict[str, Any], line: int) -> None:
    """A shape on the pen's picture, in place."""
    picture = pen.picture
    if picture.operations is not pen.operations:
        raise NotLiftableError("drawing on an image that has changed since")
    corners, *rest = bind(OPERATIONS[f"ImageDraw.{name}"].parameters, arguments, keywords)
    corners = frozen(corners)
    if isinstance(corners, tuple) and all(isinstance(point, tuple) and len(point) == 2 for point in corners):
        corners = tuple(number for point in corners for number in point)
    change(picture, append(picture, f"ImageDraw.{name}", (corners, *rest), line))
    picture.is_drawn = True
    pen.operations = picture.operations


#: Shapes that are drawn.
SHAPES = {name.removeprefix("ImageDraw.") for name in OPERATIONS if name.startswith("ImageDraw.")}
