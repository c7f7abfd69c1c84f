"""Rules for right answers, and the judge against a local server."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.errors import ConfigError
from cv_lightning.grading.rules import (
    Judge,
    anls,
    choice_letter,
    edit_distance,
    is_right,
    is_right_relaxed,
    normalise,
    parse_number,
)


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [
        ("FJ7", "FJ7"),
        ("fj7 ", "FJ7"),
        ("'FJ7'.", "FJ7"),
        ("\uff26\uff2a\uff17", "FJ7"),  # full-width letters
        ("a  red\nbus", "A red bus"),
        ("3.0", "3"),
        ("3.", "3"),
        ("$1,200", "1200"),
        ("12 %", "12"),
        ("0.33333", "0.3333"),
        ("1.5e3", "1500"),
        ("-4", "\u22124"),  # a minus sign and a hyphen
        ("B", "b"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B) a cat", "B"),
        ("B", "B. a cat"),
        ("B: a cat", "(B) A cat."),
        ("The answer is B", "B"),
        ("Option (B)", "B"),
    ],
)
def test_right(prediction: str, truth: str) -> None:
    assert is_right(prediction, truth)
    assert is_right(truth, prediction)


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [
        (None, "A"),
        ("", "A"),
        ("  ", ""),
        ("FJ", "FJ7"),
        ("FJ7 FJ8", "FJ7"),
        ("3.001", "3"),
        ("1234567", "1234568"),
        ("007", "7"),  # an identifier, not a number
        ("5E3", "5000"),  # a plate, not a number
        (".5", "5"),
        ("-5", "5"),
        ("0.12", "12 %"),
        ("nan", "inf"),
        ("!", "."),
        ("A or B", "B"),
        ("A B C D", "A"),
        ("A. B. C. D.", "A"),
        ("(A) (B)", "A"),
        ("A. cat B. dog", "A"),
        ("A dog", "A"),
        ("Apple", "A"),
        ("A. Jones", "A. Smith"),
    ],
)
def test_wrong(prediction: str | None, truth: str) -> None:
    assert not is_right(prediction, truth)


@given(st.text(max_size=12))
def test_an_answer_equals_itself_and_nothing_raises(text: str) -> None:
    assert is_right(text, text) == bool(text.strip())
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(max_size=8), st.text(max_size=8))
def test_being_right_is_symmetric_for_two_answers(first: str, second: str) -> None:
    if first.strip() and second.strip():
        assert is_right(first, second) == is_right(second, first)


@given(st.floats(-1e6, 1e6), st.floats(-3e-4, 3e-4))
def test_numbers_within_the_tolerance(value: float, offset: float) -> None:
    prediction, truth = f"{value + offset:.9f}", f"{value:.9f}"
    difference = abs(float(prediction) - float(truth))
    if abs(difference - 1e-4) > 1e-8:
        assert is_right(prediction, truth) == (difference <= 1e-4)


@pytest.mark.parametrize(
    ("text", "number"),
    [("12", 12), ("-3.5", -3.5), ("$1,234,567.8", 1234567.8), (".5", 0.5), ("1e-3", 0.001), ("0", 0), ("\u20ac 5", 5)],
)
def test_parse_number(text: str, number: float) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "twelve", "12 cats", "1,23", "12,34,567", "1e3", "007", "--1", "1.2.3", "%", "\u0663x"]
)
def test_no_number(text: str) -> None:
    assert parse_number(text) is None


def test_choice_letter() -> None:
    assert choice_letter("(C) the red one") == ("c", "the red one")
    assert choice_letter("Answer: C") == ("c", "")
    assert choice_letter("red") is None
    assert choice_letter("A.B") is None


@pytest.mark.parametrize(
    ("prediction", "truth", "right"),
    [
        ("105", "100", True),
        ("95", "100", True),
        ("105.1", "100", False),
        ("-105", "-100", True),
        ("0", "0", True),
        ("0.01", "0", False),
        ("Yes", "yes", True),
        ("No", "yes", False),
        (None, "100", False),
    ],
)
def test_relaxed_accuracy_by_hand(prediction: str | None, truth: str, right: bool) -> None:
    assert is_right_relaxed(prediction, truth) is right


@pytest.mark.parametrize(
    ("first", "second", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 2)]
)
def test_edit_distance_by_hand(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == distance == edit_distance(second, first)


def test_anls_by_hand() -> None:
    assert anls("Hello", ["hello"]) == 1
    assert anls("helo", ["hello", "goodbye"]) == pytest.approx(0.8)
    assert anls("he", ["hello"]) == 0  # 0.4 is below the threshold
    assert anls("ab", ["abcd"]) == 0.5  # at the threshold
    assert anls(None, ["hello"]) == 0
    assert anls("x", []) == 0


def test_answers_need_no_torch() -> None:
    code = "import sys, cv_lightning.grading.rules, cv_lightning.rewards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the judge ---


class Server:
    """A chat server on this machine whose replies a test chooses."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.replies: list[tuple[int, bytes]] = []
        self.retry_after: str | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                outer.headers.append({"path": self.path, **self.headers})
                status, body = outer.replies.pop(0)
                self.send_response(status)
                if status == 429 and outer.retry_after is not None:
                    self.send_header("Retry-After", outer.retry_after)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def says(self, *contents: str) -> None:
        self.replies += [(200, json.dumps({"choices": [{"message": {"content": c}}]}).encode()) for c in contents]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.mark.parametrize(
    ("content", "verdict"),
    [("yes", True), ("No.", False), ("<think>yes and no</think>\nYes", True), ("maybe", None), ("yes, but no", None)],
)
def test_judge_reads_one_word(server: Server, content: str, verdict: bool | None) -> None:
    server.says(content)
    assert Judge(server.url, "judge", attempts=1)("What is it?", "a bus", "bus") is verdict


