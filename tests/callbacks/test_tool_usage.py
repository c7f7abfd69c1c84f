"""Families, failures and emergent tools: worked out by hand, and whole over a resume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from callbacks.emergent_tools import COLUMNS, EmergentTools
from callbacks.rollouts import Rollouts
from callbacks.tool_families import FAMILIES, NUMERIC_TOOL, failure_of, family_of, tools_of, verified_tools
from callbacks.tool_usage import tool_metrics
from cv_lightning.types import Group, Reply, RewardBreakdown, Sample, ToolCall, Trajectory, Turn, ViewedImage
from sandbox import Affine, Observation, ToolExecutor, ToolRequest, orient
from sandbox.geometry import orientation_frame
from sandbox.operations.table import OPERATIONS

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8))
SAMPLE = Sample("0", "Read.", (IMAGE,), "A")


def call(
    status: str = "ok", text: str = "", *tools: str, image: Image.Image | None = IMAGE, lane: str = "pillow"
) -> Turn:
    seen = Observation(status, image if status == "ok" else None, text, lane, tools=tools)  # type: ignore[arg-type]
    return Turn("", Reply(call=ToolCall("")), seen)


def using(*tools: str) -> Trajectory:
    return Trajectory(SAMPLE, [call("ok", "", *tools)] if tools else [])


def judged(is_right: bool | None) -> RewardBreakdown:
    return RewardBreakdown({"accuracy": float(is_right is True)}, is_right)


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


def test_what_lifted_and_confined_code_draws_is_sketching() -> None:
    page = Image.new("RGB", (120, 90), "white")
    lifted = "d = ImageDraw.Draw(image)\nd.rectangle((20, 20, 80, 60), outline='red', width=3)\nresult = image"
    opencv = "a = np.array(image)\ncv2.putText(a, 'AB', (9, 60), 0, 1, (255, 0, 0), 2)\nresult = Image.fromarray(a)"
    with ToolExecutor(workers=1) as executor:
        seen = executor.execute([ToolRequest(code, [page]) for code in (lifted, opencv)])
    if seen[1].status == "rejected":
        pytest.skip(seen[1].text)
    assert [observation.lane for observation in seen] == ["pillow", "confined"]
    metrics = tool_metrics([Trajectory(SAMPLE, [Turn("", Reply(call=ToolCall("")), one)]) for one in seen], ())
    assert metrics["tools/family/sketching"] == 1.0


def test_recall_of_required_tools_and_spurious_turns() -> None:
    sample = Sample("0", "Read.", (IMAGE,), "A", ("rotate_90", "crop"), (0.0, 0.0, 2.0, 2.0))
    turned_image, frame = orient(IMAGE, "rotate_270"), orientation_frame("rotate_270", IMAGE.size)
    views = [ViewedImage(IMAGE, 0, Affine(), "identity"), ViewedImage(turned_image, 0, frame, "rotate_270", 0)]
    seen = Observation("ok", turned_image, tools=("rotate_270",), orientation="rotate_270")
    turn = Turn("", Reply(call=ToolCall("")), seen)
    metrics = tool_metrics([Trajectory(sample, [turn], views), Trajectory(sample, [], views[:1])], ())
    assert metrics["tools/required_recall"] == 0.25  # turned but not cropped, and nothing
    assert "tools/spurious_rate" not in metrics
    turned = Trajectory(SAMPLE, [turn], views)
    assert tool_metrics([turned, using()], ())["tools/spurious_rate"] == 0.5


def test_outcomes_by_lane() -> None:
    turns = [call(lane="pillow"), call("error", lane="confined"), call(lane="confined"), call("rejected", lane="none")]
    metrics = tool_metrics([Trajectory(SAMPLE, turns)], ())
    assert (metrics["tools/success/pillow"], metrics["tools/success/confined"]) == (1.0, 0.5)
    assert "tools/success/none" not in metrics


def test_share_of_each_lane_and_contract() -> None:
    seen = [Observation("ok", IMAGE, "", "kornia", exactness=exactness) for exactness in ("close", "close", "exact")]
    turns = [Turn("", Reply(call=ToolCall("")), one) for one in seen]
    metrics = tool_metrics([Trajectory(SAMPLE, [*turns, call(), call("rejected", lane="none")])], ())
    shares = {name: value for name, value in metrics.items() if name.startswith("tools/lane/")}
    assert shares == {"tools/lane/kornia_close": 0.5, "tools/lane/kornia": 0.25, "tools/lane/pillow": 0.25}


# ---- emergent tools --------------------------------------------------------------------------------------------------


def step_one() -> Rollouts:
    """Two groups: in the first, blur and right against plain and wrong; in the second, all blur, one of two right."""
    return Rollouts(
        [Group(SAMPLE, [using("blur", "rotate_90"), using("crop")]), Group(SAMPLE, [using("blur"), using("blur")])],
        [[judged(True), judged(False)], [judged(True), judged(False)]],
    )


def test_a_row_compares_with_and_without() -> None:
    table = EmergentTools()
    assert table.add(step_one(), 7) == ["blur"]
    assert table.add(step_one(), 8) == []
    table.close_row(10)
    (row,) = table.rows
    assert dict(zip(COLUMNS, row, strict=True)) == {
        "step": 10,
        "tool": "blur",
        "family": "enhancement",
        "first_step": 7,
        "trajectories": 8,
        "uses": 6,
        "rate": 0.75,
        "accuracy_with": pytest.approx(2 / 3),
        "accuracy_without": 0.0,
        "gain_within_groups": 1.0,
    }


def test_a_tool_that_is_not_used_any_more_keeps_its_row() -> None:
    table = EmergentTools()
    table.add(step_one(), 1)
    table.close_row(10)
    table.add(Rollouts([Group(SAMPLE, [using()])], [[judged(None)]]), 11)
    table.close_row(20)
    assert table.rows[1] == [20, "blur", "enhancement", 1, 1, 0, 0.0, None, None, None]


def test_a_resume_in_the_middle_of_a_row_changes_nothing(tmp_path: Path) -> None:
    straight = EmergentTools()
    for step in (1, 2):
        straight.add(step_one(), step)
    straight.close_row(3)
    before, after = EmergentTools(), EmergentTools()
    before.add(step_one(), 1)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert after.add(step_one(), 2) == []
    after.close_row(3)
    for table, name in ((straight, "a"), (after, "b")):
        table.write(tmp_path / name)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert json.loads((tmp_path / "a").read_text())["columns"] == list(COLUMNS)


def test_rows_are_due_also_where_the_due_step_is_passed_over() -> None:
    table = EmergentTools()
    assert [table.is_due(step, 10) for step in (9, 12)] == [False, True]
    table.close_row(12)
    assert [table.is_due(step, 10) for step in (18, 20)] == [False, True]
