"""Muon and AdamW as one optimizer: exact save and restore, convolutions included; values of the schedule."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from cv_lightning.errors import ConfigError
from modules.optimizer import MuonAdamW, OptimizerConfig, lr_ratio, make_optimizer, orthogonalized
from tests.modules.helpers import FAMILIES, small_policy

MUON = OptimizerConfig(name="muon", lr=0.01, rest_lr=0.002, weight_decay=0.1, schedule="linear", warmup_steps=2)


class Small(nn.Module):
    """One parameter of every kind: a convolution that is a matrix, a matrix, tables, a vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.proj = nn.Conv3d(3, 6, (2, 4, 4), (2, 4, 4), bias=False)
        self.layer = nn.Linear(6, 5)
        self.embed_tokens = nn.Embedding(7, 6)
        self.lm_head = nn.Linear(5, 7, bias=False)

    def loss(self, step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)
        patches = torch.randn((4, 3, 2, 4, 4), generator=generator)
        hidden = self.proj(patches).flatten(1) + self.embed_tokens(torch.arange(4))
        result: torch.Tensor = self.lm_head(torch.tanh(self.layer(hidden))).square().mean()
        return result


def run(module: Small, optimizer: Any, scheduler: Any, steps: range) -> None:
    for step in steps:
        module.loss(step).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_restored_optimizer_continues_exactly(name: Any) -> None:
    config = replace(MUON, name=name)
    straight = Small()
    optimizer, scheduler = make_optimizer(straight, config, 10)
    run(straight, optimizer, scheduler, range(4))
    saved = copy.deepcopy((straight.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    run(straight, optimizer, scheduler, range(4, 8))

    resumed = Small()
    optimizer, scheduler = make_optimizer(resumed, config, 10)
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    scheduler.load_state_dict(saved[2])
    run(resumed, optimizer, scheduler, range(4, 8))
    assert torch.equal(weights(resumed), weights(straight))
    fresh, lost = Small(), make_optimizer(Small(), config, 10)
    fresh.load_state_dict(saved[0])
    optimizer, scheduler = make_optimizer(fresh, config, 10)
    scheduler.load_state_dict(saved[2])
    run(fresh, optimizer, scheduler, range(4, 8))
    assert not torch.equal(weights(fresh), weights(straight)), "the state is part of it"
    assert lost


def test_convolution_is_updated_as_the_matrix_that_it_is() -> None:
    module = Small()
    config = replace(MUON, warmup_steps=0, schedule="constant")
    optimizer, _ = make_optimizer(module, config, 10)
    matrix = nn.Parameter(module.proj.weight.detach().clone().flatten(1))
    oracle = torch.optim.Muon([matrix], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        module.loss(step).backward()
        matrix.grad = module.proj.weight.grad.flatten(1).clone()  # type: ignore[union-attr]
        oracle.step()
        optimizer.step()
        optimizer.zero_grad()
        assert all(parameter.grad is None for parameter in module.parameters())
    start = Small().proj.weight.flatten(1)
    moved, expected = module.proj.weight.flatten(1) - start, matrix - start
    # The oracle iterates in bfloat16.
    assert torch.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.95
    torch.testing.assert_close(moved.norm(), expected.norm(), rtol=0.05, atol=0)


@pytest.mark.parametrize("shape", [(4, 12), (12, 4), (6, 6)])
def test_orthogonalized_maps_each_singular_value_by_the_polynomial(shape: tuple[int, int]) -> None:
    a, b, c = coefficients = (3.4445, -4.775, 2.0315)
    update = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(update.double() / update.double().norm(), full_matrices=False)
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    expected = (left * values) @ right
    torch.testing.assert_close(orthogonalized(update, coefficients, 5, 1e-7), expected.float(), rtol=1e-4, atol=1e-4)
    assert ((values > 0.6) & (values < 1.3)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_and_vectors_are_not_matrices(family: str) -> None:
    policy = small_policy(family)
    optimizer, _ = make_optimizer(policy, MUON, 10)
    assert isinstance(optimizer, MuonAdamW)
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    rest = {names[id(parameter)] for parameter in optimizer.param_groups[1]["params"]}
    by_muon = set(names.values()) - rest
    assert len(optimizer.param_groups[0]["params"]) == len(by_muon)
    assert any("patch_embed.proj.weight" in name for name in by_muon)
    assert any("q_proj.weight" in name for name in by_muon)
    assert not any("norm" in name or name.endswith("bias") for name in by_muon)
    assert not any(table in name for name in by_muon for table in ("embed_tokens", "lm_head", "pos_embed"))


def test_each_part_has_its_own_rate_and_the_schedule_scales_both() -> None:
    module = Small()
    optimizer, scheduler = make_optimizer(module, MUON, 12)
    rates = []
    for _ in range(12):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert rates[:3] == [pytest.approx([0.005, 0.001]), pytest.approx([0.01, 0.002]), pytest.approx([0.01, 0.002])]
    assert rates[7] == pytest.approx([0.005, 0.001])
    assert isinstance(optimizer, MuonAdamW)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.25, 0.5, 0.75, 1.0, 1.0, 0.55, 0.1, 0.1]),
        ("cosine", [0.25, 0.5, 0.75, 1.0, 1.0, 0.55, 0.1, 0.1]),
    ],
)
def test_schedule(schedule: Any, expected: list[float]) -> None:
    config = OptimizerConfig(schedule=schedule, warmup_steps=4, final_lr_ratio=0.1)
    assert [lr_ratio(step, config, 20) for step in (0, 1, 2, 3, 4, 12, 20, 25)] == pytest.approx(expected)


def test_cosine_between_the_ends() -> None:
    config = OptimizerConfig(schedule="cosine")
    assert lr_ratio(5, config, 20) == pytest.approx((1 + 2**-0.5) / 2)
    assert lr_ratio(15, config, 20) == pytest.approx((1 - 2**-0.5) / 2)


@pytest.mark.parametrize(
    "values", [{"lr": 0.0}, {"lr": -1.0}, {"rest_lr": 0.0}, {"final_lr_ratio": 1.5}, {"final_lr_ratio": -0.1}], ids=str
)
def test_values_out_of_range_are_named(values: dict[str, float]) -> None:
    (name,) = values
    with pytest.raises(ConfigError, match=rf"optimizer\.{name}"):
        OptimizerConfig(**values)  # type: ignore[arg-type]


def test_nothing_to_train_is_an_error() -> None:
    policy = small_policy(frozen=["vision", "projector", "language"])
    with pytest.raises(ConfigError, match=r"policy\.frozen"):
        make_optimizer(policy, OptimizerConfig(), 1)
