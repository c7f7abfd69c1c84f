"""A client and a server that fails in every way that servers fail in."""

from __future__ import annotations

import base64
import copy
import errno
import gzip
import json
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cv_lightning.conversation import format_answer, format_call
from cv_lightning.endpoint import solver as endpoint_solver
from cv_lightning.endpoint.client import Endpoint
from cv_lightning.endpoint.messages import Dialogue, ImageEncoding, default_prompt
from cv_lightning.endpoint.meter import EndpointError, RequestError
from cv_lightning.endpoint.openai_client import retry_after
from cv_lightning.endpoint.solver import EndpointSolver
from cv_lightning.errors import ConfigError
from cv_lightning.grading.judge import Judge
from cv_lightning.tools.code import CODE_TOOLS
from cv_lightning.types import Sample, StopReason, ToolCall
from tests.cv_lightning.endpoint.fake_server import (
    HELLO,
    SETTINGS,
    Reply,
    Server,
    call,
    completion,
    cuts,
    drips,
    error,
    hangs,
    noise,
    one,
    pixels,
    sample,
    says,
    solve,
    vanishes,
)

# --- one request ---


@pytest.mark.parametrize(
    "failure",
    [
        says(error("slow down"), 429),
        says(b"<html>bad gateway</html>", 502),
        says(b"", 500),
        says(b"not json"),
        says(b"[]"),
        says(b"{}"),
        says(b'{"choices": []}'),
        says(b'{"choices": [{"message": {"content": {"a": 1}}}]}'),
        says(b'{"choices": [{"message": {"tool_calls": [{}]}}]}'),
        says(b"[" * 100_000),
        cuts,
        vanishes,
        hangs,
        drips,
    ],
)
def test_what_fails_in_passing_is_asked_again(server: Server, failure: Reply) -> None:
    server.replies = [failure, failure, says(completion("there"))]
    endpoint = server.endpoint(timeout_s=0.3 if failure in (hangs, drips) else 5.0)
    assert endpoint.chat(HELLO, SETTINGS).text == "there"
    assert len(server.requests) == 3
    assert endpoint.usage.retries == 2


def test_attempts_end(server: Server) -> None:
    server.replies = [says(error("busy"), 503)]
    with pytest.raises(RequestError, match="HTTP 503: busy"):
        server.endpoint(attempts=3).chat(HELLO, SETTINGS)
    assert len(server.requests) == 3


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(RequestError, match="Connection refused"):
        Endpoint("http://127.0.0.1:9/v1", "m", attempts=1).chat(HELLO, SETTINGS)


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (401, None, "Set OPENAI_API_KEY"),
        (404, "model_not_found", "has the model 'm'"),
        (429, "insufficient_quota", "quota is used up"),
        (307, None, "give that address"),
    ],
)
def test_what_no_repeating_mends_is_asked_once(server: Server, status: int, code: str | None, remedy: str) -> None:
    server.replies = [says(error("no", code), status, Location="http://127.0.0.1:9/")]
    with pytest.raises(EndpointError, match=remedy):
        server.endpoint().chat(HELLO, SETTINGS)
    assert len(server.requests) == 1


def test_a_refused_question_is_not_repeated(server: Server) -> None:
    server.replies = [says(error("content policy", "content_filter"), 400)]
    with pytest.raises(RequestError, match="content policy"):
        server.endpoint().chat(HELLO, SETTINGS)
    assert len(server.requests) == 1


def test_retry_after_holds_all_threads_back(server: Server) -> None:
    server.replies = [says(error("slow down"), 429, Retry_After="0.4"), says(completion())]
    endpoint = server.endpoint(max_wait_s=5)
    threads = [threading.Thread(target=endpoint.chat, args=(HELLO, SETTINGS)) for _ in range(2)]
    threads[0].start()
    while not endpoint.usage.retries:
        time.sleep(0.005)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert min(server.times[1:]) - server.times[0] >= 0.4


def test_a_server_may_not_ask_for_more_than_max_wait(server: Server) -> None:
    server.replies = [says(error("later"), 429, Retry_After="3600"), says(completion())]
    started = time.monotonic()
    server.endpoint(max_wait_s=0.1).chat(HELLO, SETTINGS)
    assert 0.1 <= time.monotonic() - started < 2


