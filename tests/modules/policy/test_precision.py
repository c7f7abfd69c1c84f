"""A small step moves the optimizer's master weights, and the network computes with rounded copies of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cv_lightning.errors import ConfigError
from cv_lightning.rollout import Sampling
from cv_lightning.types import Sample
from modules import scoring
from modules.base import PolicyModule
from modules.grpo import GRPOModule
from modules.optimizer import OptimizerConfig, make_optimizer
from modules.policy.policy import Policy
from modules.policy_gradient import PolicyGradientConfig
from modules.rollouts import RolloutConfig
from modules.sft import SFTModule
from tests.modules.helpers import (
    FAMILIES,
    LORA,
    assert_same_gradients,
    episodes,
    gradients,
    noise,
    sampled_conversations,
    small_policy,
    train,
)
from tests.modules.test_grpo import by_length

SMALL_STEP = OptimizerConfig(lr=1e-6)


def questions() -> list[Sample]:
    return [Sample(str(index), "Read.", (noise(84, 56, index),), "K7") for index in range(3)]


def module_of(kind: str, policy: Policy, **changes: Any) -> tuple[PolicyModule, list[Any]]:
    """A module and a batch to train it on."""
    arguments: dict[str, Any] = {"optimizer": SMALL_STEP, **changes}
    if kind == "sft":
        return SFTModule(policy, **arguments), list(episodes(4))
    arguments |= {"rollout": RolloutConfig(max_turns=2, max_new_tokens=6, lane="pillow"), "group_size": 4}
    return GRPOModule(policy, **arguments), questions()


def trained(policy: Policy) -> dict[str, Tensor]:
    return {name: p for name, p in policy.named_parameters() if p.requires_grad}


@pytest.fixture(autouse=True)
def scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "score", by_length)


# ---- a step moves the weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "precision"), [("float32", None), ("bfloat16", None), ("float32", "bf16-mixed")])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["sft", "rl"])
def test_a_small_step_moves_most_weights(kind: str, family: str, lora: Any, dtype: str, precision: Any) -> None:
    policy = small_policy(family, dtype=dtype, lora=lora)
    before = {name: parameter.detach().float().clone() for name, parameter in trained(policy).items()}
    module, batch = module_of(kind, policy)
    trainer = train(module, [batch], precision=precision)
    after = trained(policy)
    matrices = [name for name, parameter in after.items() if parameter.ndim >= 2]
    moved = sum(int((after[name] != before[name]).sum()) for name in matrices)
    assert moved > 0.5 * sum(after[name].numel() for name in matrices)
    (optimizer,) = trainer.optimizers
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == sum(
        p.numel() for p in after.values()
    )
    assert {p.dtype for p in after.values()} == {torch.float32}
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    assert moments
    assert {moment.dtype for moment in moments} == {torch.float32}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizer_of_half_precision_weights_is_refused_by_name(name: Any) -> None:
    policy = small_policy(dtype="bfloat16")
    for rates in ({"lr": 5e-5}, {"lr": 1e-3, "rest_lr": 5e-5}):
        argument = [*rates][-1]
        with pytest.raises(ConfigError, match=rf"optimizer\.{argument}.*bfloat16.*prepare_training"):
            make_optimizer(policy, OptimizerConfig(name=name, **rates), 1)
    make_optimizer(policy, OptimizerConfig(name=name, lr=1e-4), 1)
    policy.prepare_training()
    make_optimizer(policy, OptimizerConfig(name=name, lr=1e-6), 1)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_trainer_that_changes_the_masters_is_refused(precision: Any) -> None:
    module, batch = module_of("sft", small_policy())
    with pytest.raises(ConfigError, match=rf"trainer\.precision.*{precision}.*policy\.dtype: bfloat16"):
        train(module, [batch], precision=precision)


def test_float16_serves_and_does_not_train() -> None:
    policy = small_policy(dtype="float16")
    module, batch = module_of("sft", policy)
    with pytest.raises(ConfigError, match=r"policy\.dtype.*float16.*bfloat16"):
        train(module, [batch])
    frozen = small_policy(dtype="float16", frozen=["vision", "projector", "language"])
    frozen.prepare_training()
    assert {p.dtype for p in frozen.parameters()} == {torch.float16}


# ---- what is computed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_network_computes_with_what_it_exports(family: str, lora: Any, tmp_path: Path) -> None:
    """Masters give exactly the scores of a policy without masters, so the KL to a reference starts at zero."""
    plain = small_policy(family, dtype="bfloat16", lora=lora)
    batch = plain.collate(sampled_conversations(plain))
    policy = small_policy(family, dtype="bfloat16", lora=lora)
    policy.prepare_training()
    names = [name for name, _ in policy.named_parameters()]
    with torch.no_grad():
        assert torch.equal(policy.token_logprobs(batch)[0], plain.token_logprobs(batch)[0])
        for parameter in trained(policy).values():
            parameter += 1e-5  # most bfloat16 numbers have no neighbor this close
        expected = policy.token_logprobs(batch)[0]
    policy.export(tmp_path)
    assert [name for name, _ in policy.named_parameters()] == names
    assert {parameter.dtype for parameter in trained(policy).values()} == {torch.float32}
    from safetensors.torch import load_file

    (weights,) = tmp_path.glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.bfloat16}
    again = small_policy(family, source=str(tmp_path), dtype="bfloat16")
    with torch.no_grad():
        found = again.token_logprobs(batch)[0]
    if lora is None:
        assert torch.equal(found, expected)
    else:  # merged adapters are rounded with their base
        assert (found - expected).abs().mean() < 0.02


def test_generation_keeps_its_cache_in_the_dtype_of_the_network() -> None:
    policy = small_policy(dtype="bfloat16")
    policy.prepare_training()
    session = policy.open_session(Sampling(1.0, 4, seed=0))
    session.sample([policy.conversation.start(sample) for sample in questions()])
    assert {layer.keys.dtype for layer in session._cache.layers} == {torch.bfloat16}
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}


def test_frozen_parts_stay_in_the_dtype() -> None:
    policy = small_policy(dtype="bfloat16", frozen=["vision", "projector"])
    module, batch = module_of("sft", policy)
    train(module, [batch])
    dtypes = {("visual" in name, p.dtype) for name, p in policy.named_parameters()}
    assert dtypes == {(True, torch.bfloat16), (False, torch.float32)}


def test_policy_starts_at_its_reference() -> None:
    module, batch = module_of("rl", small_policy(dtype="bfloat16"), measure_kl_every=1)
    trainer = train(module, [batch])
    assert float(trainer.callback_metrics["rl/kl"]) == 0
    assert module.policy._reference is not None
    assert {p.dtype for p in module.policy._reference.module.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_activations_have_the_same_gradients(family: str) -> None:
    found = []
    for gradient_checkpointing in (False, True):
        policy = small_policy(family, dtype="bfloat16", gradient_checkpointing=gradient_checkpointing)
        policy.prepare_training()
        policy.train()
        batch = policy.collate([policy.conversation.encode(episode) for episode in episodes(2)])
        with policy.rounded():
            policy(batch)[0].sum().backward()
        found.append(gradients(policy))
        assert {gradient.dtype for gradient in found[-1].values()} == {torch.float32}
    assert_same_gradients(found[1], found[0])


def test_masters_come_back_after_an_error_and_ties_stay() -> None:
    policy = small_policy(dtype="bfloat16")
    policy.prepare_training()
    table = policy.core.language_model.embed_tokens
    policy.causal.lm_head.weight = table.weight
    masters = {name: id(parameter) for name, parameter in policy.named_parameters()}
    with policy.rounded():
        assert policy.causal.lm_head.weight is table.weight
        assert table.weight.dtype == torch.bfloat16
        with pytest.raises(ZeroDivisionError), policy.rounded():
            raise ZeroDivisionError
        assert table.weight.dtype == torch.bfloat16, "a nested use swaps nothing back"
    assert {name: id(parameter) for name, parameter in policy.named_parameters()} == masters
    with pytest.raises(ZeroDivisionError), policy.rounded():
        raise ZeroDivisionError
    assert {name: id(parameter) for name, parameter in policy.named_parameters()} == masters


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def fit(path: Path, steps: int, resume: Path | None = None) -> PolicyModule:
    module, batch = module_of("sft", small_policy(dtype="bfloat16"))
    trainer = train(module, [batch] * 4, resume=resume, max_steps=steps, max_epochs=-1)
    trainer.save_checkpoint(path)
    return module


def test_checkpoint_holds_masters_and_resumes_exactly(tmp_path: Path) -> None:
    straight = fit(tmp_path / "straight.ckpt", 4)
    fit(tmp_path / "half.ckpt", 2)
    stored = torch.load(tmp_path / "half.ckpt", weights_only=False)
    trained_names = [f"policy.{name}" for name in trained(straight.policy)]
    assert {stored["state_dict"][name].dtype for name in trained_names} == {torch.float32}
    resumed = fit(tmp_path / "resumed.ckpt", 4, tmp_path / "half.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), straight.parameters(), strict=True))


def test_checkpoint_in_bfloat16_loads_into_masters(tmp_path: Path) -> None:
    """Checkpoints had this format before there were masters."""
    fit(tmp_path / "new.ckpt", 2)
    stored = torch.load(tmp_path / "new.ckpt", weights_only=False)
    stored["state_dict"] = {name: value.to(torch.bfloat16) for name, value in stored["state_dict"].items()}
    for state in stored["optimizer_states"][0]["state"].values():
        state |= {name: state[name].to(torch.bfloat16) for name in ("exp_avg", "exp_avg_sq")}
    torch.save(stored, tmp_path / "old.ckpt")
    module = fit(tmp_path / "resumed.ckpt", 3, tmp_path / "old.ckpt")
    moved = [a != stored["state_dict"][f"policy.{name}"].float() for name, a in trained(module.policy).items()]
    assert sum(int(entry.sum()) for entry in moved) > 0.5 * sum(entry.numel() for entry in moved)
    after = torch.load(tmp_path / "resumed.ckpt", weights_only=False)["optimizer_states"][0]["state"][0]
    assert after["exp_avg"].dtype == torch.float32


def test_gradient_of_a_small_step_reaches_every_master() -> None:
    """The settings of the paper: KL, several minibatches, recomputed activations."""
    policy = small_policy(dtype="bfloat16", gradient_checkpointing=True)
    before = {name: parameter.detach().float().clone() for name, parameter in trained(policy).items()}
    config = PolicyGradientConfig(kl_coefficient=0.001)
    module, batch = module_of("rl", policy, minibatches=2, micro_batch_tokens=1, policy_gradient=config)
    train(module, [batch])
    unmoved = [name for name, parameter in trained(policy).items() if torch.equal(parameter, before[name])]
    assert not unmoved
