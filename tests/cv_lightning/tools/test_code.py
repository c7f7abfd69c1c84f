"""Calls of the code tool, as a policy may write their arguments."""

from __future__ import annotations

from typing import Any

import pytest

from cv_lightning.tools.code import CODE_SCHEMA, CodeTools
from cv_lightning.types import CODE_TOOL
from tests.cv_lightning.tools.size_tool import Size

TOOLS = CodeTools()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"code": "x = 1"}, ("x = 1", "", 0)),
        ({"code": "", "description": "none", "image_index": 2}, ("", "none", 2)),
        ({"code": "x", "image_index": "1"}, ("x", "", 1)),
        ({"code": "x", "image_index": 1.0}, ("x", "", 1)),
        ({"code": "x", "image_index": -1}, ("x", "", -1)),  # the executor names the valid indices
        ({"code": "x", "description": ["a"]}, ("x", "['a']", 0)),
        ({"code": "x", "more": 3}, ("x", "", 0)),
    ],
)
def test_a_call_is_read(arguments: dict[str, Any], expected: tuple[str, str, int]) -> None:
    call = TOOLS.read_own(CODE_TOOL, arguments, ()).call
    assert call is not None
    assert (call.code, call.description, call.image_index) == expected
    assert (call.name, call.model, call.fault) == (CODE_TOOL, None, None)


@pytest.mark.parametrize(
    ("name", "arguments", "fault"),
    [
        (CODE_TOOL, {}, '"code" must be a string.'),
        (CODE_TOOL, {"code": None}, '"code" must be a string.'),
        (CODE_TOOL, {"code": ["x"]}, '"code" must be a string.'),
        (CODE_TOOL, {"code": "x", "image_index": "first"}, '"image_index" must be an integer.'),
        (CODE_TOOL, {"code": "x", "image_index": True}, '"image_index" must be an integer.'),
        (CODE_TOOL, {"code": "x", "image_index": None}, '"image_index" must be an integer.'),
        ("rotate", {"code": "x"}, f"Unknown tool 'rotate'; the only tool is {CODE_TOOL!r}."),
        (None, {"code": "x"}, f"Unknown tool None; the only tool is {CODE_TOOL!r}."),
    ],
)
def test_what_is_no_call_says_what_one_is(name: Any, arguments: dict[str, Any], fault: str) -> None:
    reply = TOOLS.read_own(name, arguments, ())
    assert (reply.call, reply.fault) == (None, fault)


def test_models_beside_it_are_offered_and_named() -> None:
    both = CodeTools([Size()])
    assert both.own_schemas == [CODE_SCHEMA]
    assert (
        both.read_own("rotate", {}, ()).fault == f"Unknown tool 'rotate'; the tools are {CODE_TOOL!r}, {Size.name!r}."
    )
