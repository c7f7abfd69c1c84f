"""Networks on the meta device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cv_lightning.errors import CheckpointError, ConfigError
from modules.policy.outline import PUBLISHED, outline
from modules.policy.tiny import TinyConfig
from tests.modules.helpers import FAMILIES, LORA, SIZE, small_policy


def described(model: torch.nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype, bool]]:
    return {name: (tuple(p.shape), p.dtype, p.requires_grad) for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "changes",
    [{}, {"dtype": "bfloat16", "frozen": ["vision", "projector"]}, {"dtype": "bfloat16", "lora": LORA}],
    ids=str,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_policy(family: Any, changes: dict[str, Any]) -> None:
    made = outline(build=TinyConfig(family=family, **SIZE), system_prompt="Read.", **changes)
    policy = small_policy(family, **changes)
    policy.prepare_training()
    assert described(made.model) == described(policy.model)
    assert all(p.is_meta for p in made.model.parameters())


def test_a_folder_says_its_shapes_and_needs_no_weights(tmp_path: Path) -> None:
    policy = small_policy(dtype="bfloat16")
    policy.export(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    made = outline(source=str(tmp_path), dtype="bfloat16")
    assert sum(p.numel() for p in made.model.parameters()) == sum(p.numel() for p in policy.parameters())
    assert made.origin == f"config.json of {tmp_path}"


def test_adapters_have_the_shapes_of_their_base(tmp_path: Path) -> None:
    policy = small_policy(lora=LORA)
    policy.export(tmp_path)
    made = outline(source=str(tmp_path))
    assert sum(p.numel() for p in made.model.parameters()) == sum(p.numel() for p in small_policy().parameters())


@pytest.mark.parametrize(
    ("source", "n"),
    # The totals that the hub shows for the safetensors files.
    [("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656), ("Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696)],
)
def test_published_shapes(source: str, n: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    made = outline(source=source, dtype="bfloat16", frozen=["vision"])
    assert sum(p.numel() for p in made.model.parameters()) == n
    assert made.origin == f"{source}, known without a download"
    assert source in PUBLISHED


def test_what_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no config"):
        outline(source=str(tmp_path / "missing"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="got 'llama'"):
        outline(source=str(tmp_path))
    with pytest.raises(ConfigError, match="float16"):
        outline(build=TinyConfig(**SIZE), dtype="float16")
