"""Truncated importance ratios against tables worked out by hand, against TRL, and inside a loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from cv_lightning.errors import ConfigError
from modules.policy_gradient import PolicyGradientConfig, policy_gradient_loss
from modules.sampler_correction import SamplerCorrection, gap_metrics, sampler_weights
from tests.modules.loss_tensors import batch, table
from tests.modules.trl_oracle import sampler_weights_of_trl

#: Trainer over sampler for three tokens; the fourth token is not trained.
RATIOS = (3.0, 0.5, 1.5)


@pytest.mark.parametrize(
    ("level", "beyond", "low", "high", "weights", "is_beyond"),
    [
        ("token", "truncate", None, 2.0, [2, 0.5, 1.5], [1, 0, 0]),
        ("token", "truncate", 0.6, None, [3, 0.6, 1.5], [0, 1, 0]),
        ("token", "mask", None, 2.0, [0, 0.5, 1.5], [1, 0, 0]),
        ("token", "mask", 0.6, 2.0, [0, 0, 1.5], [1, 1, 0]),
        ("sequence", "truncate", None, 2.0, [2, 2, 2], [1, 1, 1]),  # 3 * 0.5 * 1.5 = 2.25
        ("sequence", "mask", None, 2.0, [0, 0, 0], [1, 1, 1]),
        ("sequence", "mask", None, 3.0, [2.25, 2.25, 2.25], [0, 0, 0]),
    ],
)
def test_weights_by_hand(
    level: Any, beyond: Any, low: float | None, high: float | None, weights: list[float], is_beyond: list[int]
) -> None:
    trainer = table([[-1.0, -2.0, -3.0, -1.0]])
    sampler = trainer - table([[*map(math.log, RATIOS), math.nan]])
    is_trained = torch.tensor([[True, True, True, False]])
    config = SamplerCorrection(level, beyond, high, low)
    found = sampler_weights(trainer.requires_grad_(), sampler, is_trained, config)
    assert_close(found[0], table([[*weights, 1.0]]))
    assert not found[0].requires_grad
    assert found[1].tolist() == [[*map(bool, is_beyond), False]]


def test_a_sampler_that_agrees_or_does_not_say_weighs_one() -> None:
    trainer = table([[-1.0, -2.0]])
    for sampler in (trainer, table([[math.nan, -2.0]])):
        weights, is_beyond = sampler_weights(trainer, sampler, torch.ones(1, 2).bool(), SamplerCorrection())
        assert weights.tolist() == [[1, 1]]
        assert not is_beyond.any()


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("beyond", ["truncate", "mask"])
@pytest.mark.parametrize(("low", "high"), [(None, 1.1), (0.9, 1.2), (0.95, None)])
def test_weights_equal_trl(level: Any, beyond: Any, low: float | None, high: float | None) -> None:
    tensors = batch(n_sequences=6, n_tokens=7, seed=5)
    trainer, sampler, is_trained = (tensors[n] for n in ("logprobs_BT", "sampler_logprobs_BT", "is_trained_BT"))
    expected = sampler_weights_of_trl(trainer, sampler, is_trained, f"{level}_{beyond}", low, high)
    weights, is_beyond = sampler_weights(trainer, sampler, is_trained, SamplerCorrection(level, beyond, high, low))
    assert_close(weights[is_trained], expected.expand_as(weights)[is_trained])
    assert is_beyond.any(), "the bounds decide something"


def expected_gradient(correction: SamplerCorrection | None) -> list[float]:
    """The exact gradient at the logits, as a mean over the three actions that a wrong sampler draws."""
    logits = table([[0.5, 0.3, 0.2]]).log()[0].requires_grad_()
    sampler = torch.tensor([0.25, 0.35, 0.4], dtype=torch.float64)
    loss = policy_gradient_loss(
        PolicyGradientConfig(kl_coefficient=0),
        logprobs_BT=logits.log_softmax(-1)[:, None],
        sampler_logprobs_BT=sampler.log()[:, None],
        advantages_B=torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64),
        is_trained_BT=torch.ones(3, 1, dtype=torch.bool),
        weight_B=sampler,  # weights each action by the sampler's probability
        divisor=torch.tensor(1.0),
        correction=correction,
    ).loss
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    found: list[float] = logits.grad.tolist()
    return found


def test_a_wrong_sampler_is_put_right() -> None:
    """The policy gradient at the logits is minus p_i (A_i - mean A), with p = 0.5, 0.3, 0.2 and mean A = 0.41."""
    right = [-0.5 * 0.59, 0.3 * 0.91, 0.2 * 0.11]
    assert expected_gradient(SamplerCorrection(max_ratio=2.5)) == pytest.approx(right)
    # Without the correction, the first action, half as likely in the sampler, is clipped and teaches nothing.
    own_part = -0.5 * (1 - 0.5)
    assert expected_gradient(None)[0] == pytest.approx(right[0] - own_part)
    # Truncated at 1.5 instead of 2, the first action contributes three quarters of its part.
    truncated, masked = (expected_gradient(SamplerCorrection("token", how, 1.5)) for how in ("truncate", "mask"))  # type: ignore[arg-type]
    assert truncated[0] == pytest.approx(right[0] - own_part * (1 - 0.75))
    assert masked[0] == pytest.approx(right[0] - own_part)


def test_old_logprobs_are_the_trainers() -> None:
    """After the first step, the clip uses the trainer's old log-probabilities, and the weights keep their values."""
    tensors = batch(n_sequences=1, n_tokens=1)
    found = policy_gradient_loss(
        PolicyGradientConfig(kl_coefficient=0),
        logprobs_BT=table([[math.log(0.5)]]),
        sampler_logprobs_BT=table([[math.log(0.2)]]),
        old_logprobs_BT=table([[math.log(0.3)]]),
        advantages_B=torch.tensor([2.0]).double(),
        is_trained_BT=tensors["is_trained_BT"],
        divisor=torch.tensor(1.0),
        correction=SamplerCorrection(),
    )
    assert found.loss.item() == pytest.approx(-2 * 1.28 * 1.5), "0.5 / 0.3 is clipped at 1.28; 0.3 / 0.2 weighs 1.5"
    means = {name: float(total / number) for name, (total, number) in found.totals.items()}
    assert means["sampler_weight"] == pytest.approx(1.5)
    assert (means["sampler_beyond"], means["clip_fraction"]) == (0, 1)
    assert means["sampler_logprob"] == pytest.approx(math.log(0.2))
    assert means["trainer_logprob"] == pytest.approx(math.log(0.3))


