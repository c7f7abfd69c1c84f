"""Differences between Qwen's families, in small policies."""

from __future__ import annotations

import pytest

from modules.policy.families import FAMILIES as KINDS
from modules.policy.qwen import mrope_section
from modules.policy.tiny import TinyConfig
from tests.modules.helpers import SIZE, small_policy


@pytest.mark.parametrize(("family", "mean"), [("qwen2_5_vl", 0.48145466), ("qwen3_vl", 0.5), ("qwen3_5", 0.5)])
def test_a_new_model_normalizes_as_its_family(family: str, mean: float) -> None:
    config = small_policy(family).core.config
    assert KINDS[family].processor(config, None, 784, 7056).image_mean[0] == mean


@pytest.mark.parametrize(("rotated", "section"), [(128, [16, 24, 24]), (32, [4, 6, 6]), (8, [2, 1, 1])])
def test_frequencies_are_split_as_in_the_large_models(rotated: int, section: list[int]) -> None:
    """Qwen2.5-VL and Qwen3-VL rotate 128 features of a head, in sections of 16, 24 and 24."""
    assert mrope_section(rotated) == section


@pytest.mark.parametrize("n_layers", [2, 4, 8])
def test_every_fourth_layer_of_qwen3_5_has_attention(n_layers: int) -> None:
    policy = small_policy(build=TinyConfig(family="qwen3_5", **SIZE | {"layers": n_layers}))
    layers = {2: ["linear_attention", "full_attention"], 4: ["linear_attention"] * 3 + ["full_attention"]}
    expected = layers.get(n_layers, 2 * layers[4])
    assert policy.core.config.text_config.layer_types == expected
