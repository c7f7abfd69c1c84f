"""Code that runs as written: the start of its lane, the credit of results, and the error without a lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sandbox import ConfinementError, Limits, Observation, ToolRequest
from sandbox.confined.pool import CLOSED
from sandbox.images import Budget
from sandbox.lanes import code as module
from sandbox.lanes.code import CodeRunner
from sandbox.lanes.tool_worker import ToolWorkerLane

LIMITS = Limits()
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))


class FakeLane:
    """Turns every image, reports the first observation, and has state of one episode."""

    name = "fake"

    def __init__(self, *_: object) -> None:
        self.n_ended = 0

    def run(self, calls: Sequence[ToolRequest], budget: Any = None, tell: Any = None) -> list[Observation]:
        seen = [Observation("ok", image=call.images[0].transpose(Image.Transpose.ROTATE_180)) for call in calls]
        if tell is not None:
            tell(0, seen[0])
        return seen

    def has_state(self, episode: str) -> bool:
        return episode == "alive"

    def close(self) -> None:
        self.n_ended += 1

    disown = close


def runner(
    monkeypatch: pytest.MonkeyPatch, lane: Any = FakeLane, *, fresh: Any = "call", is_required: bool = False
) -> CodeRunner:
    monkeypatch.setattr(module, "lacks_confinement", lambda: True)
    monkeypatch.setattr(module, "ProcessLane", lane)
    return CodeRunner(1, LIMITS, "syscall", fresh, ToolWorkerLane(1, LIMITS), is_required)


def test_code_earns_what_is_in_the_pixels_and_what_is_told_is_told_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, tuple[str, ...]]] = []
    made = runner(monkeypatch)
    requests = {5: ToolRequest("x", [IMAGE]), 3: ToolRequest("x", [IMAGE])}
    seen = made.run(requests, Budget(LIMITS), lambda index, one: told.append((index, one.tools)))
    assert {index: (one.tools, one.orientation) for index, one in seen.items()} == dict.fromkeys(
        (5, 3), (("rotate_180",), "rotate_180")
    )
    assert told == [(5, ("rotate_180",))]
    assert made.run({}, Budget(LIMITS), None) == {}
    made.close()


def test_its_lane_starts_when_it_is_needed_and_not_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    made = runner(monkeypatch)
    assert made.lane is None
    assert made.start()
    lane: Any = made.lane
    assert made.start()
    assert made.lane is lane
    made.close()
    made.close()
    assert lane.n_ended == 1
    assert not made.start()
    seen = made.run({0: ToolRequest("x", [IMAGE])}, Budget(LIMITS), None)
    assert (seen[0].status, seen[0].text) == ("rejected", CLOSED)


@pytest.mark.parametrize(("fresh", "has_state"), [("episode", True), ("call", False)])
def test_variables_are_alive_in_episodes_only(fresh: str, has_state: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = runner(monkeypatch, fresh=fresh)
    assert not made.has_state("alive"), "nothing has started"
    made.start()
    assert made.has_state("alive") == has_state
    assert not made.has_state("other")
    made.disown()
    assert made.lane is None
    assert not made.has_state("alive")


def refuse(*_: object) -> None:
    raise ConfinementError("seccomp (no such call)")


def test_a_machine_that_cannot_confine_is_told_once_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = runner(monkeypatch, refuse)
    with pytest.warns(RuntimeWarning, match=r"will be rejected\. seccomp \(no such call\)") as warned:
        assert [made.start(), made.start()] == [False, False]
    assert len(warned) == 1
    with pytest.raises(ConfinementError, match="no such call"):
        runner(monkeypatch, refuse, is_required=True).start()
