"""Named tools: every call that the schema allows equals the Pillow call, and no text raises an exception."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from cv_lightning.conversation import format_tool_call, parse_reply
from cv_lightning.errors import ConfigError
from cv_lightning.tools import NamedTools
from cv_lightning.tools.named import NAMED_TOOLS
from cv_lightning.types import ToolCall
from sandbox import ToolExecutor, ToolRequest
from sandbox.lift.reader import Fault, Unliftable, lift

TOOLS = NamedTools()
SCHEMAS = {schema["function"]["name"]: schema["function"]["parameters"] for schema in TOOLS.schemas}

#: Each tool, written a second time by hand.
ORACLES: dict[str, Callable[..., Image.Image]] = {
    "crop": lambda image, bbox: image.crop(tuple(bbox)),
    "rotate": lambda image, angle: image.rotate(angle, expand=True),
    "flip": lambda image, direction: image.transpose(
        Image.Transpose.FLIP_LEFT_RIGHT if direction == "horizontal" else Image.Transpose.FLIP_TOP_BOTTOM
    ),
    "resize": lambda image, scale: image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
    ),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
    "saturation": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "grayscale": lambda image: image.convert("L"),
    "invert": ImageOps.invert,
    "autocontrast": lambda image, cutoff=0: ImageOps.autocontrast(image, cutoff),
    "equalize": ImageOps.equalize,
    "threshold": lambda image, level=128: image.convert("L").point([0] * (level + 1) + [255] * (255 - level)),
    "blur": lambda image, radius=2: image.filter(ImageFilter.GaussianBlur(radius)),
    "median": lambda image, size=3: image.filter(ImageFilter.MedianFilter(size)),
    "edges": lambda image: image.filter(ImageFilter.FIND_EDGES),
    "pad": lambda image, border, color="white": ImageOps.expand(image, border, color),
}


def picture(width: int = 45, height: int = 31, seed: int = 3) -> Image.Image:
    noise = [((i * 2654435761 + seed) >> 7) % 256 for i in range(3 * width * height)]
    return Image.frombytes("RGB", (width, height), bytes(noise))


def of_schema(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a parameter's schema allows, except boxes."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    low, high = schema["minimum"], schema["maximum"]
    whole = st.integers(math.ceil(low), math.floor(high))
    return whole if schema["type"] == "integer" else whole | st.floats(low, high)


#: Boxes in and around the picture, and far away.
SIDES = st.tuples(
    st.integers(0, 60) | st.floats(0, 60) | st.integers(0, 100_000), st.integers(1, 60) | st.floats(1, 60)
)
BOXES = (
    st.tuples(SIDES, SIDES)
    .map(lambda sides: [sides[0][0], sides[1][0], sum(sides[0]), sum(sides[1])])
    .filter(lambda box: max(box) <= 100_000)
)


def allowed_arguments(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments that the schema of a tool allows, without an image."""
    schema = SCHEMAS[name]
    values = {
        key: BOXES if key == "bbox" else of_schema(of_key)
        for key, of_key in schema["properties"].items()
        if key != "image_index"
    }
    required = {key: values.pop(key) for key in schema["required"]}
    return st.fixed_dictionaries(required, optional=values)


@pytest.fixture(scope="module")
def executor() -> Any:
    with ToolExecutor(lane="pillow") as executor:
        yield executor


def call_of(name: str, arguments: dict[str, Any]) -> ToolCall:
    reply = parse_reply(format_tool_call("So.", name, arguments), TOOLS)
    assert reply.call is not None, reply
    return reply.call


def by_hand(name: str, image: Image.Image, arguments: dict[str, Any]) -> Image.Image | str:
    """Pillow's result, or its error message."""
    try:
        return ORACLES[name](image, **arguments).convert("RGB")
    except (ValueError, MemoryError) as error:
        return str(error)


