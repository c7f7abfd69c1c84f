"""The handling of right and wrong connections, independent of their requests."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
import urllib.request
from typing import Any

import pytest

from cv_lightning.serving.request import BadRequest
from cv_lightning.serving.server import ChatServer
from cv_lightning.serving.web_server import ServerLimits
from tests.cv_lightning.serving.clients import Client, Fake, body


def test_a_connection_serves_several_requests(client: Client) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.server.port, timeout=10)
    for _ in range(3):
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body()).encode(), {"Content-Type": "application/json"}
        )
        assert json.loads(connection.getresponse().read())["choices"]
    connection.close()


def test_a_reply_is_not_held_back_for_an_acknowledgement(client: Client) -> None:
    """Head and body are two writes: without TCP_NODELAY the second waits 40 ms for the client's acknowledgement."""
    connection = http.client.HTTPConnection("127.0.0.1", client.server.port, timeout=10)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        seconds.append(time.perf_counter() - started)
    connection.close()
    assert min(seconds[1:]) < 0.03


def test_other_types_of_body_are_refused(client: Client) -> None:
    assert client.ask(body=body(), Content_Type="text/plain")[0] == 415


def test_a_body_that_is_too_large_is_told_so(client: Client) -> None:
    status, reply = client.ask(body=b"x" * (3 << 20))
    assert (status, reply["error"]["code"]) == (413, "request_too_large")


def test_a_body_without_a_length_is_refused(client: Client) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    assert b" 411 " in client.raw(head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert b" 400 " in client.raw(head + b"Content-Length: -5\r\n\r\n")


@pytest.mark.parametrize(
    "data", [b"", b"\x16\x03\x01\x02\x00", b"GET", b"GET / HTTP/9.9\r\n\r\n", b"x" * 70_000 + b"\r\n"]
)
def test_what_is_no_http_ends_with_the_connection(client: Client, data: bytes) -> None:
    client.raw(data)
    assert client.ask("GET", "/health")[0] == 200


def test_half_a_request_and_a_silent_client_are_let_go(client: Client) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    assert client.raw(head + b'{"model"') == b""
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=10) as connection:
        connection.sendall(head)
        started = time.monotonic()
        assert connection.recv(100) == b""
        assert time.monotonic() - started < 5
    assert client.ask("GET", "/health")[0] == 200


def test_too_many_connections_are_turned_away() -> None:
    client = Client(limits=ServerLimits(connections=2, read_s=5))
    held = [socket.create_connection(("127.0.0.1", client.server.port)) for _ in range(2)]
    time.sleep(0.1)
    with pytest.raises((http.client.HTTPException, OSError)):
        client.ask("GET", "/health")
    for connection in held:
        connection.close()
    time.sleep(0.1)
    assert client.ask("GET", "/health")[0] == 200
    client.close()


def test_ctrl_c_ends_what_is_under_way_and_gives_the_port_back(capsys: pytest.CaptureFixture[str]) -> None:
    backend = Fake()
    backend.pieces = ["a", *[None] * 10_000, "b"]

    def stop() -> None:
        backend.running[0]._pieces = [BadRequest("The server is shutting down.", code="unavailable", status=503)]

    server = ChatServer(backend, port=0, on_stop=stop)
    found: list[Any] = []

    def ask_and_interrupt() -> None:
        url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
        request = urllib.request.Request(
            url, json.dumps(body(stream=True)).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            found.append(response.readline())
            os.kill(os.getpid(), signal.SIGINT)
            found.append(response.read())

    client = threading.Thread(target=ask_and_interrupt)
    client.start()
    started = time.monotonic()
    server.serve_until_interrupted()
    client.join()
    assert time.monotonic() - started < 20
    assert b"unavailable" in found[1]
    assert capsys.readouterr().err == "stopped\n"
    with socket.create_server(("127.0.0.1", server.port)):
        pass
