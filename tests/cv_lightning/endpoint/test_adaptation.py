"""Servers with special demands: each accepts exactly the requests that the real server accepts."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cv_lightning.endpoint.adaptation import Adaptation
from cv_lightning.endpoint.client import Endpoint
from cv_lightning.endpoint.meter import RequestError
from cv_lightning.endpoint.solver import EndpointSolver
from cv_lightning.errors import ConfigError
from cv_lightning.evaluation.answer_log import AnswerLog, make_record, read_answers
from cv_lightning.grading.benchmarks import Grade
from cv_lightning.grading.judge import Judge
from tests.cv_lightning.endpoint.fake_server import (
    HELLO,
    SETTINGS,
    Reply,
    Server,
    call,
    completion,
    error,
    one,
    sample,
    says,
    solve,
)
from tests.cv_lightning.endpoint.replies import DONE, TURN, answering

#: Takes a request; returns the error reply, or None if the request is accepted.
Demand = Callable[[dict[str, Any]], bytes | None]


def demands(server: Server, demand: Demand, *answers: bytes, status: int = 400) -> Reply:
    """Refuse requests that do not meet the demand; otherwise give the answers in order."""
    left = [*answers]

    def reply(handler: BaseHTTPRequestHandler) -> None:
        refusal = demand(server.requests[-1])
        if refusal is not None:
            says(refusal, status)(handler)
        else:
            says(left.pop(0) if len(left) > 1 else left[0])(handler)

    return reply


SIGNED = {
    "role": "assistant",
    "content": None,
    "reasoning_content": "It lies on its side.",
    "reasoning_details": [{"type": "reasoning.encrypted", "data": "gAAAA", "index": 0}],
    "new_in_2027": {"a": [1, 2.5, True]},
    "refusal": None,
    "annotations": [],
    "tool_calls": [
        {**call(TURN), "index": 0, "extra_content": {"google": {"thought_signature": "CikBabc=="}}},
    ],
}


def test_a_message_is_sent_back_whole(server: Server) -> None:
    def demand(body: dict[str, Any]) -> bytes | None:
        """Gemini: the thought signature of a call must come back unchanged."""
        for message in body["messages"]:
            for made in message.get("tool_calls", ()):
                if made.get("extra_content", {}).get("google", {}).get("thought_signature") != "CikBabc==":
                    return error("Function call is missing a thought_signature in functionCall parts.")
        return None

    server.replies = [demands(server, demand, answering(SIGNED), DONE)]
    assert one(solve(server)).answer == "x"
    sent = server.requests[1]["messages"][2]
    assert sent == {key: value for key, value in SIGNED.items() if key not in ("refusal", "annotations")}


def test_a_field_that_a_server_does_not_take_back_is_left_out(server: Server) -> None:
    def demand(body: dict[str, Any]) -> bytes | None:
        """Groq and Mistral refuse `reasoning_content`."""
        if any("reasoning_content" in message for message in body["messages"]):
            return error("'messages.2' : property 'reasoning_content' is unsupported")
        return None

    server.replies = [demands(server, demand, answering(SIGNED), DONE)]
    with pytest.warns(UserWarning, match="reasoning_content of earlier turns left out"):
        trajectory = one(solve(server))
    assert trajectory.answer == "x"
    assert trajectory.adapted == ("reasoning_content of earlier turns left out",)
    assert server.requests[2]["messages"][2]["reasoning_details"] == SIGNED["reasoning_details"]


def mistral(body: dict[str, Any]) -> bytes | None:
    roles = [message["role"] for message in body["messages"]]
    if ("tool", "user") in pairwise(roles):
        return error("Unexpected role 'user' after role 'tool'", "invalid_request_message_order")
    return None


def openai_like(body: dict[str, Any]) -> bytes | None:
    if any(message["role"] == "tool" and isinstance(message["content"], list) for message in body["messages"]):
        return error(
            "Invalid 'messages[3]'. Image URLs are only allowed for messages with role 'user', but this message with "
            "role 'tool' contains an image URL.",
            "invalid_value",
        )
    return None


def only_in_the_tools_turn(body: dict[str, Any]) -> bytes | None:
    for before, after in pairwise(body["messages"]):
        if before["role"] == "tool" and after["role"] != "tool":
            return error("Conversation must continue after role 'tool' with the assistant's reply")
    return None


def template(body: dict[str, Any]) -> bytes | None:
    """llama.cpp: an exception of the chat template is an internal error."""
    return mistral(body) and error("Jinja Exception: After the optional system message, roles must alternate")


def where(body: dict[str, Any]) -> list[str]:
    """The roles from the tool's turn on; the role of a message with an image is in capitals."""
    roles = []
    for message in body["messages"][3:]:
        has_image = isinstance(message["content"], list) and any("image_url" in part for part in message["content"])
        roles.append(message["role"].upper() if has_image else message["role"])
    return roles


