"""Trajectories as traces in a real store: spans, images, timing, credit, and malicious text."""

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
from cv_lightning.types import (
    Group,
    Reply,
    RewardBreakdown,
    Sample,
    StopReason,
    TokenSequence,
    ToolCall,
    Trajectory,
    Turn,
    ViewedImage,
)
from sandbox import Affine, Observation
from sandbox.geometry import orientation_frame

HOSTILE = "<script>alert(1)</script> \x00\ud800 'DROP TABLE"


def recovered() -> Trajectory:
    image = Image.new("RGB", (6, 4), "red")
    image.putpixel((1, 1), (0, 0, 255))
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
        ViewedImage(turned, 0, orientation_frame("rotate_270", image.size), "rotate_270", 1),
    ]
    sample = Sample("s0", HOSTILE, (image,), "A", ("rotate_90",))
    tokens = TokenSequence()
    for n_read, n_written in ((10, 3), (5, 4), (6, 2)):
        tokens.append([0] * n_read, is_trained=False)
        tokens.append([1] * n_written, is_trained=True)
    return Trajectory(sample, turns, views, tokens, stop_reason=StopReason.ANSWERED)


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
    assert {name: trace.info.tags[name] for name in ("step", "stop_reason")} == {"step": "3", "stop_reason": "answered"}
    assert (trace.info.state.value, trace.info.response_preview) == ("OK", "A")
    assert trace.info.token_usage == {"input_tokens": 10 + 18 + 28, "output_tokens": 3 + 4 + 2, "total_tokens": 65}
    spans = {span.span_id: span for span in trace.data.spans}
    tree = [
        (span.name, span.span_type, spans[span.parent_id].name if span.parent_id else None)
        for span in sorted(spans.values(), key=lambda span: (span.start_time_ns, span.span_id))
    ]
    assert tree == [
        ("trajectory", "AGENT", None),
        ("turn 1", "CHAT_MODEL", "trajectory"),
        ("code_image_tool", "TOOL", "turn 1"),
        ("turn 2", "CHAT_MODEL", "trajectory"),
        ("rotate", "TOOL", "turn 2"),
        ("turn 3", "CHAT_MODEL", "trajectory"),
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
    assert failed.status.description.startswith("error: <script>")
    assert failed.events[0].attributes["exception.type"] == "error"
    assert second.attributes["mlflow.chat.tokenUsage"] == {"input_tokens": 18, "output_tokens": 4, "total_tokens": 22}
    assert failed.inputs["description"].startswith("<script>")
    (image,) = ran.outputs["images"]
    stored = list((tmp_path / "mlartifacts").rglob(image.split("//")[1].split("?")[0]))
    with Image.open(stored[0]) as turned:
        assert turned.size == (4, 6)


def sent(tmp_path: Path, n_times: int = 1) -> list[Any]:
    """The traces in a store after `tmp_path/step` was sent to it `n_times`."""
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "art").as_uri())
    run_id = client.create_run(experiment).info.run_id
    for _ in range(n_times):
        send_traces(uri, experiment, run_id, {"path": str(tmp_path / "step"), "step": 3, "time_ms": 10**12})
    found: list[Any] = client.search_traces(locations=[experiment])
    return found


def test_sent_again_it_is_the_same_trace(tmp_path: Path) -> None:
    write(tmp_path / "step")
    (trace,) = sent(tmp_path, n_times=2)
    assert len(trace.data.spans) == 6
    assert sorted(one.name for one in trace.info.assessments) == [
        "expected_response",
        "is_right",
        "reward",
        *sorted(f"reward.{name}" for name in score(Group(recovered().sample, [recovered()]), RewardConfig())[0].terms),
    ]


def ended(text: str, reply: Reply, reason: StopReason, seen: Observation | None = None) -> Trajectory:
    sample = Sample("s0", "Read.", (Image.new("RGB", (6, 4)),), "A")
    return Trajectory(sample, [Turn(text, reply, seen)], [ViewedImage(sample.images[0])], stop_reason=reason)


