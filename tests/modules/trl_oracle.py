"""TRL's own arithmetic on our tensors; the tests that use it need `pip install .[oracle]`."""

from __future__ import annotations

import ast
import inspect
import textwrap
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor


def loss_of_trl(
    tensors: dict[str, Tensor],
    loss_type: str,
    *,
    ratio: str = "token",
    beta: float = 0.0,
    epsilon_high: float = 0.28,
    sampler_weights: Tensor | None = None,
    delta: float | None = None,
    sapo_temperatures: tuple[float, float] = (1.0, 1.05),
) -> tuple[Tensor, Tensor]:
    """TRL's loss and its gradient, from a stub of its trainer that supplies our log-probabilities."""
    logprobs = tensors["logprobs_BT"].clone().requires_grad_()
    positive, negative = sapo_temperatures
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logprobs, torch.zeros_like(logprobs), None),
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(
            delta=delta,
            use_bias_correction_kl=False,
            steps_per_generation=1,
            sapo_temperature_pos=positive,
            sapo_temperature_neg=negative,
        ),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda tensor: tensor, reduce=lambda tensor, reduction: tensor
        ),
        _metrics={"train": _Lists()},
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=ratio,
        beta=beta,
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=epsilon_high,
        use_vllm=sampler_weights is not None,
        vllm_importance_sampling_correction=True,
        max_completion_length=7,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
    )
    n_sequences, n_tokens = logprobs.shape
    inputs = {
        "prompt_ids": torch.zeros(n_sequences, 1, dtype=torch.long),
        "prompt_mask": torch.ones(n_sequences, 1, dtype=torch.long),
        "completion_ids": torch.zeros(n_sequences, n_tokens, dtype=torch.long),
        "completion_mask": torch.ones(n_sequences, n_tokens, dtype=torch.long),
        "tool_mask": tensors["is_trained_BT"].long(),
        "advantages": tensors["advantages_B"],
        "old_per_token_logps": tensors.get("old_logprobs_BT", tensors["sampler_logprobs_BT"]),
        "ref_per_token_logps": tensors["reference_logprobs_BT"],
        "num_items_in_batch": tensors["is_trained_BT"].sum(),
        "importance_sampling_ratio": sampler_weights,
    }
    loss: Tensor = _trainer_class()._compute_loss(trainer, None, inputs)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    return loss.detach(), logprobs.grad


def sampler_weights_of_trl(
    trainer: Tensor, sampler: Tensor, is_trained: Tensor, mode: str, low: float | None, high: float | None
) -> Tensor:
    """TRL's importance ratios for a vLLM sampler, from the source lines of its trainer: it has no function for them."""
    method = _trainer_class()._generate_and_score_completions
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    lines = next(
        node.body
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and ast.unparse(node.test) == "self.use_vllm and self.vllm_importance_sampling_correction"
        and "logps_diff" in ast.unparse(node.body)  # type: ignore[arg-type]
    )
    names: dict[str, Any] = {
        **inspect.unwrap(method).__globals__,
        "self": SimpleNamespace(
            vllm_importance_sampling_mode=mode,
            vllm_importance_sampling_clip_min=low,
            vllm_importance_sampling_clip_max=high,
        ),
        "old_per_token_logps": trainer,
        "sampling_per_token_logps": sampler,
        "completion_mask": is_trained.long(),
        "tool_mask": None,
    }
    exec(compile(ast.Module(lines, []), "trl", "exec"), names)
    ratios: Tensor = names["vllm_importance_sampling_ratio"]
    return ratios


def _trainer_class() -> Any:
    return pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer


class _Lists(dict[str, list[Any]]):
    def __missing__(self, key: str) -> list[Any]:
        self[key] = []
        return self[key]
