"""Calls to a lane, and the observations of a lane that fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from sandbox import Observation, ToolProgram, ToolRequest
from sandbox.lanes.lane import Lifted, run_lane


class Doubling:
    """Observes twice the number; leaves odd numbers to another lane, and fails on 13."""

    name = "doubling"

    def run(self, calls: Sequence[int]) -> list[Observation | None]:
        if 13 in calls:
            raise ZeroDivisionError("thirteen")
        return [None if call % 2 else Observation("ok", text=str(2 * call)) for call in calls]

    def close(self) -> None:
        pass

    def disown(self) -> None:
        pass


def texts(calls: dict[int, int], **more: Any) -> dict[int, str]:
    return {index: seen.text for index, seen in run_lane(Doubling(), calls, **more).items()}


def test_observations_have_the_index_of_their_call_and_what_is_left_has_none() -> None:
    assert texts({7: 2, 3: 5, 1: 4}) == {7: "4", 1: "8"}
    assert texts({}) == {}
    assert texts({0: 1}, run=lambda calls: [Observation("ok", text="other")] * len(calls)) == {0: "other"}


def test_a_lane_that_fails_crashes_its_calls_and_raises_nothing() -> None:
    seen = run_lane(Doubling(), {4: 13, 2: 8})
    assert {index: (one.status, one.lane) for index, one in seen.items()} == dict.fromkeys(
        (4, 2), ("crash", "doubling")
    )
    assert seen[2].text == "The sandbox failed: ZeroDivisionError: thirteen"


def test_no_calls_do_not_reach_a_lane() -> None:
    def refuse(calls: Sequence[int]) -> list[Observation | None]:
        raise AssertionError("asked for nothing")

    assert run_lane(Doubling(), {}, refuse) == {}


@pytest.mark.parametrize(("source", "expected"), [(None, 1), (0, 0), (2, 2)])
def test_a_program_starts_from_the_image_that_it_names_or_the_chosen_one(source: int | None, expected: int) -> None:
    images = [Image.new("RGB", (4 + place, 4)) for place in range(3)]
    assert Lifted(ToolRequest("", images, image_index=1), ToolProgram(source=source)).image is images[expected]