@pytest.mark.parametrize(
    "wrong",
    [{"level": "word"}, {"beyond": "clip"}, {"max_ratio": 1.0}, {"min_ratio": 1.0}, {"max_ratio": None}],
    ids=str,
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        SamplerCorrection(**wrong)


def test_gap_metrics_by_hand() -> None:
    gaps = torch.arange(2000.0)[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
    signs = torch.tensor([-1.0, 1.0]).repeat(1000)
    found = {name: float(value) for name, value in gap_metrics(gaps * signs).items()}
    del found["rl/logprob_gap_k3"]
    assert found == {"rl/logprob_gap": 1999, "rl/logprob_gap_mean": 999.5, "rl/logprob_gap_p999": 1997}
    log_ratios = torch.tensor([0.5, -0.25, 1e-6])
    expected = (math.exp(0.5) - 1.5 + math.exp(-0.25) - 0.75 + 0.5e-12) / 3
    assert float(gap_metrics(log_ratios)["rl/logprob_gap_k3"]) == pytest.approx(expected)
    assert float(gap_metrics(log_ratios[2:])["rl/logprob_gap_k3"]) == pytest.approx(0.5e-12, rel=1e-3)
    assert math.isnan(float(gap_metrics(torch.tensor([0.0, math.nan]))["rl/logprob_gap"])), "Health must see it"
    assert gap_metrics(torch.empty(0)) == {}
