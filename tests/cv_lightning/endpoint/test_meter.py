"""Requests are spaced; tokens and costs are counted."""

from __future__ import annotations

import json
import threading
import time

import pytest

from cv_lightning.endpoint.meter import EndpointError
from tests.cv_lightning.endpoint.fake_server import HELLO, SETTINGS, Server, completion, says


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
