"""Two ranks compute the same as one: losses, gradients and weights of three steps, and the export."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from modules import scoring
from modules.evaluate import weights_digest
from modules.optimizer import OptimizerConfig
from modules.policy.policy import Policy
from tests.modules.helpers import FAMILIES, LORA, small_policy
from tests.modules.policy.test_pretrained import raw_logits
from tests.modules.sharding.helpers import on_ranks
from tests.modules.sharding.runs import Case, differences, matrix, one_episode, run, run_all, start

#: Cases beyond the matrix: recomputed activations, frozen parts, tied weights, trained heads, merged adapters.
MORE = [
    Case("rl", {"family": "qwen3_vl", "gradient_checkpointing": True}),
    Case("rl", {"gradient_checkpointing": True, "lora": LORA}),
    Case("rl", {"frozen": ["vision", "projector"]}),
    Case("rl", {"family": "qwen3_vl", "frozen": ["language"]}),
    Case("rl", {"family": "qwen3_vl"}, is_tied=True),
    Case("sft", {"lora": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}}),
    Case("rl", is_merged=True),
]

#: Its gradients differ by 1e-7 in the first step; AdamW turns this into 5e-6 of a weight, the recurrence into 2e-5.
GRADIENTS_WITHIN = {"rl qwen3_5 full": 5e-5}


@pytest.fixture(autouse=True)
def scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "score", scoring.score)  # `run` replaces it


def of_two_ranks_and_one(cases: list[Case], strategy: str, folder: Path) -> dict[str, tuple[Path, Path]]:
    """Run each case in this process and on two ranks, and return the folders of both."""
    runs: list[tuple[Case, dict[str, Any], Path]] = []
    for case in cases:
        policy = start(case, folder / case.name / "start")
        run(case, "alone", policy, folder / case.name / "one")
        runs.append((case, policy, folder / case.name / "two"))
    on_ranks(2, run_all, runs, strategy, 2)
    return {case.name: (folder / case.name / "one", folder / case.name / "two") for case in cases}


def assert_exported(case: Case, folder: Path, source: Path) -> None:
    """The exported folder gives the same scores in transformers and peft as the policy did."""
    record = torch.load(folder / "record.pt")
    policy = small_policy(source=str(folder / "policy"))
    model: Any = AutoModelForImageTextToText.from_pretrained(source if policy_is_adapter(folder) else folder / "policy")
    if policy_is_adapter(folder):
        model = PeftModel.from_pretrained(model, folder / "policy")
    batch = one_episode(policy)
    logits_1TV = raw_logits(model.eval(), policy, batch).float().masked_fill(policy.is_banned_V, float("-inf"))
    logprobs_1T = logits_1TV.log_softmax(-1)[:, :-1].gather(-1, batch.input_ids_BT[:, 1:, None]).squeeze(-1)
    is_trained_1T = batch.is_trained_BT[:, 1:]
    scores = record["scores"][:, 1:][is_trained_1T]
    assert len(scores) > 20
    within = 1e-4 if "qwen3_5" in case.name else 1e-5  # a recurrence rounds more than attention does
    torch.testing.assert_close(
        logprobs_1T[is_trained_1T], scores, rtol=0, atol=within, msg=lambda m: f"{case.name}: {m}"
    )


def policy_is_adapter(folder: Path) -> bool:
    return (folder / "policy" / "adapter_config.json").exists()


def test_a_sharded_run_learns_and_exports_what_one_process_does(tmp_path: Path) -> None:
    """GRPO with a reference, a replica, unequal work, ranks without images, background checkpoints and an export."""
    case = Case("rl", {"family": "qwen3_vl"})
    ((one, two),) = of_two_ranks_and_one([case], "sharded", tmp_path).values()
    assert max(differences(one, two)) < 1e-5
    assert_exported(case, two, tmp_path)
    record, exported = torch.load(two / "record.pt"), Policy(source=str(two / "policy"))
    for name, value in record["weights"].items():
        assert torch.equal(exported.get_parameter(name), value), name
    assert weights_digest(exported) == record["digest"]
    assert record["are_shards"] == {True}
    assert (two / "last.ckpt").resolve().name == "last.ckpt.step-3"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strategy", ["sharded", "reduced", "ddp"])
def test_two_ranks_are_one(strategy: str, tmp_path: Path) -> None:
    cases = matrix(*FAMILIES) + (MORE if strategy == "sharded" else [])
    folders = of_two_ranks_and_one(cases, strategy, tmp_path)
    found = {name: differences(*pair) for name, pair in folders.items()}
    for name, values in found.items():
        print(f"{strategy} {name}:", *(f"{value:.1e}" for value in values))
    limits = {name: (1e-5, GRADIENTS_WITHIN.get(name, 1e-5), 1e-5) for name in found}
    assert {name: values for name, values in found.items() if not all(map(operator.lt, values, limits[name]))} == {}
    for case in cases:
        assert_exported(case, folders[case.name][1], tmp_path / case.name / "start")


@pytest.mark.slow
def test_muon_steps_whole_matrices(tmp_path: Path) -> None:
    """Newton-Schulz steps are in bfloat16, where the last bit of a gradient changes 1e-2 of a step of lr 1e-4."""
    case = Case("sft", optimizer=OptimizerConfig(name="muon", lr=1e-4))
    ((one, two),) = of_two_ranks_and_one([case], "sharded", tmp_path).values()
    assert max(differences(one, two)) < 1e-4
