"""Sharded runs that compute in bfloat16: masters are float32 shards, and a small step moves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from modules import scoring
from modules.optimizer import OptimizerConfig
from tests.modules.helpers import LORA
from tests.modules.sharding.helpers import on_ranks
from tests.modules.sharding.runs import Case, run, run_all, start

CASES = [
    Case(kind, {"dtype": "bfloat16", **policy}, is_tied, OptimizerConfig(lr=1e-6), max_steps=1)
    for kind, policy, is_tied in [
        ("sft", {}, False),
        ("rl", {"family": "qwen3_vl"}, False),
        ("sft", {"family": "qwen3_vl", "lora": LORA}, False),
        ("rl", {"lora": LORA}, False),
        ("rl", {"family": "qwen3_vl", "gradient_checkpointing": True}, True),
        ("sft", {"frozen": ["vision", "projector"]}, False),
        ("rl", {"frozen": ["language"]}, False),
    ]
]


def moved(record: dict[str, Any]) -> float:
    """Share of the entries of trained matrices that changed."""
    trained = [name for name in record["steps"][0]["gradients"] if record["weights"][name].ndim >= 2]
    n_moved = sum(int((record["weights"][name] != record["start"][name]).sum()) for name in trained)
    return n_moved / sum(record["weights"][name].numel() for name in trained)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_small_step_moves_most_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "score", scoring.score)  # `run` replaces it
    runs = []
    for case in CASES:
        policy = start(case, tmp_path / case.name / "start")
        run(case, "alone", policy, tmp_path / case.name / "one")
        runs.append((case, policy, tmp_path / case.name / "two"))
    on_ranks(2, run_all, runs, "sharded", 2)
    for case in CASES:
        one, two = (torch.load(tmp_path / case.name / name / "record.pt") for name in ("one", "two"))
        (expected,), (found,) = one["steps"], two["steps"]
        losses, norms = (f"{expected[name]:.5f} {found[name]:.5f}" for name in ("loss", "norm"))
        print(f"{case.name}: moved {moved(one):.2f} {moved(two):.2f}, loss {losses}, norm {norms}")
        assert two["are_shards"] == {True}, case.name
        assert two["dtypes"][1] == two["optimizer_dtypes"] == {torch.float32}, case.name
        assert two["dtypes"][0] <= {torch.bfloat16}, case.name
        assert moved(two) > 0.5, case.name
        assert found["loss"] == pytest.approx(expected["loss"], rel=0.02, abs=0.01), case.name
        assert found["norm"] == pytest.approx(expected["norm"], rel=0.05), case.name
