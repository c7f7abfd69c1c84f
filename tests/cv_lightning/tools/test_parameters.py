"""JSON arguments: the schema that a policy reads agrees with the check of its arguments."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.tools.parameters import (
    ArgumentError,
    ToolParameter,
    choice,
    image_index,
    integer,
    number,
    object_schema,
    read_arguments,
    region,
    shown,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-50, 50) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


def fits(kind: Any, value: Any) -> bool:
    """Whether a value fits a schema, by the keywords of JSON Schema that the parameters use."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    types = {
        "number": is_number,
        "integer": is_number and float(value).is_integer(),
        "string": isinstance(value, str),
        "array": isinstance(value, list),
    }
    if not types[kind["type"]]:
        return False
    if kind["type"] in ("number", "integer"):
        inside = kind.get("minimum", -math.inf) <= value <= kind.get("maximum", math.inf)
        return inside and ("enum" not in kind or value in kind["enum"])
    if kind["type"] == "array":
        return kind["minItems"] <= len(value) <= kind["maxItems"] and all(fits(kind["items"], part) for part in value)
    return value in kind["enum"]


PARAMETERS = [number(low=-3.5, high=7), integer(low=-3, high=7), choice(options=("a", "b")), choice(options=(0, 90))]


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda parameter: parameter.allowed)
@given(value=JSON)
def test_a_check_takes_what_the_schema_allows(parameter: ToolParameter, value: Any) -> None:
    if fits(parameter.schema(), value):
        assert parameter.read(value) == value
    else:
        with pytest.raises((TypeError, ValueError)):
            parameter.read(value)


@given(st.lists(st.integers(-5, 120), min_size=3, max_size=5))
def test_a_region_is_a_box_with_pixels(value: list[int]) -> None:
    parameter = region(high=100)
    x1, y1, x2, y2 = [*value, 0][:4]
    if len(value) == 4 and fits(parameter.schema(), value) and x1 < x2 and y1 < y2:
        assert parameter.read(value) == tuple(value)
    else:
        with pytest.raises((TypeError, ValueError)):
            parameter.read(value)


def test_numbers_keep_how_they_were_written_and_integers_do_not() -> None:
    assert type(number(low=0, high=9).read(3.0)) is float
    assert type(integer(low=0, high=9).read(3.0)) is int
    assert type(image_index().read("2")) is int
    assert [image_index().read(value) for value in (" -1 ", 2.0, 7)] == [-1, 2, 7]
    for wrong in ("two", "1.0", "9" * 10, "\u0662", True, None, 1.5):
        with pytest.raises((TypeError, ValueError)):
            image_index().read(wrong)


def test_code_gets_the_option_and_never_the_policys_text() -> None:
    class Text(str):
        __slots__ = ()

    option = "left"
    assert choice(options=(option,)).read(Text("left")) is option


FIELDS = {"angle": integer("Degrees.", low=0, high=359), "fill": choice(default="black", options=("black", "white"))}


def test_arguments_come_in_order_with_their_defaults() -> None:
    assert list(read_arguments(FIELDS, {"fill": "white", "angle": 90}).items()) == [("angle", 90), ("fill", "white")]
    assert read_arguments(FIELDS, {"angle": 90}) == {"angle": 90, "fill": "black"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "TypeError: angle is missing; it must be an integer from 0 to 359."),
        ({"angle": 360}, "ValueError: angle must be an integer from 0 to 359, not 360."),
        ({"angle": "90"}, "TypeError: angle must be an integer from 0 to 359, not '90'."),
        ({"angle": 1, "Angle": 2}, "TypeError: unknown argument 'Angle'; it takes: angle, fill."),
        ({"angle": 1, "fill": "red"}, "ValueError: fill must be one of 'black', 'white', not 'red'."),
        ({"angle": 1, "fill": 3}, "TypeError: fill must be one of 'black', 'white', not 3."),
    ],
)
def test_a_wrong_argument_is_told_what_is_allowed(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        read_arguments(FIELDS, given)
    assert str(caught.value) == message


def test_a_tool_without_arguments_says_so() -> None:
    with pytest.raises(ArgumentError, match="it takes: none"):
        read_arguments({}, {"x": 1})


def test_the_schema_is_json_and_complete() -> None:
    schema = object_schema(FIELDS)
    assert json.loads(json.dumps(schema)) == schema
    assert schema["required"] == ["angle"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["fill"] == {"type": "string", "enum": ["black", "white"], "default": "black"}
    assert schema["properties"]["angle"]["description"] == "Degrees."


def test_a_policys_value_is_shown_short_and_in_ascii() -> None:
    assert shown("é\n") == r"'\xe9\n'"
    assert shown("x" * 200) == "'" + "x" * 79 + "..."
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    assert shown(nested) == "a value that is nested too deeply"
