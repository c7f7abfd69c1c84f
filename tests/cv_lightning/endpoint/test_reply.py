"""Mutated answers of servers: every question gets its answer, and nothing raises an exception."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cv_lightning.endpoint.adaptation import Adaptation
from cv_lightning.endpoint.client import Endpoint
from cv_lightning.endpoint.meter import EndpointError, RequestError
from cv_lightning.endpoint.reply import read_object, read_reply
from cv_lightning.endpoint.solver import EndpointSolver
from cv_lightning.types import Trajectory
from tests.cv_lightning.endpoint.fake_server import (
    HELLO,
    SETTINGS,
    Reply,
    Server,
    call,
    completion,
    error,
    sample,
    says,
)

VALID = (
    completion("It reads <answer>x</answer>"),
    completion("I look.", [call("result = image.rotate(90)", "a"), call("result = image", "b")], "tool_calls"),
    completion(None, [{**call("1 / 0"), "extra_content": {"google": {"thought_signature": "s"}}}]),
    json.dumps(
        {
            "choices": [
                {
                    "message": {
                        "content": [{"type": "text", "text": "\ud800"}],
                        "tool_calls": [call("result = image")],
                        "reasoning_content": "hm",
                        "reasoning_details": [{"data": 1e300}],
                    },
                    "finish_reason": None,
                }
            ],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        }
    ).encode(),
)
REFUSALS = (
    error("Unsupported parameter: 'max_tokens'", "unsupported_parameter"),
    error("Unexpected role 'user' after role 'tool'"),
    error("'reasoning_content' is unsupported"),
    error("maximum context length is 9"),
    b'[{"error": {"code": 400, "message": "no"}}]',
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
scalars |= st.sampled_from(["", "null", "{", "<answer>", "</tool_call>", "\ud83d", 10**400, float("inf"), "call_0"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    for key in list(content) if isinstance(content, dict) else range(len(content) if isinstance(content, list) else 0):
        yield content, key
        yield from places(content[key])


@st.composite
def mutated(draw: st.DrawFn, originals: tuple[bytes, ...]) -> bytes:
    """An answer with replaced or missing values, cut off, or with other bytes."""
    content = json.loads(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 3))):
        found = list(places(content))
        if found:
            container, key = draw(st.sampled_from(found))
            if draw(st.booleans()):
                container[key] = draw(values)
            else:
                del container[key]
    text = json.dumps(content).encode()
    how = draw(st.sampled_from(["whole", "whole", "whole", "cut", "bytes", "deep", "other"]))
    at = draw(st.integers(0, len(text)))
    if how == "cut":
        return text[:at]
    if how == "bytes":
        return text[:at] + draw(st.binary(max_size=5)) + text[at + draw(st.integers(0, 3)) :]
    if how == "deep":
        return text.replace(b"null", b"[" * 2000 + b"]" * 2000).replace(b'"hm"', b"[" * 90 + b"]" * 90)
    return draw(st.binary(max_size=20)) if how == "other" else text


def answers_after(server: Server, body: bytes, status: int = 200) -> None:
    """Let the server give `body` once, and good answers after that."""
    good: Reply = says(completion("<answer>well</answer>"))
    n_asked = 0

    def reply(handler: BaseHTTPRequestHandler) -> None:
        nonlocal n_asked
        n_asked += 1
        (says(body, status) if n_asked == 1 else good)(handler)

    server.replies = [reply]


def play(server: Server, solver: EndpointSolver) -> Trajectory | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (trajectory,) = solver.solve([sample()])
    return trajectory


def check_answer(server: Server, solver: EndpointSolver, body: bytes, status: int) -> None:
    """No answer is lost: a readable answer is used, any other answer is requested again."""
    server.requests.clear()
    answers_after(server, body, status)
    trajectory = play(server, solver)
    assert trajectory is not None
    assert trajectory.stop_reason is not None
    assert trajectory.turns
    try:
        expected = read_reply(read_object(body)) if status == 200 else None
    except ValueError:
        expected = None
    if expected is None:
        assert trajectory.answer == "well"
        assert len(server.requests) == 2
    else:
        assert trajectory.turns[0].text.startswith(expected.text)
        assert trajectory.n_calls + sum(turn.reply.fault is not None for turn in trajectory.turns) >= len(
            expected.calls
        )
        results = [m["tool_call_id"] for body in server.requests[1:2] for m in body["messages"] if m["role"] == "tool"]
        assert len(results) == len(set(results)) == (len(expected.calls) if server.requests[1:] else 0)


def check_refusal(server: Server, endpoint: Endpoint, body: bytes, status: int) -> None:
    """A refusal leaves the question out, or changes its form; the next question is answered."""
    answers_after(server, body, status)
    endpoint._adaptation = Adaptation()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(RequestError, EndpointError):
            assert endpoint.chat(HELLO, SETTINGS).text == "<answer>well</answer>"
    assert endpoint.chat(HELLO, SETTINGS).text == "<answer>well</answer>"


@pytest.fixture
def solver(server: Server) -> Iterator[EndpointSolver]:
    solver = EndpointSolver(server.endpoint(max_wait_s=0.0, attempts=2), lane="pillow", at_once=1, max_turns=2)
    yield solver
    solver.close()


in_suite = settings(max_examples=40, suppress_health_check=[*HealthCheck])
large = settings(max_examples=10_000, suppress_health_check=[*HealthCheck])
in_between = settings(max_examples=2_000, suppress_health_check=[*HealthCheck])
answers = {"body": mutated(VALID), "status": st.sampled_from([200, 200, 200, 200, 200, 429, 500, 503])}
refusals = {"body": mutated(REFUSALS), "status": st.sampled_from([400, 401, 404, 413, 422, 500])}


@in_suite
@given(**answers)
def test_no_answer_is_lost(server: Server, solver: EndpointSolver, body: bytes, status: int) -> None:
    check_answer(server, solver, body, status)


@in_suite
@given(**refusals)
def test_a_refusal_never_raises_anything_else(server: Server, solver: EndpointSolver, body: bytes, status: int) -> None:
    check_refusal(server, solver.endpoint, body, status)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@large
@given(**answers)
def test_of_ten_thousand_answers_none_is_lost(server: Server, solver: EndpointSolver, body: bytes, status: int) -> None:
    check_answer(server, solver, body, status)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@in_between
@given(**refusals)
def test_two_thousand_refusals_raise_nothing_else(
    server: Server, solver: EndpointSolver, body: bytes, status: int
) -> None:
    check_refusal(server, solver.endpoint, body, status)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (b'{"a": NaN, "b": -Infinity, "c": 1e999, "d": 1.5}', {"a": None, "b": None, "c": None, "d": 1.5}),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", None),
    ],
)
def test_what_is_read_can_be_sent_back(text: bytes, content: dict[str, Any] | None) -> None:
    read = read_object(text)
    assert json.loads(json.dumps(read, allow_nan=False)) == read
    assert content is None or read == content


@pytest.mark.parametrize("text", [b"", b"[]", b"7", b'{"a": ', b"\xff{}", b'{"a": ' + b"[" * 90 + b"]" * 90 + b"}"])
def test_what_is_no_object_is_named(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a JSON object"):
        read_object(text)


def test_a_lone_surrogate_is_answered_like_any_text(server: Server, solver: EndpointSolver) -> None:
    body = completion("\ud800", [call("result = image  # \udfff")])
    check_answer(server, solver, body, 200)
    assert server.requests[1]["messages"][2]["content"] == "?"
