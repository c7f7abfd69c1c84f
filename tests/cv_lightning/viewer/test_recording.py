"""Records of trajectories name the versions of the sampling weights, if an engine reported them."""

from __future__ import annotations

from cv_lightning.types import Reply, Sample, Trajectory, Turn
from cv_lightning.viewer.recording import describe, image_name


def test_versions_are_recorded_as_spans() -> None:
    turns = [Turn("a", Reply(answer="K"), versions=[3, 3, 4, 4, 4]), Turn("b", Reply(answer="K"))]
    record = describe(Trajectory(Sample("a", "Read.", (), "K"), turns), image_name)
    assert record["turns"][0]["versions"] == [[3, 2], [4, 3]]
    assert "versions" not in record["turns"][1]
