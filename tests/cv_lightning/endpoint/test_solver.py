"""Trajectories with a server: their calls, their stop reasons, and the cost of a failure."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cv_lightning.conversation import format_answer, format_call
from cv_lightning.endpoint import solver as endpoint_solver
from cv_lightning.endpoint.client import Endpoint
from cv_lightning.endpoint.messages import ImageEncoding, default_prompt
from cv_lightning.endpoint.meter import EndpointError
from cv_lightning.endpoint.solver import EndpointSolver
from cv_lightning.errors import ConfigError
from cv_lightning.tools.code import CODE_TOOLS
from cv_lightning.types import StopReason, ToolCall
from tests.cv_lightning.endpoint.fake_server import Server, call, completion, error, one, pixels, sample, says, solve
from tests.cv_lightning.endpoint.replies import DONE, TURN

NONE_PROMPT = default_prompt("none", CODE_TOOLS)


def test_native_calls_are_executed_and_shown(server: Server) -> None:
    server.replies = [
        says(completion(None, [call("result = image.rotate(270, expand=True)")], "tool_calls")),
        says(completion("It reads <answer>x</answer>")),
    ]
    trajectory = one(solve(server))
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert (trajectory.answer, trajectory.n_calls, len(trajectory.images)) == ("x", 1, 2)
    assert trajectory.images[1].orientation == "rotate_270"
    first, second = server.requests
    assert [tool["function"]["name"] for tool in first["tools"]] == ["code_image_tool"]
    sized, image, _ = first["messages"][1]["content"]
    assert (sized["text"], image["type"]) == ("image 0: 40 x 30\n", "image_url")
    assistant, tool, shown = second["messages"][2:]
    assert assistant["tool_calls"][0]["id"] == tool["tool_call_id"] == "c1"
    assert tool["role"] == "tool"
    assert isinstance(tool["content"], str)
    turned = sample().images[0].rotate(270, expand=True)
    sized, image = shown["content"]
    assert sized["text"] == "image 1: 30 x 40\n"
    assert np.array_equal(pixels(image["image_url"]["url"]), np.asarray(turned))


def test_calls_as_text_are_those_of_our_own_format(server: Server) -> None:
    text = format_call("Turned.", ToolCall("result = image.rotate(270, expand=True)"))
    server.replies = [says(completion(text)), says(completion(format_answer("Read.", "x")))]
    trajectory = one(solve(server, tools="text", system_prompt="Read."))
    assert [turn.text for turn in trajectory.turns] == [text, format_answer("Read.", "x")]
    assert "tools" not in server.requests[0]
    opening, shown, closing = server.requests[1]["messages"][-1]["content"]
    assert (opening["text"], shown["type"]) == ("<tool_response>\n", "image_url")
    assert closing["text"].endswith("\n</tool_response>")


def test_without_the_tool_the_whole_reply_is_the_answer(server: Server) -> None:
    server.replies = [says(completion("<think>hm</think> a bus"))]
    trajectory = one(solve(server, tools="none"))
    assert (trajectory.answer, trajectory.stop_reason) == ("a bus", StopReason.ANSWERED)
    assert "tools" not in server.requests[0]


@pytest.mark.parametrize(
    ("tools", "system_prompt", "sent"),
    [("native", None, NONE_PROMPT), ("native", "Be brief.", "Be brief."), ("text", "Call <tool_call>.", NONE_PROMPT)],
)
def test_a_model_is_asked_once_without_its_tools(
    server: Server, tools: Any, system_prompt: str | None, sent: str
) -> None:
    solver = EndpointSolver(server.endpoint(), tools=tools, system_prompt=system_prompt, lane="pillow")
    alone = solver.without_tools()
    server.replies = [says(completion("a bus"))]
    trajectory = one(alone.solve([sample()]))
    alone.close()
    assert (trajectory.answer, len(trajectory.turns)) == ("a bus", 1)
    (request,) = server.requests
    assert "tools" not in request
    assert request["messages"][0] == {"role": "system", "content": sent}
    assert (solver.mode, solver.max_turns) == (tools, 4)
    assert alone.fingerprint() != solver.fingerprint()


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (completion("<answer>x</answer>", [call("a"), call("b", "c2")]), "exactly one"),
        (completion("<answer>x</answer>", [call("a")]), "exactly one"),
        (completion(None, [{"id": "c", "function": {"name": "code_image_tool", "arguments": "{"}}]), "not valid JSON"),
        (completion(None, [{"id": "c", "function": {"name": "other", "arguments": "{}"}}]), "Unknown tool 'other'"),
        (completion(None, [{"id": "c", "function": {"name": "code_image_tool", "arguments": "[]"}}]), "must be"),
    ],
)
def test_a_call_that_is_none_is_an_observation(server: Server, reply: bytes, fault: str) -> None:
    server.replies = [says(reply), says(completion("<answer>x</answer>"))]
    trajectory = one(solve(server))
    assert trajectory.answer == "x"
    observation = trajectory.turns[0].observation
    assert observation is not None
    assert observation.status == "rejected"
    assert fault in observation.text
    answered = [message["tool_call_id"] for message in server.requests[1]["messages"] if message["role"] == "tool"]
    assert answered == [made["id"] for made in json.loads(reply)["choices"][0]["message"]["tool_calls"]]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion("cut of", end="length"), StopReason.MAX_TOKENS),
        (completion(""), StopReason.NO_ACTION),
        (completion(None), StopReason.NO_ACTION),
        (completion(None, [call("result = image")]), StopReason.MAX_TURNS),
    ],
)
def test_why_a_trajectory_ends(server: Server, reply: bytes, reason: StopReason) -> None:
    server.replies = [says(reply)]
    assert one(solve(server, max_turns=2)).stop_reason is reason


@pytest.mark.parametrize("words", [("too long", "context_length_exceeded"), ("maximum context length is 9", None)])
def test_a_full_context_ends_the_trajectory(server: Server, words: tuple[str, str | None]) -> None:
    server.replies = [says(completion(None, [call("result = image.rotate(180)")])), says(error(*words), 400)]
    trajectory = one(solve(server))
    assert trajectory.stop_reason is StopReason.CONTEXT_FULL
    assert len(trajectory.images) == 1, "what the model was not shown is not there"


def test_questions_are_asked_at_the_same_time(server: Server) -> None:
    def slow(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.1)
        says(completion("<answer>x</answer>"))(handler)

    server.replies = [slow]
    solved = solve(server, 8, at_once=4)
    assert [trajectory.sample.id for trajectory in solved] == [str(index) for index in range(8)]
    assert server.most_at_once == 4


def test_a_failed_question_is_left_out_and_the_rest_goes_on(server: Server) -> None:
    server.replies = [says(error("refused"), 400), says(completion("<answer>x</answer>"))]
    with pytest.warns(UserWarning, match="Left out question '0'.*refused"):
        solved = solve(server, 3, at_once=1)
    assert [trajectory is None for trajectory in solved] == [True, False, False]


def test_a_dead_server_ends_the_run_and_loses_nothing(server: Server) -> None:
    server.replies = [says(completion("<answer>x</answer>")), says(b"", 503)]
    solver = EndpointSolver(server.endpoint(attempts=1), give_up_after=3, at_once=1)
    with pytest.warns(UserWarning, match="questions were left out"):
        solved = solver.solve([sample(str(index)) for index in range(9)])
    assert [trajectory is not None for trajectory in solved] == [True] + [False] * 8
    assert len(server.requests) == 4, "it is given up after three failures"
    with pytest.raises(EndpointError, match="3 questions in a row failed"):
        solver.solve([sample()])
    solver.close()


def test_what_was_paid_for_before_a_cut_is_not_asked_again(server: Server, tmp_path: Path) -> None:
    """Three questions of two turns; the server dies in the second turn of the second question."""
    turn, answer = says(completion(None, [call("result = image")])), says(completion("<answer>x</answer>"))
    server.replies = [turn, answer, turn, says(b"", 503)]
    settings = {"cache": str(tmp_path), "attempts": 1}
    with pytest.warns(UserWarning, match="were left out"):
        solved = solve(server, 3, settings, at_once=1, give_up_after=1)
    assert [trajectory is not None for trajectory in solved] == [True, False, False]
    n_asked = len(server.requests)
    server.replies = [answer, turn, answer]
    assert [trajectory.n_calls for trajectory in solve(server, 3, settings, at_once=1)] == [1, 1, 1]
    assert len(server.requests) - n_asked == 3, "the second turn of the second question, and the third question"


def test_a_wrong_key_ends_the_run_at_once(server: Server) -> None:
    server.replies = [says(error("bad key"), 401)]
    with pytest.raises(EndpointError, match="Set OPENAI_API_KEY"):
        solve(server, 5, at_once=1)
    assert len(server.requests) == 1


def test_ctrl_c_waits_for_one_reply_only(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ThreadPoolExecutor):
        def map(self, *arguments: Any, **keywords: Any) -> Any:
            super().map(*arguments, **keywords)
            while not server.requests:
                time.sleep(0.005)
            raise KeyboardInterrupt

    def slow(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.1)
        says(completion(None, [call("result = image")]))(handler)

    server.replies = [slow]
    monkeypatch.setattr(endpoint_solver, "ThreadPoolExecutor", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        solve(server, 9, at_once=2, max_turns=9)
    time.sleep(0.3)
    assert len(server.requests) <= 2


def test_the_fingerprint_is_what_decides_the_answers(server: Server) -> None:
    def of(**changes: Any) -> str:
        endpoint = server.endpoint(**changes.pop("endpoint", {}))
        return EndpointSolver(endpoint, **changes).fingerprint()

    same = of()
    assert of(at_once=2, endpoint={"attempts": 9, "requests_per_minute": 5, "timeout_s": 1.0}) == same
    others = [
        of(tools="text"),
        of(system_prompt="?"),
        of(temperature=1.0),
        of(max_turns=2),
        of(images=ImageEncoding(max_pixels=99)),
        of(endpoint={"model": "n"}),
        of(endpoint={"extra": {"reasoning_effort": "low"}}),
    ]
    assert len({same, *others}) == 8


@pytest.mark.parametrize("wrong", [{"tools": "all"}, {"max_turns": 0}, {"temperature": -1}, {"at_once": 0}])
def test_a_wrong_setting_of_the_solver_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        EndpointSolver(Endpoint("http://127.0.0.1/v1"), **wrong)


def test_calls_of_a_turn_are_executed_in_order_each_under_its_id(server: Server) -> None:
    calls = [call(TURN, "a"), call("result = image.crop((0, 0, 8, 6))", "b", image_index=1), call("1 / 0", "c")]
    server.replies = [says(completion("I look.", calls, "tool_calls")), says(DONE)]
    trajectory = one(solve(server))
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert trajectory.n_calls == 3
    assert [viewed.image.size for viewed in trajectory.images] == [(40, 30), (30, 40), (8, 6)]
    assert [viewed.turn for viewed in trajectory.images] == [-1, 0, 1]
    assert trajectory.images[2].orientation == "rotate_270", "the second call works on the result of the first"
    assert [turn.text.startswith("I look.") for turn in trajectory.turns] == [True, False, False, False]
    first, second, third, shown = server.requests[1]["messages"][3:]
    assert [message["tool_call_id"] for message in (first, second, third)] == ["a", "b", "c"]
    assert (first["content"], second["content"]) == ("image 1: 30 x 40", "image 2: 8 x 6")
    assert third["content"].startswith("line 1: "), "a call that fails is answered with words"
    assert [part["text"] for part in shown["content"] if part["type"] == "text"] == [
        "image 1: 30 x 40\n",
        "image 2: 8 x 6\n",
    ]
    urls = [part["image_url"]["url"] for part in shown["content"] if part["type"] == "image_url"]
    assert [pixels(url).shape for url in urls] == [(40, 30, 3), (6, 8, 3)]


def test_max_turns_counts_replies(server: Server) -> None:
    server.replies = [says(completion(None, [call(TURN, "a"), call(TURN, "b")]))]
    trajectory = one(solve(server, max_turns=2))
    assert trajectory.stop_reason is StopReason.MAX_TURNS
    assert len(server.requests) == 2
    assert [turn.observation is not None for turn in trajectory.turns] == [True, True, False, False]


def test_a_context_that_is_full_takes_back_all_images_of_the_turn(server: Server) -> None:
    turn = completion(None, [call(TURN, "a"), call(TURN, "b")])
    server.replies = [says(turn), says(error("too long", "context_length_exceeded"), 400)]
    trajectory = one(solve(server))
    assert trajectory.stop_reason is StopReason.CONTEXT_FULL
    assert len(trajectory.images) == 1
