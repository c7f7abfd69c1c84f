"""Calls that the tensor lane takes, and calls that it leaves."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from sandbox import Limits, ToolExecutor, ToolProgram, ToolRequest
from sandbox.lanes.lane import Lifted
from sandbox.lanes.tensor import lane
from sandbox.lanes.tensor.lane import TensorLane
from sandbox.lift.reader import lift
from tests.sandbox.lanes.tensor.agreement import (
    assert_equal,
    noise,
    run_both,
)


def test_auto_takes_what_is_cheaper_and_splits_the_batch() -> None:
    image = noise(400, 300)
    codes = ["result = image.filter(ImageFilter.MaxFilter(3))", "result = image.rotate(90, expand=True)"]
    requests = [ToolRequest(code, [image]) for code in codes]
    with ToolExecutor(lane="auto", device="cpu") as executor:
        observations = executor.execute(requests)
    assert [observation.lane for observation in observations] == ["kornia", "pillow"]
    for one, other in zip(observations, ToolExecutor(lane="pillow").execute(requests), strict=True):
        assert_equal(one, other)


def test_results_beyond_the_budget_are_refused_before_they_are_made() -> None:
    with ToolExecutor(lane="kornia", device="cpu", limits=Limits(result_megapixels=0.001)) as executor:
        (observation,) = executor.execute([ToolRequest("result = image.resize((99, 99))", [noise(9, 9)])])
    assert observation.status == "error"
    assert "too large: 99x99" in observation.text


def test_a_broken_file_is_an_observation(tmp_path: Any) -> None:
    path = tmp_path / "cut.png"
    noise(64, 64).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as broken:
        tensor, pillow = run_both([ToolRequest("result = image.rotate(180)", [broken])] * 2)
    assert tensor[0].status == "error"
    assert_equal(tensor[0], pillow[0])


def test_times_that_cannot_be_measured_leave_the_calls_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no kernel image")

    tensor_lane = TensorLane("cpu", is_forced=False)
    monkeypatch.setattr(lane, "threshold", fails)
    program = lift("result = image.rotate(180)", ((8, 6),))
    assert isinstance(program, ToolProgram)
    with pytest.warns(RuntimeWarning, match="could not measure its costs .*no kernel image"):
        assert tensor_lane.run([Lifted(ToolRequest("", [noise(8, 6)]), program)]) == [None]


def test_lane_without_a_name_of_a_device_takes_what_is_there() -> None:
    tensor_lane = TensorLane(None, is_forced=True)
    program = lift("result = image.rotate(180)", ((8, 6),))
    assert isinstance(program, ToolProgram)
    (observation,) = tensor_lane.run([Lifted(ToolRequest("", [noise(8, 6)]), program)])
    assert observation is not None
    assert observation.tools == ("rotate_180",)