BRIDGED = ["tool", "assistant", "USER"]


@pytest.mark.parametrize(
    ("demand", "status", "option", "taken", "note"),
    [
        (mistral, 400, "user", BRIDGED, "in a turn of the user after one of the assistant"),
        (template, 500, "user", BRIDGED, "in a turn of the user after one of the assistant"),
        (openai_like, 400, "tool", ["tool", "USER"], "in a turn of the user"),
        (only_in_the_tools_turn, 422, "user", ["TOOL"], "in the tool's turn"),
        (only_in_the_tools_turn, 400, "bridge", ["TOOL"], "in the tool's turn"),
    ],
)
def test_a_refusal_moves_images_once(
    server: Server, demand: Demand, status: int, option: str, taken: list[str], note: str
) -> None:
    turn = completion(None, [call(TURN)])
    server.replies = [demands(server, demand, turn, DONE, turn, DONE, status=status)]
    endpoint = server.endpoint(tool_images=option, attempts=1)
    solver = EndpointSolver(endpoint, lane="pillow", at_once=1)
    with pytest.warns(UserWarning, match="images of tool results") as caught:
        solved = solver.solve([sample("1"), sample("2")])
    solver.close()
    assert len(caught) == 1, "it is logged once"
    assert [trajectory is not None and trajectory.answer for trajectory in solved] == ["x", "x"]
    assert [trajectory is not None and trajectory.adapted for trajectory in solved] == [
        (f"images of tool results {note}",)
    ] * 2
    assert where(server.requests[-1]) == taken
    asked_again = [body for body in server.requests[4:] if where(body)]
    assert all(where(body) == taken for body in asked_again), "the second question is asked in the new form at once"


@pytest.mark.parametrize(("option", "taken"), [("user", ["tool", "USER"]), ("bridge", BRIDGED), ("tool", ["TOOL"])])
def test_images_are_where_the_option_says(server: Server, option: str, taken: list[str]) -> None:
    server.replies = [says(completion(None, [call(TURN)])), says(DONE)]
    trajectory = one(solve(server, endpoint={"tool_images": option}))
    assert where(server.requests[1]) == taken
    assert trajectory.adapted == (), "what was asked for is no adaptation"
    contents = [message["content"] for message in server.requests[1]["messages"]]
    texts = [part["text"] for content in contents if isinstance(content, list) for part in content if "text" in part]
    assert all(texts), "servers refuse empty texts"


def test_several_images_follow_all_results(server: Server) -> None:
    server.replies = [demands(server, mistral, completion(None, [call(TURN, "a"), call(TURN, "b")]), DONE)]
    with pytest.warns(UserWarning, match="after one of the assistant"):
        one(solve(server))
    assert where(server.requests[-1]) == ["tool", "tool", "assistant", "USER"]
    assert sum("image_url" in part for part in server.requests[-1]["messages"][-1]["content"]) == 2


def test_a_refusal_of_everything_is_the_servers_last_word(server: Server) -> None:
    server.replies = [
        says(completion(None, [call(TURN)])),
        says(error("Unexpected role 'user' after role 'tool'"), 400),
    ]
    with pytest.warns(UserWarning, match="Left out question '0'.*Unexpected role"):
        assert solve(server) == [None]
    assert len(server.requests) == 4, "each of the three places once"


def test_a_refusal_for_another_reason_changes_nothing(server: Server) -> None:
    server.replies = [says(completion(None, [call(TURN)])), says(error("content policy"), 400)]
    with pytest.warns(UserWarning, match="content policy"):
        assert solve(server) == [None]
    assert len(server.requests) == 2


def reasoning_model(body: dict[str, Any]) -> bytes | None:
    """GPT-5 and the o-models, with their original error messages."""
    if "max_tokens" in body:
        message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
        fault = {"message": message, "param": "max_tokens", "code": "unsupported_parameter"}
    elif "temperature" in body:
        message = "Unsupported value: 'temperature' does not support 0 with this model. Only the default is supported."
        fault = {"message": message, "param": "temperature", "code": "unsupported_value"}
    else:
        return None
    return json.dumps({"error": {"type": "invalid_request_error", **fault}}).encode()


REASONING = ("max_tokens renamed to max_completion_tokens", "temperature left out")


