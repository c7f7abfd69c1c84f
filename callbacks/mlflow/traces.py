"""Recorded trajectories as MLflow traces: a span per turn and per tool call, with images, timing, tokens and credit.

The state of a trace or span says what failed: a call, an unreadable reply, a trajectory that ended without an answer.
The verdict on an answer and its reward are assessments of the trace; the trajectories of a group share a session.

The traces are made from the files that `callbacks.trajectories` wrote, in the thread that sends (`sender`).
MLflow's fluent tracing functions are not used: they export through one global address and hide failures, while here a
failure is reported and waiting traces are sent again. Ids are derived from run, step and place, so nothing is
sent twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from callbacks.mlflow.assessments import assessments

#: Milliseconds of a turn whose duration was not measured.
_UNKNOWN_MS = 1

#: The name of a call whose tool does not exist.
_UNKNOWN_TOOL = "unknown_tool"

Record = Mapping[str, Any]


class _Failure(NamedTuple):
    """Why a span failed: a kind, by which MLflow groups failures, and a message."""

    kind: str
    message: str


def send_traces(tracking_uri: str, experiment_id: str, run_id: str, request: Record) -> None:
    """Send all trajectories of a folder.

    Args:
        tracking_uri: URI of the MLflow server.
        experiment_id: MLflow's experiment of the run.
        run_id: The run that the traces belong to.
        request: Record of `BackgroundMLflowLogger.log_traces`: `path` (the folder), `step` and `time_ms`.

    Raises:
        OSError: The folder is gone, or holds something else.
        MlflowException: MLflow cannot be reached, or refuses a trace.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.tracing.client import TracingClient

    client = TracingClient(tracking_uri)
    folder = Path(request["path"])
    for index, line in enumerate((folder / "trajectories.jsonl").read_text(encoding="utf-8").splitlines()):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise OSError(f"{folder}/trajectories.jsonl: line {index + 1} is not JSON") from error
        digest = hashlib.sha256(f"{run_id}/{request['step']}/{index}".encode()).hexdigest()
        trace = _Trace(record, folder, digest, int(request["time_ms"]) * 1_000_000)
        info = client.start_trace(trace.info(experiment_id, run_id, request["step"]))
        client.log_spans(experiment_id, trace.spans())
        images = get_artifact_repository(info.tags["mlflow.artifactLocation"], tracking_uri=tracking_uri)
        for name, content in trace.attachments.items():
            images.upload_attachment(name, content)


