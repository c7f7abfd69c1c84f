"""Arguments are bound as Python binds them; pictures change as the snippet's objects do."""

from __future__ import annotations

import inspect
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.lift.values import MAX_OPERATIONS, Arguments, NotLiftableError, Picture, frozen
from sandbox.operations.operation import State
from sandbox.operations.parameters import Parameter

NAMES = ("a", "b", "c", "d")


def anything(value: object) -> bool:
    return True


@st.composite
def signatures(draw: st.DrawFn) -> list[Parameter]:
    """Parameters in the order of a signature: no default before a default, and keyword-only parameters last."""
    names = NAMES[: draw(st.integers(0, 4))]
    n_needed, n_by_name = draw(st.integers(0, len(names))), draw(st.integers(0, len(names)))
    return [
        Parameter(name, anything, ... if place < n_needed else place, by_name=place >= len(names) - n_by_name)
        for place, name in enumerate(names)
    ]


def bound_by_python(parameters: list[Parameter], positional: list[int], keywords: dict[str, int]) -> list[Any] | None:
    kinds = {True: inspect.Parameter.KEYWORD_ONLY, False: inspect.Parameter.POSITIONAL_OR_KEYWORD}
    signature = inspect.Signature(
        [
            inspect.Parameter(
                one.name, kinds[one.by_name], default=inspect.Parameter.empty if one.default is ... else one.default
            )
            for one in parameters
        ]
    )
    try:
        bound = signature.bind(*positional, **keywords)
    except TypeError:
        return None
    bound.apply_defaults()
    return [bound.arguments[one.name] for one in parameters]


@given(
    signatures(),
    st.lists(st.integers(10, 99), max_size=5),
    st.dictionaries(st.sampled_from((*NAMES, "e")), st.integers(), max_size=3),
)
def test_arguments_are_bound_as_python_binds_them(
    parameters: list[Parameter], positional: list[int], keywords: dict[str, int]
) -> None:
    expected = bound_by_python(parameters, positional, keywords)
    arguments = Arguments(positional, keywords)
    if expected is None:
        with pytest.raises(NotLiftableError):
            arguments.bind(parameters)
    else:
        assert arguments.bind(parameters) == expected


def test_taken_arguments_are_needed_unless_they_have_a_default() -> None:
    assert Arguments((1,), {"c": 3}).take("a", b=2, c=0) == [1, 2, 3]
    with pytest.raises(NotLiftableError, match="without an argument"):
        Arguments().take("a", b=2)


def picture(width: int = 8, height: int = 6, mode: str = "RGB") -> Picture:
    return Picture(0, (State((width, height), mode),))


def test_a_step_makes_a_new_object_and_leaves_the_old_one() -> None:
    first = picture()
    second = first.then("orient", ("rotate_90",))
    assert (first.operations, first.state.size) == ((), (8, 6))
    assert [operation.name for operation in second.operations] == ["orient"]
    assert second.state.size == (6, 8)


def test_what_changes_in_place_changes_for_every_name() -> None:
    image = picture()
    alias, copy = image, image.copy()
    image.become(image.then("orient", ("flip_vertical",)))
    assert alias.operations == image.operations != ()
    assert copy.operations == ()


@pytest.mark.parametrize(
    ("start", "name", "values", "reason"),
    [
        (picture(0, 6), "orient", ("rotate_90",), "size"),
        (picture(mode="RGBA"), "orient", ("rotate_90",), "mode RGBA"),
        (picture(), "Image.resize", ((0, 4), None, None, None), "size"),
        (picture(mode="L"), "Image.rotate", (10, 0, False, None, None, (1, 2, 3)), "fillcolor"),
        (Picture(-1, (State((4, 4)),)), "orient", ("rotate_90",), "a new image"),
    ],
)
def test_a_step_that_the_library_may_refuse_is_not_read(
    start: Picture, name: str, values: tuple[Any, ...], reason: str
) -> None:
    with pytest.raises(NotLiftableError, match=reason):
        start.then(name, values)


def test_a_program_has_so_many_steps_and_no_more() -> None:
    image = picture()
    for _ in range(MAX_OPERATIONS):
        image = image.then("orient", ("rotate_180",))
    with pytest.raises(NotLiftableError, match=f"after {MAX_OPERATIONS} operations"):
        image.then("orient", ("rotate_180",))


class Way(IntEnum):
    LEFT = 3


def test_members_of_an_enumeration_are_numbers_in_a_program() -> None:
    step = picture().then("Image.resize", ((4, 3), Way.LEFT, None, None)).operations[-1]
    assert step.values[1] == 3
    assert type(step.values[1]) is int


def test_lists_are_tuples_to_calls_that_take_either() -> None:
    assert frozen([1, [2, (3, [4])]]) == (1, (2, (3, [4])))
    assert frozen("ab") == "ab"
