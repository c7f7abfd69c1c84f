"""Reads Pillow calls on a picture; `array_calls` reads those of OpenCV and NumPy.

Different spellings of one operation become the same operation: every turn by a multiple of 90 degrees is an `orient`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sandbox.geometry import PILLOW_TRANSPOSE
from sandbox.lift.values import Arguments, Enhancer, Maker, Name, NotLiftableError, Pen, Picture, Value, frozen
from sandbox.operations.operation import State
from sandbox.operations.parameters import AFFINE_RESAMPLING, is_integer, is_number, is_size
from sandbox.operations.table import OPERATIONS

Reader = Callable[[Picture, Arguments], Value]

TURNS = ("identity", "rotate_90", "rotate_180", "rotate_270")
_BY_TRANSPOSE = {int(method): name for name, method in PILLOW_TRANSPOSE.items()}


def turned(picture: Picture, orientation: str) -> Picture:
    """The picture in one of the eight orientations; always a new object."""
    return picture.copy() if orientation == "identity" else picture.then("orient", (orientation,))


def turns(orientation: str) -> Reader:
    """A reader of a call that turns or mirrors, without further arguments."""

    def read(picture: Picture, arguments: Arguments) -> Picture:
        arguments.take()
        return turned(picture, orientation)

    return read


def turns_by(name: str, orientations: Mapping[int, str], remedy: str, **default: Value) -> Reader:
    """A reader of a call whose one argument, a number, gives the direction."""

    def read(picture: Picture, arguments: Arguments) -> Picture:
        (code,) = arguments.take(**default) if default else arguments.take(name)
        if not is_integer(code) or code not in orientations:
            raise NotLiftableError(f"a turn by {name}={code!r}", remedy)
        return turned(picture, orientations[code])

    return read


def plainly(name: str) -> Reader:
    """A reader of a call that directly names an operation."""
    return lambda picture, arguments: picture.then(name, arguments.bind(OPERATIONS[name].parameters))


def _first_frozen(name: str) -> Reader:
    """Like `plainly`, for calls whose first argument may be a list."""

    def read(picture: Picture, arguments: Arguments) -> Picture:
        first, *rest = arguments.bind(OPERATIONS[name].parameters)
        return picture.then(name, (frozen(first), *rest))

    return read


def _rotate(picture: Picture, arguments: Arguments) -> Picture:
    values = arguments.bind(OPERATIONS["Image.rotate"].parameters)
    angle, resample, expand, center, translate, _ = values
    if not is_number(angle):
        raise NotLiftableError("a turn by an angle that is no number")
    angle = angle % 360.0
    if angle in (90, 270) and not AFFINE_RESAMPLING(resample):
        raise NotLiftableError(f"rotate with resample={resample!r}")
    width, height = picture.state.size
    if not center and not translate and (angle in (0, 180) or (angle in (90, 270) and (expand or width == height))):
        return turned(picture, TURNS[int(angle) // 90])
    return picture.then("Image.rotate", values)


def _crop(picture: Picture, arguments: Arguments) -> Picture:
    (box,) = arguments.take(box=None)
    return picture.copy() if box is None else picture.then("Image.crop", (frozen(box),))


def _convert(picture: Picture, arguments: Arguments) -> Picture:
    (mode,) = arguments.take("mode")
    return picture.copy() if mode == picture.state.mode else picture.then("Image.convert", (mode,))


def _filter(picture: Picture, arguments: Arguments) -> Picture:
    (chosen,) = arguments.take("filter")
    if isinstance(chosen, Name) and chosen.path in OPERATIONS and not OPERATIONS[chosen.path].parameters:
        return picture.then(chosen.path, ())
    if isinstance(chosen, Maker) and chosen.name.startswith("ImageFilter."):
        return picture.then(chosen.name, chosen.values)
    raise NotLiftableError("a filter like this", "use one of `ImageFilter`")


def new_image(arguments: Arguments) -> Picture:
    """Read `Image.new`: a picture into which another picture can be pasted, once."""
    mode, size, color = arguments.take("mode", "size", color=0)
    size = frozen(size)
    if not is_size(size) or mode not in ("RGB", "L") or color is None:
        raise NotLiftableError("a new image like this")
    return Picture(-1, (State(size, mode),), color=frozen(color))


def _paste(picture: Picture, arguments: Arguments) -> None:
    pasted, box = arguments.take("im", box=None)
    corner = (0, 0) if box is None else frozen(box)
    if (
        picture.source >= 0
        or not isinstance(pasted, Picture)
        or pasted.is_array
        or pasted.state.mode != picture.state.mode
    ):
        raise NotLiftableError("a paste of something other than one image of the same mode onto a new one")
    if not isinstance(corner, tuple) or len(corner) != 2:
        raise NotLiftableError("a paste that is not at a corner (x, y)")
    picture.become(pasted.then("Image.paste", (picture.state.size, picture.color, corner)))


#: Methods of a Pillow image.
IMAGE_METHODS: dict[str, Reader] = {
    **{name: plainly(f"Image.{name}") for name in ("getchannel", "transform")},
    "rotate": _rotate,
    "transpose": turns_by("method", _BY_TRANSPOSE, "use `Image.Transpose.ROTATE_90` or the like"),
    "crop": _crop,
    "resize": _first_frozen("Image.resize"),
    "convert": _convert,
    "copy": turns("identity"),
    "paste": _paste,
    "filter": _filter,
}

#: Functions of a Pillow image, by dotted name.
IMAGE_FUNCTIONS: dict[str, Reader] = {
    **{name: plainly(name) for name in OPERATIONS if name.startswith("ImageOps.")},
    "ImageOps.mirror": turns("flip_horizontal"),
    "ImageOps.flip": turns("flip_vertical"),
    "ImageOps.grayscale": lambda picture, arguments: _convert(
        picture, Arguments(("L", *arguments.positional), arguments.keywords)
    ),
    "ImageOps.exif_transpose": turns("identity"),  # images come without EXIF in every lane
    "ImageChops.invert": plainly("ImageOps.invert"),
}


def make(name: str, arguments: Arguments) -> Maker:
    """A filter, or an equalizer, with its values, which are checked when it is used."""
    values = [frozen(value) for value in arguments.bind(OPERATIONS[name].parameters)]
    if name == "ImageFilter.RankFilter":
        size, rank = values
        if not is_integer(size) or not is_integer(rank) or rank >= size * size:
            raise NotLiftableError("a rank that the window does not have")
    if name == "ImageFilter.Kernel":
        size, kernel, scale, _ = values
        weights = [weight for weight in kernel if is_number(weight)] if isinstance(kernel, tuple) else []
        if (size, len(weights), kernel) not in (((3, 3), 9, tuple(weights)), ((5, 5), 25, tuple(weights))):
            raise NotLiftableError("a kernel like this")
        if (sum(weights) if scale is None else scale) == 0:
            raise NotLiftableError("a kernel whose scale is 0")
    return Maker(name, tuple(values))


def make_enhancer(name: str, arguments: Arguments) -> Enhancer:
    """An enhancer of a picture in its present state."""
    (picture,) = arguments.take("image")
    if not isinstance(picture, Picture) or picture.is_array or min(picture.state.size) < 1:
        raise NotLiftableError("an enhancer of something other than an image")
    return Enhancer(name, picture, picture.operations)


def enhance(enhancer: Enhancer, arguments: Arguments) -> Picture:
    """The picture that `enhancer.enhance(...)` returns."""
    if enhancer.picture.operations is not enhancer.operations:
        raise NotLiftableError("an enhancer whose image was drawn on since")
    return enhancer.picture.then(enhancer.name, arguments.bind(OPERATIONS[enhancer.name].parameters))


def draw(pen: Pen, name: str, arguments: Arguments) -> None:
    """Draw a shape on the pen's picture, in place."""
    corners, *rest = arguments.bind(OPERATIONS[f"ImageDraw.{name}"].parameters)
    corners = frozen(corners)
    if isinstance(corners, tuple) and all(isinstance(point, tuple) and len(point) == 2 for point in corners):
        corners = tuple(number for point in corners if isinstance(point, tuple) for number in point)
    pen.picture.become(pen.picture.then(f"ImageDraw.{name}", (corners, *rest)))


#: Shapes that a pen draws.
SHAPES = frozenset(name.removeprefix("ImageDraw.") for name in OPERATIONS if name.startswith("ImageDraw."))
