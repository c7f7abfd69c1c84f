"""A model behind a real HTTP server as the teacher: its metadata, its kept rows, and its failures."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from cv_lightning.__main__ import main
from cv_lightning.conversation import format_answer, format_tool_call
from cv_lightning.data.oracle import BROKEN, SPELLINGS
from cv_lightning.types import CODE_TOOL

_TOOLS = {"turn the last image by 180 degrees": "rotate_180", "mirror the last image": "flip_horizontal"}
_TOOLS |= {"by 90 degrees counter-clockwise": "rotate_90", "by 90 degrees clockwise": "rotate_270"}
_TOOLS |= {"flip the last image": "flip_vertical"}


def obedient(told: dict[str, Any]) -> str:
    """The turn that a good teacher writes for this metadata."""
    if "answer" in told:
        return format_answer("Now the text can be read.", told["answer"])
    if "mistake" in told:
        code = BROKEN[0]
    elif "box" in told:
        code = f"result = image.crop({tuple(told['box'])})"
    else:
        code = SPELLINGS[next(tool for words, tool in _TOOLS.items() if words in told["do"])][0]
    arguments = {"code": code, "description": "", "image_index": told["image_index"]}
    return format_tool_call("It does not stand as it should.", CODE_TOOL, arguments)


class Server(ThreadingHTTPServer):
    """Answers as `obedient` does; a test can make its answers fail or spoil them."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []
        self.status, self.fails_from, self.spoils = 200, 10**9, False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._send(server.reply(body))

            def _send(self, answer: tuple[int, dict[str, Any]]) -> None:
                content = json.dumps(answer[1]).encode()
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def reply(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.requests.append(body)
        if len(self.requests) > self.fails_from:
            return self.status, {"error": {"message": "no more", "code": None}}
        text = "".join(part.get("text", "") for part in body["messages"][-1]["content"])
        (note,) = re.findall(r"<metadata>\n(.*)\n</metadata>", text)
        self.told.append(json.loads(note))
        said = obedient(self.told[-1])
        if self.spoils and len(self.requests) % 3 == 0:
            said = said.replace("It does not stand", "The metadata says it does not stand").replace(
                "Now", "As instructed"
            )
        message = {"role": "assistant", "content": said}
        usage = {"prompt_tokens": 50, "completion_tokens": 5}
        return 200, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def build(folder: Path, server: Server, **changes: Any) -> int:
    sources = [
        {"class_path": "cv_lightning.data.PlateWorld", "init_args": {}},
        {"class_path": "cv_lightning.data.FamilyWorld", "init_args": {}},
    ]
    endpoint = {"url": server.url, "model": "m", "attempts": 1, "cache": str(folder / "replies")}
    teacher = {
        "class_path": "cv_lightning.construction.ModelTeacher",
        "init_args": {"endpoint": endpoint},
    }
    values = {"out": str(folder / "out"), "n": 10, "workers": 4, "teacher": teacher, "planner": {"sources": sources}}
    (folder / "build.yaml").write_text(yaml.safe_dump(values | changes))
    return main(["data", "build", "--config", str(folder / "build.yaml")])


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/episodes.jsonl").read_text().splitlines()]


def test_a_model_writes_episodes_that_check(server: Server, tmp_path: Path) -> None:
    assert build(tmp_path, server) == 0
    built = rows(tmp_path)
    assert len(built) == 10
    assert {row["provenance"]["teacher"]["name"] for row in built} == {"model"}
    assert "error_handling" in {row["provenance"]["kind"] for row in built}
    assert all("<metadata>" not in turn["value"] for row in built for turn in row["conversations"])
    assert main(["data", "check", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out/yield.json").read_text())
    assert report["run"]["teacher"]["requests"] == len(server.requests)


def test_the_answer_is_told_in_the_last_turn_only(server: Server, tmp_path: Path) -> None:
    assert build(tmp_path, server) == 0
    answers = {row["conversations"][-1]["value"].split("<answer>")[1].split("<")[0] for row in rows(tmp_path)}
    for body, told in zip(server.requests, server.told, strict=True):
        number, count = map(int, told["turn"].split(" of "))
        assert ("answer" in told) == (number == count)
        if number < count:
            said = json.dumps([part for message in body["messages"][1:] for part in message["content"] if part != "i"])
            assert not any(f'"{answer}"' in said for answer in answers)
        roles = [message["role"] for message in body["messages"]]
        assert roles == ["system", *(["user", "assistant"] * number)[:-1]]


def test_what_does_not_check_is_tried_again_and_counted(server: Server, tmp_path: Path) -> None:
    server.spoils = True
    status = build(tmp_path, server, max_attempts=8)
    report = json.loads((tmp_path / "out/yield.json").read_text())
    assert report["rejected"]["mentions_metadata"] > 3
    assert report["kept"] + report["given_up"] == 10
    assert status == (0 if report["kept"] == 10 else 1)
    text = (tmp_path / "out/episodes.jsonl").read_text()
    assert "metadata says" not in text
    assert "As instructed" not in text


@pytest.mark.parametrize(("status", "words"), [(401, "OPENAI_API_KEY"), (500, "failed 3 times in a row")])
def test_a_server_that_fails_stops_the_build_and_loses_nothing(
    status: int, words: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.status, server.fails_from = status, 12
    assert build(tmp_path, server, give_up_after=3) == 1
    assert words in capsys.readouterr().err
    done = len(rows(tmp_path))
    assert 0 < done < 10
    n_paid, server.fails_from = len(server.told), 10**9
    assert build(tmp_path, server, give_up_after=3) == 0
    assert len(rows(tmp_path)) == 10
    uncut = tmp_path / "uncut"
    uncut.mkdir()
    n_before = len(server.told)
    assert build(uncut, server) == 0
    assert n_before == len(server.told) - n_before, "nothing is paid for twice"
    assert n_paid == 12
    assert [row["conversations"] for row in rows(uncut)] == [row["conversations"] for row in rows(tmp_path)]


def test_a_request_that_is_refused_costs_an_attempt(server: Server, tmp_path: Path) -> None:
    server.status, server.fails_from = 400, 9
    assert build(tmp_path, server, max_attempts=2) == 1
    report = json.loads((tmp_path / "out/yield.json").read_text())
    assert report["given_up"] > 0
    assert report["rejected"]["request_failed"] == 2 * report["given_up"]


def test_rows_that_a_server_failed_are_left_for_the_next_run(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.status, server.fails_from = 500, 0
    assert build(tmp_path, server, n=3) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "3 rows are missing because the teacher's server failed" in said
    assert "Run the same command again" in said
    server.fails_from = 10**9
    assert build(tmp_path, server, n=3) == 0
    assert len(rows(tmp_path)) == 3