def test_a_state_says_what_failed_and_an_assessment_what_was_wrong(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    wrong = ended("B", Reply(answer="B"), StopReason.ANSWERED)
    silent = ended("hm", Reply(fault="no tool call and no answer", is_silent=True), StopReason.NO_ACTION)
    unread = ended("{", Reply(fault="a brace is missing"), StopReason.MAX_TOKENS, Observation("rejected", text="brace"))
    unknown = ended("zoom", Reply(call=ToolCall("", name="")), StopReason.MAX_TURNS, Observation("error", text="none"))
    unjudged = ended("C", Reply(answer="C"), StopReason.ANSWERED)
    picked = [
        Picked("worst", one, RewardBreakdown({"accuracy": 0.0, "format": 0.1}, is_right), group, rollout)
        for (group, rollout), one, is_right in (
            ((0, 0), wrong, False),
            ((0, 1), silent, False),
            ((1, 0), unread, False),
            ((1, 1), unknown, False),
            ((2, 0), unjudged, None),
        )
    ]
    write_trajectories(picked, tmp_path / "step", "Step 3", 3)
    lines = [json.loads(line) for line in (tmp_path / "step" / "trajectories.jsonl").read_text().splitlines()]
    traces = sent(tmp_path)
    assert len(lines) == len(traces) == 5
    found = {trace.info.tags["stop_reason"] + trace.info.response_preview: trace for trace in traces}
    assert {name: trace.info.state.value for name, trace in found.items()} == {
        "answeredB": "OK",
        "no_actionno answer": "ERROR",
        "max_tokensno answer": "ERROR",
        "max_turnsno answer": "ERROR",
        "answeredC": "OK",
    }
    spans = {
        name: [(span.span_type, span.name, span.status.status_code.value) for span in trace.data.spans[1:]]
        for name, trace in found.items()
    }
    assert spans["answeredB"] == [("CHAT_MODEL", "turn 1", "OK")]
    assert spans["no_actionno answer"] == [("CHAT_MODEL", "turn 1", "ERROR")]
    assert spans["max_tokensno answer"] == [("CHAT_MODEL", "turn 1", "ERROR")], "nothing was called"
    assert spans["max_turnsno answer"] == [("CHAT_MODEL", "turn 1", "OK"), ("TOOL", "unknown_tool", "ERROR")]
    assert found["no_actionno answer"].data.spans[0].status.description.startswith("no_action: ")
    said = {one.name: one for one in found["answeredB"].info.assessments}
    values = {name: one.feedback.value for name, one in said.items() if one.feedback is not None}
    assert values == {"is_right": False, "reward": 0.1, "reward.accuracy": 0.0, "reward.format": 0.1}
    assert said["expected_response"].expectation.value == "A"
    (truth, verdict) = sorted(found["answeredC"].info.assessments, key=lambda one: one.name)
    assert (truth.name, verdict.name, verdict.feedback.value) == ("expected_response", "is_right", None)
    assert verdict.feedback.error.error_code == "NOT_JUDGED"
    sessions = {name: trace.info.trace_metadata["mlflow.trace.session"] for name, trace in found.items()}
    assert sessions["answeredB"] == sessions["no_actionno answer"]
    assert sessions["answeredB"].startswith("s3-g0-")
    assert len(set(sessions.values())) == 3
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("e").experiment_id
    wrong_ones = client.search_traces(locations=[experiment], filter_string="feedback.is_right = 'false'")
    assert len(wrong_ones) == 4


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
    assert "line 1 is not JSON" in caplog.text
    assert "gave up" in caplog.text
    assert not list(tmp_path.glob("mlflow_unsent*"))
    assert json.loads((tmp_path / "mlflow_run.json").read_text())["run_id"] == logger.run_id
