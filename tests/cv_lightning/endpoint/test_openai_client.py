"""Transient failures are retried after the wait that the server asks for; no message shows a key."""

from __future__ import annotations

import gzip
import json
import threading
import time

import pytest

from cv_lightning.endpoint.client import Endpoint
from cv_lightning.endpoint.meter import EndpointError, RequestError
from cv_lightning.endpoint.openai_client import retry_after
from tests.cv_lightning.endpoint.fake_server import (
    HELLO,
    SETTINGS,
    Reply,
    Server,
    completion,
    cuts,
    drips,
    error,
    hangs,
    says,
    vanishes,
)


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
        (307, None, "to the new address"),
    ],
)
def test_what_no_repeating_mends_is_asked_once(server: Server, status: int, code: str | None, remedy: str) -> None:
    server.replies = [says(error("no", code), status, Location="http://127.0.0.1:9/")]
    with pytest.raises(EndpointError, match=remedy):
        server.endpoint().chat(HELLO, SETTINGS)
    assert len(server.requests) == 1


def test_a_server_that_wants_a_key_which_no_variable_holds(server: Server) -> None:
    server.replies = [says(error("no key"), 401)]
    with pytest.raises(EndpointError, match="in the endpoint's api_key_variable"):
        server.endpoint(api_key_variable=None).chat(HELLO, SETTINGS)


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