def test_settings_that_are_refused_by_name_change_once(server: Server) -> None:
    server.replies = [demands(server, reasoning_model, completion())]
    endpoint = server.endpoint()
    with pytest.warns(UserWarning, match="refused a request") as caught:
        replies = [endpoint.chat(HELLO, SETTINGS) for _ in range(3)]
    assert len(caught) == 2
    assert [reply.adapted for reply in replies] == [REASONING] * 3
    assert len(server.requests) == 5, "two refusals, once"
    assert server.requests[-1] == {"model": "m", "messages": HELLO, "max_completion_tokens": 8}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (error("`temperature` is deprecated for this model."), 400),
        (b'{"detail": [{"loc": ["body", "temperature"], "msg": "Extra inputs are not permitted"}]}', 422),
        (b'[{"error": {"code": 400, "message": "Unknown name \\"temperature\\": Cannot find field."}}]', 400),
        (b"temperature is not supported", 400),
    ],
)
def test_refusals_in_other_words_are_understood(server: Server, body: bytes, status: int) -> None:
    server.replies = [
        demands(server, lambda sent: body if "temperature" in sent else None, completion(), status=status)
    ]
    with pytest.warns(UserWarning, match="temperature left out"):
        server.endpoint().chat(HELLO, SETTINGS)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 99999. This model supports at most 4096 completion tokens.",
        "max_tokens must be at least 16",
        "temperature must be between 0 and 2",
        "Unsupported parameter: 'tools' is not supported with this model.",
    ],
)
def test_a_wrong_value_is_no_unknown_setting(server: Server, message: str) -> None:
    server.replies = [says(error(message, "invalid_value"), 400)]
    with pytest.raises(RequestError, match=re.escape(message)):
        server.endpoint().chat(HELLO, SETTINGS)
    assert len(server.requests) == 1


def test_a_busy_server_refuses_no_form(server: Server) -> None:
    server.replies = [says(completion(None, [call(TURN)])), says(error("Try again after 2 s, role: user"), 503)]
    with pytest.warns(UserWarning, match="Try again after"):
        assert solve(server, endpoint={"attempts": 2}) == [None]
    assert len(server.requests) == 3


def test_what_did_not_help_is_not_kept(server: Server) -> None:
    refusal = error("'temperature' is not supported", "unsupported_parameter")
    server.replies = [says(refusal, 400), says(error("no"), 400), says(completion())]
    endpoint = server.endpoint()
    with pytest.raises(RequestError, match="no"):
        endpoint.chat(HELLO, SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert endpoint.chat(HELLO, SETTINGS).adapted == ()
    assert "temperature" in server.requests[-1]


def test_the_answer_log_has_what_was_changed(server: Server, tmp_path: Path) -> None:
    server.replies = [demands(server, reasoning_model, DONE)]
    with pytest.warns(UserWarning, match="refused a request"):
        trajectory = one(solve(server))
    record = make_record("k", "upright", "p", trajectory, Grade(1.0, "rule"))
    AnswerLog(tmp_path).append([record])
    assert read_answers(tmp_path)[0]["k"].adapted == list(REASONING)
    line = json.loads((tmp_path / "answers_0.jsonl").read_text())
    del line["adapted"]
    (tmp_path / "answers_0.jsonl").write_text(json.dumps(line) + "\n")
    assert read_answers(tmp_path)[0]["k"].adapted == [], "a log of an earlier version"


def test_a_cached_reply_keeps_what_was_changed_and_needs_no_server(server: Server, tmp_path: Path) -> None:
    server.replies = [demands(server, reasoning_model, completion())]
    with pytest.warns(UserWarning, match="refused a request"):
        server.endpoint(cache=str(tmp_path)).chat(HELLO, SETTINGS)
    n_asked = len(server.requests)
    assert server.endpoint(cache=str(tmp_path)).chat(HELLO, SETTINGS).adapted == REASONING
    assert len(server.requests) == n_asked


def test_a_judge_is_adapted_too(server: Server) -> None:
    server.replies = [demands(server, reasoning_model, completion("yes"))]
    with pytest.warns(UserWarning, match="max_completion_tokens"):
        assert Judge(server.url, "m")("q", "a", "a") is True


def test_threads_agree_on_what_was_learned() -> None:
    mine = Adaptation(settings=frozenset({"temperature"}))
    other = Adaptation("bridge", frozenset({"user"}), frozenset({"max_tokens"}), frozenset({"reasoning"}))
    for joined in (mine.join(other), other.join(mine)):
        assert joined == Adaptation(
            "bridge", frozenset({"user"}), frozenset({"temperature", "max_tokens"}), frozenset({"reasoning"})
        )


def test_a_wrong_place_is_named() -> None:
    with pytest.raises(ConfigError, match="tool_images: expected one of user, bridge, tool, got 'behind'"):
        Endpoint("http://127.0.0.1/v1", tool_images="behind")  # type: ignore[arg-type]
