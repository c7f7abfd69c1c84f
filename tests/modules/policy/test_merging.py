"""Adapters that are merged in parts give the same weights as PEFT's merging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cv_lightning.errors import CheckpointError, ConfigError
from modules.policy.policy import Policy
from modules.policy.tiny import TinyConfig
from tests.modules.helpers import FAMILIES, LORA, SIZE, small_policy

RANKS = {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 12}}


def exported(folder: Path, family: str = "qwen2_5_vl", **lora: Any) -> str:
    policy = small_policy(family, lora={**LORA, **lora})
    for name, parameter in policy.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 1  # as training changes it
    policy.export(folder)
    small_policy(family).export(folder / "base")  # PEFT leaves modules that were trained whole in the base
    return str(folder)


def loaded(source: str, **changes: Any) -> Policy:
    policy = small_policy(source=source, deferred=True, **changes)
    assert any(parameter.is_meta for parameter in policy.parameters())
    policy.load_deferred(torch.device("cpu"))
    return policy


@pytest.mark.parametrize(
    ("family", "lora"),
    [
        *((family, {}) for family in FAMILIES),
        ("qwen2_5_vl", RANKS),
        ("qwen2_5_vl", {"use_rslora": True}),
        ("qwen2_5_vl", {"modules_to_save": ["lm_head"]}),
    ],
    ids=str,
)
def test_parts_are_merged_as_the_whole_is(family: str, lora: dict[str, Any], tmp_path: Path) -> None:
    source = exported(tmp_path, family, **lora)
    whole, parts = small_policy(source=source), loaded(source)
    base = small_policy(source=str(tmp_path / "base"))
    assert all(parameter.requires_grad for policy in (whole, parts) for parameter in policy.parameters())
    changed = []
    for (name, expected), (_, start) in zip(whole.named_parameters(), base.named_parameters(), strict=True):
        torch.testing.assert_close(parts.get_parameter(name), expected, rtol=0, atol=1e-6)
        changed += [] if torch.equal(start, expected) else [name.split(".")[-2]]
    assert set(changed) == {"q_proj", "v_proj"} | {*lora.get("modules_to_save", ())}


def test_new_adapters_lie_on_merged_ones(tmp_path: Path) -> None:
    source = exported(tmp_path)
    whole, parts = small_policy(source=source, lora=LORA), loaded(source, lora=LORA)
    merged = {name: value for name, value in whole.named_parameters() if ".lora_" not in name}
    assert any("q_proj.base_layer" in name for name in merged)
    for name, expected in merged.items():
        torch.testing.assert_close(parts.get_parameter(name), expected, rtol=0, atol=1e-6)
    parts.export(tmp_path / "again")
    torch.testing.assert_close(
        small_policy(source=str(tmp_path / "again" / "base")).causal.lm_head.weight, whole.causal.lm_head.weight
    )


@pytest.mark.parametrize(
    ("lora", "named"),
    [({"use_dora": True}, "use_dora"), ({"bias": "lora_only"}, "bias"), ({"lora_bias": True}, "lora_bias")],
)
def test_adapters_that_are_more_than_a_product_are_refused_in_one_line(
    lora: dict[str, Any], named: str, tmp_path: Path
) -> None:
    target = {"target_modules": ["down_proj" if "bias" not in named else "q_proj"], "init_lora_weights": True}
    source = exported(tmp_path, **{**target, **lora})
    with pytest.raises(ConfigError, match=rf"because of {named}\. Set policy\.deferred: false") as refused:
        small_policy(source=source, deferred=True)
    assert "\n" not in str(refused.value)


def test_new_adapters_that_start_from_the_weights_are_refused(tmp_path: Path) -> None:
    small_policy().export(tmp_path)
    with pytest.raises(ConfigError, match=r"policy\.lora: .*Set policy\.deferred: false"):
        small_policy(source=str(tmp_path), deferred=True, lora={"r": 2, "use_dora": True, "target_modules": ["q_proj"]})


def test_adapters_of_another_model_are_refused_in_one_line(tmp_path: Path) -> None:
    source = exported(tmp_path / "own")
    small_policy(build=TinyConfig(**{**SIZE, "hidden_size": 64})).export(tmp_path / "own" / "base")
    with pytest.raises(CheckpointError, match=r"the adapters in .* do not fit their base"):
        loaded(source)
