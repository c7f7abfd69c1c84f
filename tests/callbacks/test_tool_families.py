"""Each tool has a family, and each failure a fixed name."""

from __future__ import annotations

import pytest

from callbacks.tool_families import FAMILIES, NUMERIC_TOOL, failure_of, family_of, tools_of, verified_tools
from callbacks.tool_usage import tool_metrics
from cv_lightning.types import Reply, Trajectory, Turn
from sandbox import Observation
from sandbox.operations.table import OPERATIONS
from tests.callbacks.calls import call
from tests.callbacks.steps import SAMPLE


def test_every_tool_of_the_lifted_lane_has_a_family() -> None:
    tools = {kind.tool for kind in OPERATIONS.values()} - {None}
    assert {family_of(str(tool)) for tool in tools} == {"geometry", "enhancement", "sketching"}
    assert {family_of(tool) for tool in ("crop", "contrast", "draw", NUMERIC_TOOL, "made_up")} == set(FAMILIES)


@pytest.mark.parametrize(
    ("turn", "kind"),
    [
        (call(), None),
        (Turn("", Reply(answer="A")), None),
        (Turn("", Reply(fault="what?", is_silent=True)), None),
        (Turn("", Reply(fault="no JSON")), "malformed"),
        (Turn("", Reply(fault="no JSON"), Observation("rejected", text="no JSON")), "malformed"),
        (call("timeout"), "timeout"),
        (call("rejected", "The code was not run"), "rejected"),
        (call("error", "12\nKeyError: 3\nIndexError: list index out of range\n  line 2: x[9]"), "IndexError"),
        (call("error", "ZeroDivisionError\n  line 1: 1/0"), "ZeroDivisionError"),
        (call("error", "cv2.error: (-215:Assertion failed)"), "other"),
        (call("error", "MyOwnError/../x: boo"), "other"),
        (call("error", "The code ran but gave no result: assign the new image to `result`."), "no_result"),
    ],
)
def test_why_a_call_failed_has_few_fixed_names(turn: Turn, kind: str | None) -> None:
    assert failure_of(turn) == kind


def test_a_call_that_computes_is_numeric_but_changes_no_pixel() -> None:
    measured = call("ok", "mean 12.5", image=None)
    assert tools_of(measured) == (NUMERIC_TOOL,)
    assert verified_tools(Trajectory(SAMPLE, [measured])) == frozenset()
    metrics = tool_metrics([Trajectory(SAMPLE, [measured])], ())
    assert metrics["tools/family/numeric"] == 1.0
    assert metrics["tools/entropy"] == 0.0
