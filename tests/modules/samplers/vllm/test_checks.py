"""A server with wrong settings is refused, with the options that it must have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cv_lightning.errors import EngineError
from modules.samplers.vllm.checks import check
from modules.samplers.vllm.launch import Needs
from modules.samplers.vllm.server import Server
from tests.modules.samplers.vllm.fake import FakeServer

NEEDS = Needs("float32", 600, 784, 40000, "files", None)

#: Differences of a server from its requirements, and parts of the messages about them.
DIFFERENCES: list[tuple[dict[str, Any], str]] = [
    ({"missing": ("/inference/v1/generate",)}, "--enable-scale-out"),
    ({"missing": ("/pause", "/weight_info")}, "VLLM_SERVER_DEV_MODE=1"),
    ({"missing": ("/openapi.json",)}, "expected vLLM at"),
    ({"model": "other"}, r"a model named 'policy', got \['other'\]. .*--served-model-name policy"),
    ({"max_model_len": 400}, "max_context_tokens=600, got max_model_len=400. .*--max-model-len 600"),
    ({"settings": {("model_config", "logprobs_mode"): "raw_logprobs"}}, "--logprobs-mode processed_logprobs"),
    ({"settings": {("model_config", "dtype"): "torch.bfloat16"}}, "sampler.dtype=float32, got bfloat16"),
    ({"settings": {("weight_transfer_config", "backend"): "gloo"}}, "sampler.transfer=files, got gloo"),
]


def is_taken(**difference: Any) -> bool:
    with FakeServer(**difference) as server:
        try:
            check(Server(server.url), "policy", NEEDS)
        except EngineError:
            return False
    return True


def test_the_right_server_is_taken() -> None:
    assert is_taken()
    assert not is_taken(model="other")


@pytest.mark.parametrize(("difference", "message"), DIFFERENCES, ids=[message[:24] for _, message in DIFFERENCES])
def test_another_server_is_refused_with_its_remedy(difference: dict[str, Any], message: str) -> None:
    with FakeServer(**difference) as server, pytest.raises(EngineError, match=message):
        check(Server(server.url), "policy", NEEDS)


def test_adapters_and_sleep_need_their_options() -> None:
    with FakeServer(missing=("/v1/load_lora_adapter", "/sleep")) as server:
        with pytest.raises(EngineError, match="--enable-lora --max-lora-rank 8"):
            check(Server(server.url), "policy", replace(NEEDS, lora_rank=8))
        with pytest.raises(EngineError, match="--enable-sleep-mode"):
            check(Server(server.url), "policy", replace(NEEDS, sleeps=True))


def test_nobody_there() -> None:
    with FakeServer() as server:
        pass
    with pytest.raises(EngineError, match="cannot be reached"):
        check(Server(server.url), "policy", NEEDS)
