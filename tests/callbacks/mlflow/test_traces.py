"""Trajectories as traces in a real store: spans, images, timing, credit, and text that means harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from callbacks.mlflow.logger import BackgroundMLflowLogger
from callbacks.mlflow.traces import send_traces
from callbacks.trajectories import write_trajectories
from callbacks.trajectory_choice import Picked
from cv_lightning.rewards import RewardConfig, score
from cv_lightning.types import Group, Reply, Sample, StopReason, ToolCall, Trajectory, Turn, ViewedImage
from sandbox import Affine, Observation

HOSTILE = "<script>alert(1)</script> \x00\ud800 'DROP TABLE"


def recovered() -> Trajectory:
    image = Image.new("RGB", (6, 4), "red")
    turned = image.rotate(270, expand=True)
    failed = Observation("error", text=HOSTILE, lane="confined", wall_s=0.5)
    ran = Observation("ok", turned, lane="pillow", wall_s=0.25, tools=("rotate_270",), orientation="rotate_270")
    turns = [
        Turn(HOSTILE, Reply(call=ToolCall("x", HOSTILE)), failed, wall_s=2.0),
        Turn("<think>mend</think>", Reply(call=ToolCall("image.rotate(270)", name="rotate")), ran, wall_s=1.0),
        Turn("<think></think><answer>A</answer>", Reply(answer="A")),
    ]
    views = [
        ViewedImage(image, 0, Affine(), "identity"),
        ViewedImage(turned, 0, Affine(0, 1, 0, 1, 0, 0), "rotate_270", 1),
    ]
    sample = Sample("s0", HOSTILE, (image,), "A", ("rotate_90",))
    return Trajectory(sample, turns, views, stop_reason=StopReason.ANSWERED)


def write(folder: Path) -> None:
    done = recovered()
    breakdown = score(Group(done.sample, [done]), RewardConfig())[0]
    write_trajectories([Picked("recovered", done, breakdown)], folder, "Step 3", 3, RewardConfig())


def seconds(span: Any) -> float:
    return (span.end_time_ns - span.start_time_ns) / 1e9  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_trajectory_is_a_trace_with_a_span_per_turn_and_call(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    logger = BackgroundMLflowLogger("e", "rl", uri, folder=tmp_path, flush_s=120)
    write(tmp_path / "step")
    logger.log_traces(tmp_path / "step", 3)
    logger.finalize("success")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("e").experiment_id
    (trace,) = client.search_traces(locations=[experiment], filter_string="tags.kind = 'recovered'")
    assert trace.info.trace_metadata["mlflow.sourceRun"] == logger.run_id
    assert {name: trace.info.tags[name] for name in ("step", "is_right", "reward", "stop_reason")} == {
        "step": "3",
        "is_right": "true",
        "reward": "2.1",
        "stop_reason": "answered",
    }
    assert trace.info.response_preview.endswith(" · right · reward 2.1")
    spans = {span.span_id: span for span in trace.data.spans}
    tree = [
        (span.name, span.span_type, spans[span.parent_id].name if span.parent_id else None)
        for span in sorted(spans.values(), key=lambda span: (span.start_time_ns, span.span_id))
    ]
    assert tree == [
        ("trajectory", "AGENT", None),
        ("turn 1", "LLM", "trajectory"),
        ("code_image_tool", "TOOL", "turn 1"),
        ("turn 2", "LLM", "trajectory"),
        ("rotate", "TOOL", "turn 2"),
        ("turn 3", "LLM", "trajectory"),
    ]
    by_name = {span.name: span for span in spans.values()}
    first, second = by_name["turn 1"], by_name["turn 2"]
    assert (seconds(first), seconds(second)) == pytest.approx((2.5, 1.25))
    assert second.start_time_ns == first.end_time_ns
    assert second.attributes["reward.mandatory"] == 1.0
    assert by_name["turn 3"].attributes["reward"] == pytest.approx(1.0)
    assert [message["role"] for message in by_name["turn 3"].inputs["messages"]] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    failed, ran = (spans[id_] for id_ in sorted(s.span_id for s in spans.values() if s.span_type == "TOOL"))
    assert (failed.status.status_code.value, ran.status.status_code.value) == ("ERROR", "OK")
    assert failed.inputs["description"].startswith("<script>")
    (image,) = ran.outputs["images"]
    stored = list((tmp_path / "mlartifacts").rglob(image.split("//")[1].split("?")[0]))
    with Image.open(stored[0]) as turned:
        assert turned.size == (4, 6)


def test_sent_again_it_is_the_same_trace(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "art").as_uri())
    run_id = client.create_run(experiment).info.run_id
    write(tmp_path / "step")
    for _ in range(2):
        send_traces(uri, experiment, run_id, {"path": str(tmp_path / "step"), "step": 3, "time_ms": 10**12})
    (trace,) = client.search_traces(locations=[experiment])
    assert len(trace.data.spans) == 6


def test_a_half_written_record_is_given_up_and_what_follows_is_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from callbacks.mlflow import sender as mlflow_sender

    monkeypatch.setattr(mlflow_sender, "RETRY_S", (0.01, 0.02))
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "trajectories.jsonl").write_text('{"kind": "be', encoding="utf-8")
    logger = BackgroundMLflowLogger("e", "rl", f"sqlite:///{tmp_path}/mlflow.db", folder=tmp_path, flush_s=60)
    logger.log_traces(tmp_path / "step", 1)
    logger.log_metrics({"a": 1.0}, 1)
    deadline = 3
    for _ in range(deadline):
        logger.finalize("success")
    assert "line 1 is no JSON" in caplog.text
    assert "given up" in caplog.text
    assert not list(tmp_path.glob("mlflow_unsent*"))
    assert json.loads((tmp_path / "mlflow_run.json").read_text())["run_id"] == logger.run_id
