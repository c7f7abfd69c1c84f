"""Finds the handler for each name, attribute and function of a snippet; see `pillow_calls` and `array_calls`."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from types import ModuleType

import cv2
import numpy as np
from PIL import Image

from sandbox.lift import constants
from sandbox.lift.array_calls import ARRAY_FUNCTIONS, ARRAY_METHODS, equalize
from sandbox.lift.pillow_calls import (
    IMAGE_FUNCTIONS,
    IMAGE_METHODS,
    SHAPES,
    draw,
    enhance,
    make,
    make_enhancer,
    new_image,
)
from sandbox.lift.values import (
    Arguments,
    Enhancer,
    KnownFaultError,
    Maker,
    Name,
    NotLiftableError,
    Pen,
    Picture,
    Value,
)
from sandbox.operations.arrays import DTYPES
from sandbox.operations.table import OPERATIONS

Function = Callable[[Arguments], Value]

_READ = ("Image", "ImageOps", "ImageEnhance", "ImageFilter", "ImageDraw", "ImageChops")
_NOT_READ = ("ImageFont", "ImageStat", "ImageColor")

#: Names that a snippet can use besides its images, in every lane.
PROVIDED: Mapping[str, Name] = {
    **{name: Name(name) for name in (*_READ, *_NOT_READ, "np", "cv2", "math", "PIL")},
    "numpy": Name("np"),
}
_MODULES = {"PIL": "PIL", "numpy": "np", "cv2": "cv2", "math": "math"}
_OWNERS: dict[str, ModuleType | type] = {
    "cv2": cv2,
    "Image": Image,
    "Image.Transpose": Image.Transpose,
    "Image.Resampling": Image.Resampling,
    "Image.Transform": Image.Transform,
}
_IMAGE_ATTRIBUTES = frozenset(dir(Image.new("RGB", (1, 1))))
_BUILTINS = frozenset(dir(builtins))


def is_builtin(name: str) -> bool:
    """Whether the name is a Python builtin."""
    return name in _BUILTINS or name.startswith("__")


def module(name: str) -> Name:
    """The value that `import name` binds."""
    if name not in _MODULES:
        raise NotLiftableError(f"import of {name}")
    return Name(_MODULES[name])


def part_of_pillow(name: str) -> Name:
    """The value that `from PIL import name` binds."""
    if name not in (*_READ, *_NOT_READ):
        raise NotLiftableError(f"import of {name} from PIL")
    return Name(name)


def attribute(owner: Value, name: str) -> Value:
    """The value of an attribute that is not a method.

    Raises:
        NotLiftableError: The attribute is not supported.
        KnownFaultError: There is no such attribute.
    """
    if isinstance(owner, Picture):
        known = _attributes(owner)
        if name in known:
            return known[name]
        _check_attribute(owner, name)
    if isinstance(owner, Name):
        return _library_attribute(owner, name)
    raise NotLiftableError(f"the attribute {name}")


def _attributes(picture: Picture) -> dict[str, Value]:
    width, height = picture.state.size
    if picture.is_array:
        return {"shape": (height, width) if picture.is_gray else (height, width, 3)}
    return {"size": picture.state.size, "width": width, "height": height, "mode": picture.state.mode}


def _check_attribute(picture: Picture, name: str) -> None:
    if picture.is_array and not hasattr(np.ndarray, name):
        raise KnownFaultError("AttributeError", f"'numpy.ndarray' object has no attribute {name!r}")
    if not picture.is_array and name not in _IMAGE_ATTRIBUTES:
        raise KnownFaultError("AttributeError", f"'Image' object has no attribute {name!r}")


def _library_attribute(owner: Name, name: str) -> Value:
    if owner.path == "PIL" and name in _READ:
        return Name(name)
    path = f"{owner.path}.{name}"
    if owner.path in _OWNERS and (name.isupper() or name.startswith("COLOR_")):
        try:
            value = getattr(_OWNERS[owner.path], name)
        except AttributeError as error:
            raise KnownFaultError("AttributeError", str(error)) from None
        return value if isinstance(value, int) else Name(path)
    if (
        path in _OWNERS
        or path in FUNCTIONS
        or (owner.path == "ImageFilter" and path in OPERATIONS)
        or path.removeprefix("np.") in DTYPES
    ):
        return Name(path)
    raise NotLiftableError(path)


def method(owner: Value, name: str) -> Function:
    """The handler of `owner.name(...)`."""
    match owner:
        case Picture():
            handlers = ARRAY_METHODS if owner.is_array else IMAGE_METHODS
            if name in handlers:
                return lambda arguments: handlers[name](owner, arguments)
            _check_attribute(owner, name)
        case Enhancer() if name == "enhance":
            return lambda arguments: enhance(owner, arguments)
        case Maker(name="cv2.createCLAHE") if name == "apply":
            return lambda arguments: equalize(owner, arguments)
        case Pen() if name in SHAPES:
            return lambda arguments: draw(owner, name, arguments)
        case Name():
            return function(_library_attribute(owner, name))
    raise NotLiftableError(f"the method {name}")


def function(value: Value) -> Function:
    """The handler of a library function or a builtin."""
    if not isinstance(value, Name) or value.path not in FUNCTIONS:
        raise NotLiftableError(f"a call of {value.path}" if isinstance(value, Name) else "a call like this")
    return FUNCTIONS[value.path]


def _on_picture(path: str) -> Function:
    """A function whose first argument is an image, or an array of pixels."""

    def call(arguments: Arguments) -> Value:
        picture = arguments.positional[0] if arguments.positional else None
        if isinstance(picture, Picture):
            handlers = ARRAY_FUNCTIONS if picture.is_array else IMAGE_FUNCTIONS
            if path in handlers:
                return handlers[path](picture, Arguments(arguments.positional[1:], arguments.keywords))
        raise NotLiftableError(f"a call of {path} on something other than an image")

    return call


def _array(arguments: Arguments) -> Value:
    """`np.array` and `np.asarray` of an image, an array or numbers; `np.asarray` copies only if it must."""
    value, dtype = arguments.take("", dtype=None)  # the two functions name it differently
    name = dtype.path.removeprefix("np.") if isinstance(dtype, Name) else dtype
    if not isinstance(value, Picture):
        return constants.array(value, name if isinstance(name, str) or name is None else "")
    if min(value.state.size) < 1 or name not in (None, "uint8"):
        raise NotLiftableError("an array without pixels, or of another type")
    return value.copy(is_array=True)


def _from_array(arguments: Arguments) -> Value:
    (value,) = arguments.take("obj")
    if not isinstance(value, Picture) or not value.is_array:
        raise NotLiftableError("Image.fromarray of something other than an array of pixels")
    return value.copy(is_array=False)


def _pen(arguments: Arguments) -> Value:
    (value,) = arguments.take("im")
    if not isinstance(value, Picture) or value.is_array:
        raise NotLiftableError("drawing on something other than an image")
    return Pen(value)


def _number(name: str) -> Function:
    def call(arguments: Arguments) -> Value:
        if arguments.keywords:
            raise NotLiftableError(f"a keyword of {name}")
        return constants.call(name, arguments.positional)

    return call


def _maker(name: str) -> Function:
    build = make_enhancer if name.startswith("ImageEnhance.") else make
    return lambda arguments: build(name, arguments)


#: Every supported function, by dotted name.
FUNCTIONS: dict[str, Function] = {
    **{path: _on_picture(path) for path in (*IMAGE_FUNCTIONS, *ARRAY_FUNCTIONS)},
    **{
        name: _maker(name)
        for name, kind in OPERATIONS.items()
        if name.startswith(("ImageFilter.", "ImageEnhance.", "cv2.createCLAHE")) and kind.parameters
    },
    **{name: _number(name) for name in constants.BUILTIN_FUNCTIONS},
    "np.array": _array,
    "np.asarray": _array,
    "Image.fromarray": _from_array,
    "Image.new": new_image,
    "ImageDraw.Draw": _pen,
}