def test_no_wait_is_longer_than_max_wait_whatever_failed(server: Server) -> None:
    server.replies = [vanishes, vanishes, vanishes, vanishes, says(completion())]
    started = time.monotonic()
    server.endpoint(max_wait_s=0.05).chat(HELLO, SETTINGS)
    assert time.monotonic() - started < 1.5, "the client's own waits would add up to 5 s"


def test_a_compressed_reply_is_read(server: Server) -> None:
    server.replies = [says(gzip.compress(completion("small")), Content_Encoding="gzip")]
    assert server.endpoint().chat(HELLO, SETTINGS).text == "small"


@pytest.mark.parametrize(("header", "seconds"), [("2", 2), ("-1", 0), ("soon", None), (None, None)])
def test_retry_after_as_a_number(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_retry_after_as_a_date() -> None:
    seconds = retry_after("Fri, 31 Dec 2999 23:59:59 GMT")
    assert seconds is not None
    assert seconds > 1e9


def test_the_rate_limit_spaces_requests(server: Server) -> None:
    endpoint = server.endpoint(requests_per_minute=600)
    threads = [threading.Thread(target=endpoint.chat, args=(HELLO, SETTINGS)) for _ in range(5)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(server.times) - started >= 0.4, "five requests, a tenth of a second apart, however late the first one is"
    assert len(server.times) == 5


# --- keys, models, extras, money ---


def test_the_key_goes_to_the_server_and_into_no_message(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", " sk-secret\n")
    server.replies = [says(completion()), says(error("Incorrect API key provided: sk-secret"), 401)]
    endpoint = server.endpoint(api_key_variable="MY_KEY")
    endpoint.chat(HELLO, SETTINGS)
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    with pytest.raises(EndpointError) as caught:
        endpoint.chat(HELLO, SETTINGS)
    assert "sk-secret" not in str(caught.value)
    assert "MY_KEY" in str(caught.value)
    assert "sk-secret" not in json.dumps(endpoint.identity()) + repr(endpoint)


def test_a_broken_key_is_not_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-sec\nret")
    with pytest.raises(ConfigError, match="MY_KEY holds characters") as caught:
        server.endpoint(api_key_variable="MY_KEY").chat(HELLO, SETTINGS)
    assert "sec" not in str(caught.value)
    assert not server.requests


def test_the_listed_model_is_taken(server: Server) -> None:
    endpoint = server.endpoint(model=None)
    endpoint.chat(HELLO, SETTINGS)
    assert server.requests[0]["model"] == "listed"


def test_a_model_that_nobody_names_is_an_error_in_one_line() -> None:
    with pytest.raises(EndpointError, match="Is the server running"):
        EndpointSolver(Endpoint("http://127.0.0.1:9/v1", attempts=1)).fingerprint()


@pytest.mark.parametrize("listed", [{"data": []}, {"data": [{}]}, {"data": [{"id": None}]}, {"data": 7}, {}])
def test_a_list_of_models_without_names_is_an_error_in_one_line(server: Server, listed: dict[str, Any]) -> None:
    server.listed = listed
    with pytest.raises(EndpointError, match="Give the endpoint's `model`"):
        server.endpoint(model=None).chat(HELLO, SETTINGS)


def test_extra_keys_come_and_null_keys_go(server: Server) -> None:
    endpoint = server.endpoint(extra={"reasoning_effort": "low", "temperature": None})
    endpoint.chat(HELLO, SETTINGS | {"tools": None})
    assert set(server.requests[0]) == {"model", "messages", "max_tokens", "reasoning_effort"}


def test_tokens_and_cost_are_counted_and_the_budget_ends_it(server: Server) -> None:
    endpoint = server.endpoint(input_price=2.0, output_price=30.0, max_cost=0.0009)
    endpoint.chat(HELLO, SETTINGS)
    endpoint.chat(HELLO, SETTINGS)
    counts = endpoint.counts()
    assert (counts["requests"], counts["input_tokens"], counts["output_tokens"]) == (2, 200, 20)
    assert counts["cost"] == pytest.approx(0.001)
    with pytest.raises(EndpointError, match="max_cost"):
        endpoint.chat(HELLO, SETTINGS)
    assert len(server.requests) == 2


def test_usage_that_is_rubbish_counts_nothing(server: Server) -> None:
    reply = json.loads(completion()) | {"usage": {"prompt_tokens": "many", "completion_tokens": -4}}
    server.replies = [says(json.dumps(reply).encode())]
    endpoint = server.endpoint()
    endpoint.chat(HELLO, SETTINGS)
    assert endpoint.counts()["input_tokens"] == endpoint.counts()["output_tokens"] == 0


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"url": "file:///etc"}, "url"),
        ({"attempts": 0}, "attempts"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"input_price": -1}, "prices"),
        ({"max_cost": 1}, "max_cost needs"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Endpoint(**({"url": "http://127.0.0.1/v1"} | wrong))


def test_an_endpoint_and_a_judge_can_be_copied_and_sent(server: Server) -> None:
    endpoint = server.endpoint(extra={"a": 1})
    endpoint.chat(HELLO, SETTINGS)
    for copied in (copy.deepcopy(endpoint), pickle.loads(pickle.dumps(endpoint))):
        assert copied == endpoint
        assert copied.chat(HELLO, SETTINGS).text == "hi"
        assert copied.usage.requests == 1
    judge = Judge(server.url, "m")
    assert pickle.loads(pickle.dumps(judge)) == judge


# --- the cache ---


def test_nothing_is_asked_twice(server: Server, tmp_path: Path) -> None:
    server.endpoint(cache=str(tmp_path)).chat(HELLO, SETTINGS)
    again = server.endpoint(cache=str(tmp_path), input_price=1.0)
    assert again.chat(HELLO, SETTINGS).text == "hi"
    assert (len(server.requests), again.usage.from_cache, again.usage.cost) == (1, 1, 0)
    again.chat(HELLO, SETTINGS | {"temperature": 1})
    server.endpoint(cache=str(tmp_path), model="other").chat(HELLO, SETTINGS)
    assert len(server.requests) == 3
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("content", [b"", b'{"choices": [{"mes', b"{}", b"[]", b"\xff\xfe"])
def test_a_broken_file_of_the_cache_is_asked_again(server: Server, tmp_path: Path, content: bytes) -> None:
    server.endpoint(cache=str(tmp_path)).chat(HELLO, SETTINGS)
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(content)
    assert server.endpoint(cache=str(tmp_path)).chat(HELLO, SETTINGS).text == "hi"
    assert len(server.requests) == 2
    assert json.loads(path.read_bytes())["choices"]


def test_a_full_disk_costs_the_cache_only(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **keywords: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    endpoint = server.endpoint(cache=str(tmp_path))
    with pytest.warns(UserWarning, match="No space left on device") as caught:
        texts = [endpoint.chat(HELLO, SETTINGS).text for _ in range(3)]
    assert texts == ["hi"] * 3
    assert len(caught) == 1


# --- images ---


def test_images_travel_without_loss() -> None:
    image = noise(40, 30)
    url = ImageEncoding().data_url(image)
    assert url.startswith("data:image/png;base64,")
    assert np.array_equal(pixels(url), np.asarray(image))


def test_large_images_are_reduced_in_pixels_and_in_bytes() -> None:
    assert pixels(ImageEncoding(max_pixels=1000).data_url(noise(200, 50))).shape == (15, 63, 3)
    url = ImageEncoding(max_kilobytes=8).data_url(noise(300, 300))
    assert url.startswith("data:image/jpeg;base64,")
    assert len(base64.b64decode(url.partition(",")[2])) <= 8 << 10


# --- trajectories ---

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


# --- many questions ---


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
    """Three questions of two turns; the server dies in the second turn of the second."""
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


def test_images_are_between_the_words_of_a_question() -> None:
    images = tuple(Image.new("RGB", (8, 6), color) for color in ("red", "green", "blue"))
    asked = Sample("s", "<image> is Monday, <image> is Friday", images, "x")
    content = Dialogue(asked, "native", "", ImageEncoding()).messages[0]["content"]
    assert [part["type"] for part in content] == ["image_url", "image_url", "text", "image_url", "text"]
    assert [part["text"] for part in content if part["type"] == "text"] == [" is Monday, ", " is Friday"]
    assert [part["image_url"]["url"] for part in content if part["type"] == "image_url"] == [
        ImageEncoding().data_url(image) for image in images
    ]


def test_markup_in_a_question_stays_plain() -> None:
    dialogue = Dialogue(sample(), "native", "", ImageEncoding())
    assert dialogue.messages[0]["content"][-1]["text"] == "What is < tool_call> here, in a?"


def test_endpoints_need_no_torch_and_no_client_before_they_send() -> None:
    code = (
        "import sys, cv_lightning.endpoint.solver, cv_lightning.serving.server; "
        "sys.exit(bool({'torch', 'openai'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
