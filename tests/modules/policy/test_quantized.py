"""Adapters on a four-bit decoder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from cv_lightning.errors import ConfigError
from modules.policy.policy import Policy
from tests.modules.helpers import FAMILIES, LORA, sampled_conversations, small_policy


@pytest.fixture(scope="module", autouse=True)
def _bitsandbytes() -> None:
    pytest.importorskip("bitsandbytes", reason="the extra qlora")


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_are_trained_over_codes_and_exported_with_what_they_were_trained_on(
    family: str, tmp_path: Path
) -> None:
    policy = small_policy(family, lora=LORA, quantization="nf4")
    batch = policy.collate(sampled_conversations(policy))
    layers = policy.causal.model.language_model.layers
    assert {p.dtype for n, p in layers.named_parameters() if "mlp" in n and n.endswith("weight")} == {torch.uint8}
    policy.prepare_training()
    logprobs_BT, _ = policy.token_logprobs(batch)
    logprobs_BT.sum().backward()
    assert {n.split(".")[-3] for n, p in policy.named_parameters() if p.grad is not None} == {"lora_A", "lora_B"}
    policy.export(tmp_path)
    exported = Policy(str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(exported.token_logprobs(batch)[0], logprobs_BT.detach(), atol=1e-4, rtol=1e-4)
    whole = small_policy(family, lora=LORA)
    difference = (whole.token_logprobs(batch)[0] - logprobs_BT).abs().max()
    assert difference > 1e-3, "codes round"


def test_checkpoints_hold_no_codes() -> None:
    policy = small_policy(lora=LORA, quantization="nf4")
    state = policy.state_dict()
    assert not [name for name in state if "language_model" in name and "mlp" in name]
    policy.load_state_dict(state)


def test_the_reference_is_the_quantized_model() -> None:
    policy = small_policy(lora=LORA, quantization="nf4")
    batch = policy.collate(sampled_conversations(policy))
    reference_BT = policy.reference_logprobs(batch)
    assert (reference_BT - policy.token_logprobs(batch)[0]).abs().max() > 1e-4
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    torch.testing.assert_close(policy.token_logprobs(batch)[0].detach(), reference_BT)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"policy\.quantization: expected policy\.lora"):
        small_policy(quantization="nf4")
    with pytest.raises(ConfigError, match=r"policy\.quantization: expected deferred: false"):
        small_policy(lora=LORA, quantization="nf4", deferred=True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"pip install 'cv-lightning\[qlora\]'"):
        small_policy(lora=LORA, quantization="nf4")
