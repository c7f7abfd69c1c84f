"""Tags that distinguish runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from callbacks.config_tags import config_tags
from cv_lightning.cli.compose import compose

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            "experiments/tiny/base.yaml",
            {"stage": "rl", "seed": "0", "model": "qwen2_5_vl from nothing", "data": "PlateWorld"},
        ),
        (
            "experiments/robustness.yaml",
            {"stage": "rl", "seed": "0", "model": "runs/tiny/rl/policy", "data": "PlateWorld"},
        ),
        (
            "experiments/codevision/rl.yaml",
            {"stage": "rl", "data": "FileSource data/codevision_rl/*.parquet data/mvtoolbench/*.parquet"},
        ),
    ],
)
def test_tags_of_our_configs(config: str, expected: dict[str, str]) -> None:
    assert config_tags(compose([ROOT / config]), Path("runs/tiny/rl")) == expected


def test_a_config_without_any_of_it_has_its_stage_alone() -> None:
    assert config_tags({"model": None, "data": {"class_path": "a.B"}}, Path("x/sft")) == {"stage": "sft"}
