"""The trainer waits for servers that somebody else starts, but no longer than agreed."""

from __future__ import annotations

import threading
import time

import pytest

from cv_lightning.errors import EngineError
from modules.samplers.vllm.given import GivenServers
from modules.samplers.vllm.process import free_port
from tests.modules.samplers.vllm.fake import FakeServer


def test_those_that_were_away_are_named_when_they_are_back() -> None:
    port = free_port()
    came: list[FakeServer] = []
    with FakeServer() as here:
        given = GivenServers([here.url, f"http://127.0.0.1:{port}"], away_s=60.0)
        threading.Timer(0.5, lambda: came.append(FakeServer(port=port).__enter__())).start()
        new = given.bring_up()
        assert [server.url for server in new] == [f"http://127.0.0.1:{port}"]
        assert given.bring_up() == []
        given.end()
        came[0].__exit__()


def test_one_that_stays_away_ends_the_wait_with_its_address() -> None:
    given = GivenServers([f"http://127.0.0.1:{free_port()}"], away_s=0.0)
    started = time.monotonic()
    with pytest.raises(EngineError, match=r"expected a server at http://127\.0\.0\.1:\d+, got no answer for 0 s"):
        given.bring_up()
    assert time.monotonic() - started < 60
    assert given.last_words() == ""
