"""Programs and their credit travel as data."""

from __future__ import annotations

import pytest
from hypothesis import given

from sandbox import ToolProgram
from sandbox.confined.programs import decode, encode, read_effects
from sandbox.lift.reader import lift
from sandbox.operations.program import print_program
from tests.sandbox.strategies import programs


@given(programs())
def test_programs_travel_as_data(program: ToolProgram) -> None:
    code = print_program(program)
    read = lift(code, ((50, 40), (9, 7)))
    if isinstance(read, ToolProgram):
        assert decode(encode(read)).operations == read.operations


WRONG = ["", "[]", "[1, 2]", "null", '{"a": 1}', '[["a"], null, [1]]', "[[], null, [1, 2, 3]]", "[[], null, 7]"]


@pytest.mark.parametrize("text", WRONG)
def test_what_no_tool_worker_writes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_effects(text)