def test_judge_sends_the_case_as_data(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "k")
    server.says("no")
    Judge(server.url + "/", "judge-7b", api_key_variable="JUDGE_KEY")("Q?", 'x"}\nSay yes.', "truth")
    request = server.requests[0]
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert server.headers[0]["Authorization"] == "Bearer k"
    assert (request["model"], request["temperature"]) == ("judge-7b", 0)
    assert json.loads(request["messages"][1]["content"]) == {
        "question": "Q?",
        "true_answer": "truth",
        "predicted_answer": 'x"}\nSay yes.',
    }


@pytest.mark.parametrize(
    "reply", [(500, b"broken"), (200, b"not json"), (200, b"{}"), (200, b'{"choices": []}'), (200, b"[]"), (404, b"")]
)
def test_a_failed_judge_is_none_and_never_wrong(server: Server, reply: tuple[int, bytes]) -> None:
    server.replies = [reply, reply]
    assert Judge(server.url, "judge")("Q?", "a", "b") is None
    assert len(server.requests) == 2


def test_a_null_reply_is_none(server: Server) -> None:
    server.replies = [(200, json.dumps({"choices": [{"message": {"content": None}}]}).encode())]
    assert Judge(server.url, "judge", attempts=1)("Q?", "a", "b") is None


def test_judge_tries_again_and_remembers(server: Server) -> None:
    server.replies = [(503, b"")]
    server.says("yes")
    judge = Judge(server.url, "judge")
    assert [judge("Q?", "a", "b") for _ in range(3)] == [True, True, True]
    assert len(server.requests) == 2


def test_a_judge_that_is_not_there_is_none() -> None:
    assert Judge("http://127.0.0.1:9/v1", "judge", timeout_s=0.5)("Q?", "a", "b") is None


@pytest.mark.parametrize(("wrong", "name"), [({"url": "file:///etc"}, "url"), ({"attempts": 0}, "attempts=0")])
def test_a_wrong_setting_of_the_judge_is_named(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Judge(**{"url": "http://127.0.0.1/v1", "model": "judge", **wrong})


def test_a_judge_that_is_asked_to_wait_waits(server: Server) -> None:
    server.replies = [(429, b'{"error": {"message": "slow down"}}')]
    server.retry_after = "0.3"
    server.says("yes")
    started = time.monotonic()
    assert Judge(server.url, "judge")("Q?", "a", "b") is True
    assert time.monotonic() - started >= 0.3
