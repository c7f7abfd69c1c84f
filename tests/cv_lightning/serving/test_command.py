"""The command: the policy that it serves, and its error for each mistake."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from cv_lightning.errors import ConfigError, CVLightningError
from cv_lightning.serving import command as serve_command
from cv_lightning.serving.command import main
from cv_lightning.serving.policy_backend import PolicyBackend
from cv_lightning.serving.server import ChatServer
from modules.evaluate import weights_digest
from modules.policy.policy import Policy
from tests.modules.samplers.vllm.helpers import pids_of


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "nowhere"], "config.json"),
        (["--policy", "x", "--host", "0.0.0.0"], "CV_LIGHTNING_API_KEY"),
        (["--policy", "x", "--max-batch", "0"], "--max-batch: expected at least 1"),
        (["--policy", "x", "--max-turns", "0"], "--max-turns: expected at least 1"),
        ([], "--policy is missing"),
        (["--mcp", "http", "--host", "0.0.0.0"], "CV_LIGHTNING_API_KEY"),
        (["--mcp", "--images", "nowhere"], "--images nowhere: there is no such folder"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CV_LIGHTNING_API_KEY", raising=False)
    with pytest.raises(CVLightningError, match=message):
        main(arguments)


def test_the_command_serves_a_folder(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy.export(tmp_path / "policy")
    found: dict[str, Any] = {}

    def keep(self: PolicyBackend, policy: Policy, name: str, *arguments: Any, **keywords: Any) -> None:
        found.update(policy=policy, name=name)
        start(self, policy, name, *arguments, **keywords)

    def serve_once(server: ChatServer) -> None:
        found["host"] = server.host
        raise KeyboardInterrupt

    start = PolicyBackend.__init__
    monkeypatch.setattr(PolicyBackend, "__init__", keep)
    monkeypatch.setattr(ChatServer, "serve", serve_once)
    assert main(["--policy", str(tmp_path / "policy"), "--port", "0", "--system-prompt", "Read."]) == 0
    served = found["policy"]
    assert served.image_processor.size == policy.image_processor.size, "the pixel budget of the folder"
    assert served.conversation.system_prompt == "Read."
    assert found["name"] == f"policy-{weights_digest(policy)[:8]}"
    assert found["host"] == "127.0.0.1"
    assert "http://127.0.0.1:" in capsys.readouterr().out


def test_a_port_that_is_taken_is_named(policy: Policy, tmp_path: Path) -> None:
    policy.export(tmp_path / "policy")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(ConfigError, match=f"--port {port}: cannot listen"):
            main(["--policy", str(tmp_path / "policy"), "--port", port])


def test_serve_starts_an_engine_and_ends_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []

    def serve_once(server: ChatServer) -> None:
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        with OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as client:
            said.append(
                client.chat.completions.create(
                    model="it", messages=[{"role": "user", "content": "Read the text."}], max_tokens=12
                )
            )
        assert pids_of(here)
        server.stop()
        thread.join(60)

    monkeypatch.setattr(ChatServer, "serve_until_interrupted", serve_once)
    arguments = [
        "--policy",
        "policy",
        "--name",
        "it",
        "--engine",
        f"{here}/vllm",
        "--port",
        "0",
        "--max-context-tokens",
        "600",
    ]
    assert serve_command.main(arguments) == 0
    assert said[0].choices[0].message.content
    assert not pids_of(here)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (["nowhere"], "launch.environment: expected a virtual environment, got 'nowhere'"),
        (["vllm", "http://127.0.0.1:1"], "--engine: expected one folder, or addresses"),
    ],
)
def test_an_engine_that_is_not_there_is_named(here: Path, where: list[str], message: str) -> None:
    options = [word for each in where for word in ("--engine", each)]
    with pytest.raises(ConfigError, match=message):
        serve_command.main(["--policy", "policy", "--port", "0", *options])
