"""Checks whether a running server can serve a policy's rollouts, once, before the first request."""

from __future__ import annotations

from typing import Any

from cv_lightning.errors import EngineError
from modules.samplers.vllm.client import GENERATE
from modules.samplers.vllm.launch import Needs
from modules.samplers.vllm.server import Server, ServerFault

#: The routes that an update needs.
_UPDATE_ROUTES = (
    *("/pause", "/resume", "/start_weight_update", "/update_weights", "/finish_weight_update", "/weight_info"),
    *("/init_weight_transfer_engine", "/reset_prefix_cache", "/reset_encoder_cache"),
)


def check(server: Server, model: str, needs: Needs) -> None:
    """Check a server.

    Args:
        server: The server.
        model: The name that requests ask for.
        needs: Requirements of the policy.

    Raises:
        EngineError: The server is not vLLM, has other options, or cannot be reached.
    """
    try:
        routes = server.get("/openapi.json")["paths"]
        models = server.get("/v1/models")["data"]
        settings = server.get("/server_info", config_format="json") if "/server_info" in routes else {}
    except (ServerFault, TypeError, KeyError) as error:
        raise EngineError(
            f"sampler.servers: expected vLLM at {server.url}, got {error}. Start it, or use `launch`."
        ) from error
    _expect(server, "--enable-scale-out", "the route for token ids", GENERATE in routes, "a server without " + GENERATE)
    missing = [route for route in _UPDATE_ROUTES if route not in routes]
    remedy = "VLLM_SERVER_DEV_MODE=1 in its environment (on a private network only)"
    _expect(server, remedy, "the routes for weights", not missing, f"a server without {', '.join(missing)}")
    if needs.lora_rank is not None:
        remedy = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment and "
        remedy += f"--enable-lora --max-lora-rank {needs.lora_rank}"
        _expect(server, remedy, "the route for adapters", "/v1/load_lora_adapter" in routes, "a server without it")
    if needs.sleeps:
        _expect(server, "--enable-sleep-mode", "the route /sleep", "/sleep" in routes, "a server without it")
    names = [each.get("id") for each in models]
    _expect(server, f"--served-model-name {model}", f"a model named {model!r}", model in names, str(names))
    (length,) = [each.get("max_model_len") or 0 for each in models if each.get("id") == model]
    _expect(
        server,
        f"--max-model-len {needs.max_model_len}",
        f"room for policy.max_context_tokens={needs.max_model_len}",
        length >= needs.max_model_len,
        f"max_model_len={length}",
    )
    _check_settings(server, needs, settings)


def _check_settings(server: Server, needs: Needs, settings: dict[str, Any]) -> None:
    """Check the settings that the development route shows; settings that it does not show are not checked."""
    config = settings.get("vllm_config")
    if not isinstance(config, dict):
        return
    model = config.get("model_config") or {}
    mode = model.get("logprobs_mode", "processed_logprobs")
    _expect(
        server,
        "--logprobs-mode processed_logprobs",
        "processed log-probabilities",
        mode == "processed_logprobs",
        str(mode),
    )
    dtype = str(model.get("dtype", needs.dtype)).removeprefix("torch.")
    _expect(server, f"--dtype {needs.dtype}", f"sampler.dtype={needs.dtype}", dtype == needs.dtype, dtype)
    backend = (config.get("weight_transfer_config") or {}).get("backend", needs.transfer)
    remedy = f"""--weight-transfer-config '{{"backend": "{needs.transfer}"}}'"""
    _expect(server, remedy, f"sampler.transfer={needs.transfer}", backend == needs.transfer, str(backend))


def _expect(server: Server, remedy: str, expected: str, is_met: bool, got: str) -> None:
    if not is_met:
        raise EngineError(f"{server.url}: expected {expected}, got {got}. Start the server with {remedy}.")