@pytest.mark.parametrize("name", NAMED_TOOLS)
@given(data=st.data(), index=st.integers(0, 3))
def test_every_allowed_call_is_the_pillow_call(
    executor: ToolExecutor, name: str, data: st.DataObject, index: int
) -> None:
    arguments = data.draw(allowed_arguments(name))
    images = [picture(), picture(31, 45, 9), picture(24, 24, 5)]
    call = call_of(name, arguments if index == 0 else arguments | {"image_index": index})
    assert (call.fault, call.name, call.image_index) == (None, name, index)
    (seen,) = executor.execute([ToolRequest(call.code, images, call.image_index)])
    if index >= len(images):
        assert (seen.status, seen.text) == ("rejected", f"image_index is {index}; valid are 0 to 2.")
        return
    expected = by_hand(name, images[index], arguments)
    if isinstance(expected, str):
        assert (seen.status, expected in seen.text) == ("error", True)
    elif seen.status == "ok":
        assert seen.image is not None
        assert (seen.image.size, seen.image.tobytes()) == (expected.size, expected.tobytes())
    else:
        assert seen.status == "error", "nothing needs a worker"
        assert min(expected.size) == 0 or max(expected.size) >= 200 * min(expected.size), seen.text


@pytest.mark.parametrize("name", NAMED_TOOLS)
def test_every_tool_reads_as_a_program_at_both_ends_of_its_ranges(name: str) -> None:
    schema = SCHEMAS[name]
    of_all = {key: value for key, value in schema["properties"].items() if key != "image_index"}
    for end in ("minimum", "maximum"):
        arguments = {
            key: [0, 0, 40, 30] if key == "bbox" else of_key["enum"][-1] if "enum" in of_key else of_key[end]
            for key, of_key in of_all.items()
        }
        assert not isinstance(lift(call_of(name, arguments).code, ((45, 31),)), Unliftable | Fault)


