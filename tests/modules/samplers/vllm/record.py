"""Writes `recorded.json`, the replies of the fake server, from a real server.

    python -m tests.modules.samplers.vllm.record ENVIRONMENT

Three replies are written by hand: the 503 of a paused vLLM 0.33, and those of sleep and wake_up, which need CUDA.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx2

from cv_lightning.rollout import Sampling
from modules.policy.policy import Policy
from modules.samplers.vllm.sampler import VLLM
from modules.samplers.vllm.wire import collapsed, sampling_parameters
from tests.modules.samplers.vllm.helpers import contexts_of
from tests.modules.samplers.vllm.real import LORA, a_policy, launch_of

RECORDING = Path(__file__).with_name("recorded.json")
#: The recorded parts of the real server's configuration.
SETTINGS = {"model_config": ("dtype", "logprobs_mode", "max_model_len"), "weight_transfer_config": ("backend",)}
ROUTES = (
    *(
        "/inference/v1/generate",
        "/v1/models",
        "/server_info",
        "/weight_info",
        "/pause",
        "/resume",
        "/sleep",
        "/wake_up",
    ),
    *("/init_weight_transfer_engine", "/start_weight_update", "/update_weights", "/finish_weight_update"),
    *("/reset_prefix_cache", "/reset_encoder_cache", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    *("/get_world_size", "/health"),
)
ASLEEP = {"POST /sleep": {"status": "sleeping", "level": 2}, "POST /wake_up": {"status": "awake", "tags": ["weights"]}}
UNAVAILABLE = {"error": {"message": "Engine is paused.", "type": "ServiceUnavailableError", "param": None, "code": 503}}


def asked(policy: Policy, sampler: VLLM, url: str) -> dict[str, Any]:
    """Send the real server every request that the fake can answer, and return the replies."""
    said: dict[str, Any] = {"503": UNAVAILABLE, **ASLEEP}

    def ask(method: str, path: str, body: Any = None, key: str = "", **query: str) -> Any:
        response = httpx2.request(method, url + path, json=body, params=query, timeout=120)
        is_json = "json" in response.headers.get("content-type", "")
        content = response.json() if is_json else response.text or None
        if "event-stream" in response.headers.get("content-type", ""):
            data = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
            content = [json.loads(each) for each in data if each != "[DONE]"]
        said[key or f"{method} {path}"] = content
        return content

    ask("GET", "/v1/models")
    paths = ask("GET", "/openapi.json")["paths"]
    said["GET /openapi.json"] = {"paths": {path: {} for path in ROUTES if path in paths}}
    config = ask("GET", "/server_info", config_format="json")["vllm_config"]
    said["GET /server_info"] = {
        "vllm_config": {part: {key: config[part].get(key) for key in keys} for part, keys in SETTINGS.items()}
    }
    ask("GET", "/weight_info")
    ask("GET", "/get_world_size")
    for path in ("/pause", "/start_weight_update"):
        ask("POST", path, **({"mode": "wait", "clear_cache": "false"} if path == "/pause" else {}))
    ask("POST", "/update_weights", {"update_info": {"paths": []}})
    # An update without tensors leaves the weights as they are.
    ask("POST", "/finish_weight_update", {"weight_version": sampler._engine.weights.label})  # type: ignore[union-attr]
    ask("POST", "/init_weight_transfer_engine", {"init_info": {}})
    ask("POST", "/reset_prefix_cache", reset_running_requests="true")
    ask("POST", "/reset_encoder_cache")
    ask("POST", "/resume")
    name = sampler._engine.weights.current().model  # type: ignore[union-attr]
    ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})
    ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(sampler._adapters._folder / name)})
    context = contexts_of(policy)[0]
    parameters = sampling_parameters(1.0, 5, 3, policy.conversation.end_of_turn_id, {})
    body = {
        "model": "policy",
        "token_ids": collapsed(context.ids, policy.core.config.image_token_id, 1),
        "sampling_params": parameters,
        "return_token_ids": True,
        "content_parts": [{"type": "image_url", "uuid": "nobody knows it"}],
    }
    ask("POST", "/inference/v1/generate", body, "400 forgotten")
    ask("POST", "/inference/v1/generate", body | {"model": "NAME", "content_parts": []}, "404 model")
    long = {"token_ids": [7] * 2000, "content_parts": []}
    ask("POST", "/inference/v1/generate", body | long, "400 too long")
    plain = {"token_ids": context.ids[:5] + context.ids[-5:], "content_parts": []}
    ask("POST", "/inference/v1/generate", body | plain)
    ask("POST", "/inference/v1/generate", body | plain | {"stream": True}, "POST /inference/v1/generate, streamed")
    (core,) = _engine_cores(sampler)
    os.kill(core, signal.SIGKILL)
    ask("POST", "/inference/v1/generate", body | plain, "500")
    return said


def _engine_cores(sampler: VLLM) -> list[int]:
    """Processes that hold the model."""
    return [pid for pid in descendants(os.getpid()) if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def descendants(pid: int) -> list[int]:
    """All descendants of a process."""
    said = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    children = [int(child) for child in said.split()]
    return [*children, *(below for child in children for below in descendants(child))]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        policy = a_policy("qwen2_5_vl", lora=LORA)
        sampler = VLLM(launch=launch_of(sys.argv[1], Path(folder)))
        sampler.attach(policy)
        try:
            sampler.refresh()
            with sampler.speaking() as speaker:
                speaker.open_session(Sampling())
            said = asked(policy, sampler, sampler._urls[0])
        finally:
            sampler.close()
    RECORDING.write_text(json.dumps(said, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"wrote {RECORDING}")


if __name__ == "__main__":
    main()
