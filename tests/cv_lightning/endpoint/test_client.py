"""Clients with a wrong key, model or settings, and copies of a client."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest

from cv_lightning.endpoint.client import Endpoint
from cv_lightning.endpoint.meter import EndpointError
from cv_lightning.endpoint.solver import EndpointSolver
from cv_lightning.errors import ConfigError
from cv_lightning.grading.judge import Judge
from tests.cv_lightning.endpoint.fake_server import HELLO, SETTINGS, Server


def test_a_broken_key_is_not_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-sec\nret")
    with pytest.raises(ConfigError, match="MY_KEY contains characters") as caught:
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


def test_endpoints_need_no_torch_and_no_client_before_they_send() -> None:
    code = (
        "import sys, cv_lightning.endpoint.solver, cv_lightning.serving.server; "
        "sys.exit(bool({'torch', 'openai'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
