"""Constants that are computed while reading equal Python's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.lift.reader import Fault, Unliftable, lift
from sandbox.operations.program import ToolProgram

_NUMBERS = st.one_of(
    st.integers(-999, 999).map(str), st.floats(-99, 99, allow_nan=False).map(repr), st.sampled_from(["True", "640"])
)


def _larger(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    signs = st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "|"])
    names = st.sampled_from(["int", "float", "round", "abs", "min", "max", "len"])
    return st.one_of(
        st.tuples(parts, signs, parts).map(lambda three: f"({three[0]} {three[1]} {three[2]})"),
        st.tuples(names, parts, parts).map(lambda three: f"{three[0]}({three[1]}, {three[2]})"),
        st.tuples(names, parts).map(lambda two: f"{two[0]}({two[1]})"),
        parts.map(lambda part: f"-{part}"),
        st.lists(parts, max_size=3).map(lambda many: f"[{', '.join(many)}]"),
        st.lists(parts, min_size=1, max_size=3).map(lambda many: f"({', '.join(many)},)[-1]"),
        st.tuples(parts, st.sampled_from(["", ":.2f", ":>9", ":05d", ":,", ":e", ":%"])).map(
            lambda two: f"f'{{{two[0]}{two[1]}}} px'"
        ),
    )


@given(st.recursive(_NUMBERS, _larger, max_leaves=8))
def test_printed_constants_are_those_of_python(expression: str) -> None:
    read = lift(f"print({expression})", ((640, 480),))
    if isinstance(read, ToolProgram):
        assert read.text == f"{eval(expression)}\n"
    elif isinstance(read, Fault):  # quotes within the same quotes, before Python 3.12
        with pytest.raises(SyntaxError):
            eval(expression)


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("7 // 2, -7 % 3, 2 ** 10, 1 / 4", "3 2 1024 0.25"),
        ("round(2.5), round(1234.567, -2), int(-2.9), max(3, 7.5)", "2 1200.0 -2 7.5"),
        ("f'{640 * 0.25:.1f} of {1e6:,.0f}: {(1, None)}'", "160.0 of 1,000,000: (1, None)"),
        ("len([1, 2, 3]), min((4, 2)), [1, 2, 3][1:]", "3 2 [2, 3]"),
        ("'a' + 'b', True, cv2.THRESH_BINARY | cv2.THRESH_OTSU", "ab True 8"),
    ],
)
def test_constants_by_hand(expression: str, shown: str) -> None:
    read = lift(f"print({expression})", ((640, 480),))
    assert isinstance(read, ToolProgram)
    assert read.text == f"{shown}\n"


@pytest.mark.parametrize(
    "expression", ["1 / 0", "9 ** 9 ** 9", "10 ** 60", "(-8) ** 0.5", "int('5')", "round(1.5, 99)", "'a' * 5", "1 < 2"]
)
def test_what_fails_or_grows_is_left_to_a_run(expression: str) -> None:
    assert isinstance(lift(f"print({expression})", ((640, 480),)), Unliftable)
