"""A toolbox from its name, and restored from its description."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cv_lightning.errors import ConfigError
from cv_lightning.tools import CodeTools, NamedTools, Toolbox, make_toolbox, restore_toolbox
from cv_lightning.tools.read_codes import ReadCodes

NAMED = NamedTools()


@pytest.mark.parametrize("box", [CodeTools(), CodeTools([ReadCodes()]), NAMED, NamedTools(["flip"], [ReadCodes()])])
def test_a_description_gives_the_toolbox_again(box: Toolbox) -> None:
    again = restore_toolbox(json.loads(json.dumps(box.describe())))
    assert (type(again), again.schemas, again.system_prompt) == (type(box), box.schemas, box.system_prompt)


@pytest.mark.parametrize(
    ("described", "words"),
    [
        (None, "expected"),
        ({"kind": "named"}, "expected"),
        ({"kind": "other", "tools": []}, "expected"),
        ({"kind": "named", "tools": [3]}, "expected"),
        ({"kind": "code", "tools": ["code_image_tool", "size"]}, "'size', which does not come with this project"),
        ({"kind": "named", "tools": ["flip", "os.system"]}, "'os.system', which does not come"),
    ],
)
def test_a_description_that_is_none_is_refused(described: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        restore_toolbox(described)


def test_names_of_toolboxes() -> None:
    assert make_toolbox("code").kind == "code"
    assert make_toolbox("named").names == NAMED.names
    assert make_toolbox(NAMED) is NAMED
    with pytest.raises(ConfigError, match="'tools'"):
        make_toolbox("tools")  # type: ignore[arg-type]