class _Trace:
    """One trajectory; `end_ns` is the end of its rollout, in nanoseconds since 1970."""

    def __init__(self, record: Record, folder: Path, digest: str, end_ns: int) -> None:
        self.record = record
        self.folder = folder
        self.trace_id = f"tr-{digest[:32]}"
        self.attachments: dict[str, bytes] = {}
        self._otel_trace_id = int(digest[:32], 16)
        self._first_span_id = int(digest[32:46], 16) << 8
        self._refs: dict[str, str] = {}
        turn_ns = [_ns(turn.get("seconds")) for turn in record["turns"]]
        tool_ns = [_ns((turn["observation"] or {}).get("seconds")) for turn in record["turns"]]
        self.duration_ns = sum(turn_ns) + sum(tool_ns)
        self.start_ns = end_ns - self.duration_ns
        self._durations = list(zip(turn_ns, tool_ns, strict=True))

    def info(self, experiment_id: str, run_id: str, step: int) -> Any:
        """The entry in the list of traces; tags can be searched."""
        from mlflow.entities import TraceInfo, TraceLocation, TraceState
        from mlflow.tracing.constant import TraceMetadataKey

        record = self.record
        tags = {
            "mlflow.traceName": f"{record['kind']} step {step}",
            "step": str(step),
            "kind": record["kind"],
            "family": record["family"],
            "sample": record["id"],
            "group": str(record.get("group", "")),
            "stop_reason": record["stop_reason"] or "",
        }
        metadata = {TraceMetadataKey.SOURCE_RUN: run_id, "mlflow.trace_schema.version": "3"}
        if "group" in record:
            metadata[TraceMetadataKey.TRACE_SESSION] = f"s{step}-g{record['group']}-{run_id[:8]}"
        return TraceInfo(
            trace_id=self.trace_id,
            trace_location=TraceLocation.from_experiment_id(experiment_id),
            request_time=self.start_ns // 1_000_000,
            execution_duration=self.duration_ns // 1_000_000,
            state=TraceState.OK if self._failure() is None else TraceState.ERROR,
            request_preview=_clean(self._asked())[:1000],
            response_preview=_clean(record["answer"] or "no answer")[:1000],
            trace_metadata=metadata,
            tags={name: _clean(value)[:250] for name, value in tags.items() if value},
            assessments=assessments(
                {**record, "truth": _clean(record["truth"])}, self.trace_id, run_id, self.start_ns // 1_000_000
            ),
        )

    def _failure(self) -> _Failure | None:
        """Why the trajectory itself failed: an answer, right or wrong, is no failure."""
        reason, answer = self.record["stop_reason"], self.record["answer"]
        if reason in (None, "answered") and answer is not None:
            return None
        return _Failure(reason or "no_answer", "It ended without an answer." if answer is None else "It was cut off.")

    def _asked(self) -> str:
        """A line for the list of traces: the question, then its transforms, because many questions are alike."""
        return " · ".join([self.record["question"], *self.record["transforms"]])

    def spans(self) -> list[Any]:
        """The trajectory, its turns, and below each turn the call that it made."""
        record = self.record
        question = {
            "messages": [self._message("user", record["question"], -1)],
            "transforms": record["transforms"],
            "truth": record["truth"],
        }
        outputs = {
            "answer": record["answer"],
            "is_right": record["is_right"],
            "reward": record["reward"],
            "terms": record["terms"],
            "stop_reason": record["stop_reason"],
        }
        times = (self.start_ns, self.duration_ns)
        root = self._span(0, None, "trajectory", "AGENT", times, question, outputs, failure=self._failure())
        return [root, *self._turns()]

    def _turns(self) -> Iterator[Any]:
        now = self.start_ns
        messages = [self._message("user", self.record["question"], -1)]
        for index, (turn, (turn_ns, tool_ns)) in enumerate(zip(self.record["turns"], self._durations, strict=True)):
            credit = turn.get("credit") or {}
            shown = {"reward": sum(credit.values()), **{f"reward.{name}": value for name, value in credit.items()}}
            name, number, inputs = f"turn {index + 1}", 2 * index + 1, {"messages": [*messages]}
            reply = {"role": "assistant", "content": turn["text"]}
            outputs = {"choices": [{"index": 0, "message": reply}], "fault": turn["fault"], "credit": credit}
            chat = {"mlflow.message.format": "openai", **_usage(turn), **shown}
            seen = turn["observation"]
            failure = _Failure("unreadable_reply", turn["fault"]) if turn["fault"] else None
            times = (now, turn_ns + tool_ns)
            yield self._span(number, 0, name, "CHAT_MODEL", times, inputs, outputs, chat, failure)
            messages.append(reply)
            if seen is not None:
                if turn["image_index"] is not None:  # else the reply holds no call, and nothing ran
                    yield self._call(index, number, turn, (now + turn_ns, tool_ns))
                messages.append(self._message("user", f"[{seen['status']}] {seen['text']}".strip(), index))
            now += turn_ns + tool_ns

    def _message(self, role: str, text: str, turn: int) -> dict[str, Any]:
        """The environment's message for MLflow's chat view, with the images of a turn (-1: of the question)."""
        files = [image["file"] for image in self.record["images"] if image["turn"] == turn]
        images = [{"type": "image_url", "image_url": {"url": self._image(file)}} for file in files]
        return {"role": role, "content": [{"type": "text", "text": text}, *images]}

    def _call(self, index: int, parent: int, turn: Record, time_ns: tuple[int, int]) -> Any:
        seen = turn["observation"]
        call = turn.get("call") or {}
        inputs = {**call, "image_index": turn["image_index"]}
        results = [self._image(image["file"]) for image in self.record["images"] if image["turn"] == index]
        outputs = {"status": seen["status"], "text": seen["text"], "images": results, "tools": seen["tools"]}
        attributes = {"lane": seen["lane"], "tools": ", ".join(seen["tools"])}
        failure = None if seen["status"] == "ok" else _Failure(seen["status"], seen["text"])
        name = call.get("name") or _UNKNOWN_TOOL
        return self._span(parent + 1, parent, name, "TOOL", time_ns, inputs, outputs, attributes, failure)

    def _span(
        self,
        number: int,
        parent: int | None,
        name: str,
        kind: str,
        time_ns: tuple[int, int],
        inputs: Record,
        outputs: Record,
        attributes: Record | None = None,
        failure: _Failure | None = None,
    ) -> Any:
        """A span; MLflow keeps the values of attributes as JSON."""
        from mlflow.entities import Span

        values = {
            "mlflow.traceRequestId": self.trace_id,
            "mlflow.spanType": kind,
            "mlflow.spanInputs": inputs,
            "mlflow.spanOutputs": outputs,
            **(attributes or {}),
        }
        start, duration = time_ns
        return Span.from_dict(
            {
                "name": name,
                "trace_id": self.trace_id,
                "span_id": self._span_id(number),
                "parent_span_id": None if parent is None else self._span_id(parent),
                "start_time_unix_nano": start,
                "end_time_unix_nano": start + duration,
                "status": {"code": "OK", "message": ""} if failure is None else _status(failure),
                "attributes": {name: _clean(json.dumps(value, ensure_ascii=False)) for name, value in values.items()},
                "events": [] if failure is None else [_exception(failure, start + duration)],
            }
        )

    def _span_id(self, number: int) -> str:
        return f"{self._first_span_id + number + 1:016x}"

    def _image(self, file: str) -> str:
        """The address of an image within the trace; MLflow's page shows the image there."""
        if file not in self._refs:
            from mlflow.tracing.attachments import Attachment

            attachment = Attachment(content_type="image/png", content_bytes=(self.folder / file).read_bytes())
            self.attachments[attachment.id] = attachment.content_bytes
            self._refs[file] = str(attachment.ref(self.trace_id))
        return self._refs[file]


def _status(failure: _Failure) -> dict[str, str]:
    return {"code": "ERROR", "message": _clean(f"{failure.kind}: {failure.message}")[:1000]}


def _exception(failure: _Failure, time_ns: int) -> dict[str, Any]:
    """The event by which MLflow's page shows why a span failed."""
    shown = {"exception.type": failure.kind, "exception.message": _clean(failure.message)}
    return {"name": "exception", "time_unix_nano": time_ns, "attributes": shown}


def _usage(turn: Record) -> dict[str, Any]:
    """A turn's tokens as MLflow counts them; each turn reads the whole conversation before it."""
    tokens = turn.get("tokens")
    if tokens is None:
        return {}
    read, written = tokens["read"], tokens["written"]
    counts = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    return {"mlflow.chat.tokenUsage": counts}


def _ns(seconds: float | None) -> int:
    return max(_UNKNOWN_MS * 1_000_000, int(1e9 * (seconds or 0.0)))


def _clean(text: str) -> str:
    """Text that a database accepts, without lone surrogates (UTF-8 cannot encode them) and NUL characters."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\N{SYMBOL FOR NULL}")