REFUSED = {
    "unknown tool": ("zoom", {}, "NameError: there is no tool 'zoom'; the tools are crop, rotate, flip,"),
    "code": ("code_image_tool", {"code": "result = image"}, "NameError: there is no tool 'code_image_tool'"),
    "no name": (None, {}, "NameError: there is no tool None"),
    "missing": ("rotate", {}, "TypeError: angle is missing; it must be a number from -360 to 360."),
    "unknown": (
        "rotate",
        {"angle": 90, "expand": True},
        "TypeError: unknown argument 'expand'; it takes: angle, image_index.",
    ),
    "text for a number": ("rotate", {"angle": "90"}, "TypeError: angle must be a number from -360 to 360, not '90'."),
    "bool for a number": ("rotate", {"angle": True}, "TypeError: angle must be a number"),
    "null": ("blur", {"radius": None}, "TypeError: radius must be a number from 0 to 50, not None."),
    "out of range": ("rotate", {"angle": 360.5}, "ValueError: angle must be a number from -360 to 360, not 360.5."),
    "not finite": ("blur", {"radius": math.inf}, "ValueError: radius must be"),
    "no number": ("blur", {"radius": math.nan}, "ValueError: radius must be"),
    "half": ("threshold", {"level": 0.5}, "TypeError: level must be an integer from 0 to 255, not 0.5."),
    "another option": ("flip", {"direction": "up"}, "ValueError: direction must be one of 'horizontal', 'vertical'"),
    "another size": ("median", {"size": 4}, "ValueError: size must be one of 3, 5, 7, 9, not 4."),
    "bool for an option": ("median", {"size": True}, "size must be one of 3, 5, 7, 9, not True."),
    "list for an option": ("flip", {"direction": ["up"]}, "TypeError: direction must be one of"),
    "three sides": ("crop", {"bbox": [1, 2, 3]}, "TypeError: bbox must be [x1, y1, x2, y2], numbers from 0 to 100000"),
    "turned inside out": ("crop", {"bbox": [5, 2, 3, 4]}, "ValueError: bbox must be"),
    "empty": ("crop", {"bbox": [3, 2, 3, 4]}, "with x1 < x2 and y1 < y2, not [3, 2, 3, 4]."),
    "negative": ("crop", {"bbox": [-1, 2, 3, 4]}, "ValueError: bbox must be"),
    "text in a box": ("crop", {"bbox": ["1", 2, 3, 4]}, "TypeError: bbox must be"),
    "index as a word": ("invert", {"image_index": "last"}, "TypeError: image_index must be an integer, not 'last'."),
    "code as a colour": (
        "pad",
        {"border": 1, "color": "red'); import os; ('"},
        "ValueError: color must be one of 'white', 'black', 'gray', not",
    ),
    "long": ("flip", {"direction": "x" * 500}, f"not '{'x' * 79}...."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_schema_does_not_allow_fails_in_words(case: str) -> None:
    name, arguments, words = REFUSED[case]
    call = call_of(name, arguments)  # type: ignore[arg-type]
    assert call.fault is not None
    assert words in call.fault
    assert (call.code, call.model) == ("", None)
    assert len(call.fault) < 400


@pytest.mark.parametrize("payload", ["", "{", "[]", "3", '"rotate"', "{}", '{"name": "rotate"}', "[" * 100_000])
def test_what_is_no_call_says_what_one_is(payload: str) -> None:
    reply = TOOLS.read(payload)
    assert reply.call is None
    assert reply.fault is not None
    assert "JSON" in reply.fault or '{"name": ..., "arguments": {...}}' in reply.fault


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(["x", *sorted({key for schema in SCHEMAS.values() for key in schema["properties"]})])


@given(
    st.fixed_dictionaries(
        {"name": st.sampled_from(sorted(SCHEMAS)) | JSON, "arguments": st.dictionaries(KEYS, JSON, max_size=3) | JSON}
    )
    | JSON
)
def test_no_json_raises_and_what_is_called_runs(executor: ToolExecutor, payload: Any) -> None:
    reply = TOOLS.read(json.dumps(payload))
    assert (reply.call is None) == (reply.fault is not None)
    if reply.call is not None and reply.call.fault is None:
        (seen,) = executor.execute([ToolRequest(reply.call.code, [picture()], reply.call.image_index)])
        assert seen.status in ("ok", "error", "rejected")
        assert "not available here" not in seen.text


@given(st.text())
def test_no_text_raises(text: str) -> None:
    for reply in (TOOLS.read(text), parse_reply(f"<tool_call>{text}</tool_call>", TOOLS)):
        assert [reply.call, reply.answer, reply.fault].count(None) == 2


def test_deep_nesting_is_refused() -> None:
    for depth in (100, 900, 5_000, 50_000):
        value = "[" * depth + "]" * depth
        reply = TOOLS.read(f'{{"name": "rotate", "arguments": {{"angle": {value}}}}}')
        assert reply.fault is not None or (reply.call is not None and reply.call.fault is not None)


def test_schemas_are_json_and_say_everything() -> None:
    assert json.loads(json.dumps(TOOLS.schemas)) == TOOLS.schemas
    assert list(SCHEMAS) == list(NAMED_TOOLS) == list(ORACLES)
    for schema in TOOLS.schemas:
        assert schema["type"] == "function"
        assert schema["function"]["description"]
        parameters = schema["function"]["parameters"]
        assert parameters["additionalProperties"] is False
        assert all(
            "default" in of_key or key in parameters["required"] for key, of_key in parameters["properties"].items()
        )
        assert all(
            set(of_key) & {"minimum", "enum", "items"}
            for key, of_key in parameters["properties"].items()
            if key != "image_index"
        )


def test_a_choice_of_tools_is_all_there_is() -> None:
    some = NamedTools(["flip", "rotate"])
    assert some.names == ["flip", "rotate"]
    assert '"name": "crop"' not in some.system_prompt
    reply = some.read('{"name": "crop", "arguments": {"bbox": [0, 0, 1, 1]}}')
    assert reply.call is not None
    assert reply.call.fault == "NameError: there is no tool 'crop'; the tools are flip, rotate."


@pytest.mark.parametrize(
    ("names", "words"), [(["rotat"], "rotate"), (["flip", "flip"], "different names"), ([], "different names")]
)
def test_a_choice_that_cannot_be_is_refused(names: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NamedTools(names)
