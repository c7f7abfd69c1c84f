"""The weights of a policy, in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from modules.samplers.vllm.weights import parts
from tests.modules.helpers import LORA, small_policy


def tensors_of(policy: Any, dtype: torch.dtype = torch.float32, merge: bool = False, size: int = 1 << 30) -> Any:
    return {name: tensor for part in parts(policy, dtype, merge, size) for name, tensor in part}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_weights_are_those_of_an_exported_policy(family: str, dtype: str, tmp_path: Path) -> None:
    policy = small_policy(family, dtype=dtype)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1e-5)  # a master: few bfloat16 numbers have a neighbor this close
    policy.export(tmp_path)
    weights = tensors_of(policy, policy.dtype)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == weights.keys()
        assert all(torch.equal(file.get_tensor(name), weights[name]) for name in weights)


def test_parts_are_no_larger_than_asked() -> None:
    policy = small_policy()
    sizes = [[tensor.numel() * 2 for _, tensor in part] for part in parts(policy, torch.bfloat16, False, 10_000)]
    assert len(sizes) > 3
    assert all(sum(part) <= 10_000 or len(part) == 1 for part in sizes)
    assert sum(map(len, sizes)) == len(tensors_of(policy))


def test_adapters_are_left_out_or_added() -> None:
    policy = small_policy(lora={**LORA, "modules_to_save": ["lm_head"]})
    with torch.no_grad():
        policy.causal.lm_head.modules_to_save["default"].weight.add_(1.0)
    base, merged = tensors_of(policy), tensors_of(policy, merge=True)
    plain = tensors_of(small_policy())
    assert base.keys() == merged.keys() == plain.keys()
    assert all(torch.equal(base[name], plain[name]) for name in plain)
    reference = tensors_of(_Merged(policy.model.merge_and_unload()))
    differing = {name for name in plain if not torch.equal(merged[name], plain[name])}
    assert {name.rpartition(".layers.")[2] for name in differing} == {
        *(f"{layer}.self_attn.{name}_proj.weight" for layer in range(2) for name in "qv"),
        "lm_head.weight",
    }
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, reference[name])


class _Merged:
    """A merged model in place of a policy."""

    is_lora = False

    def __init__(self, model: Any) -> None:
        self.causal = self.model = model
