"""Policy gradients against tables worked out by hand, against TRL, and against their invariants."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from cv_lightning.errors import ConfigError
from modules.policy_gradient import (
    PolicyGradientConfig,
    kl_to_reference,
    loss_divisor,
    policy_gradient_loss,
)
from modules.sampler_correction import SamplerCorrection, sampler_weights
from tests.modules.loss_tensors import batch, divisor_of, loss_and_gradient, part_of, table
from tests.modules.trl_oracle import loss_of_trl

NAN = float("nan")
AGGREGATIONS = ["token_mean", "sequence_mean", "constant"]


# --- divergence ---


def test_kl_by_hand_and_its_gradient() -> None:
    new = table([[math.log(0.5), math.log(0.2), math.log(0.9)]]).requires_grad_()
    reference = table([[math.log(0.25), math.log(0.4), math.log(0.1)]])
    kl = kl_to_reference(new, reference, torch.tensor([[True, True, False]]))
    # exp(d) - d - 1 with exp(d) = 0.5 and 2
    assert_close(kl, table([[0.5 + math.log(2) - 1, 2 - math.log(2) - 1, 0]]))
    kl.sum().backward()
    assert_close(new.grad, table([[1 - 0.5, 1 - 2, 0]]))  # the derivative is 1 - exp(d)


def test_kl_is_clamped_and_has_no_gradient_beyond() -> None:
    """exp(d) - d - 1 at d = 2.5, 2.7, 20, -10, -12, by hand."""
    new = torch.zeros(1, 5).double().requires_grad_()
    reference = table([[2.5, 2.7, 20, -10, -12]])
    kl = kl_to_reference(new, reference, torch.ones(1, 5, dtype=torch.bool))
    assert_close(kl, table([[math.exp(2.5) - 3.5, 10, 10, math.exp(-10) + 9, 10]]))
    kl.sum().backward()
    assert_close(new.grad, table([[1 - math.exp(2.5), 0, 0, 1 - math.exp(-10), 0]]))


def test_kl_estimate_is_unbiased_under_the_policy() -> None:
    policy, reference = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.3, 0.3, 0.4]).double()
    estimate = kl_to_reference(policy.log()[None], reference.log()[None], torch.ones(1, 3, dtype=torch.bool))
    assert_close((policy * estimate[0]).sum(), (policy * (policy / reference).log()).sum())


# --- the loss ---


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        # sequence 1: advantage 1, ratios 1 and e^0.1, tokens 2; sequence 2: advantage -1, ratio 1, token 1
        ("token_mean", (-1 - math.exp(0.1) + 1) / 3),
        ("sequence_mean", ((-1 - math.exp(0.1)) / 2 + 1) / 2),
        ("constant", (-1 - math.exp(0.1) + 1) / (2 * 5)),
    ],
)
def test_loss_by_hand(aggregation: Any, expected: float) -> None:
    config = PolicyGradientConfig(kl_coefficient=0, aggregation=aggregation, constant_tokens=5)
    is_trained = torch.tensor([[True, False, True], [False, True, False]])
    result = policy_gradient_loss(
        config,
        logprobs_BT=table([[-1, 7, -0.9], [7, -2, 7]]),
        sampler_logprobs_BT=table([[-1, -7, -1], [-7, -2, -7]]),
        advantages_B=torch.tensor([1.0, -1.0]).double(),
        is_trained_BT=is_trained,
        divisor=loss_divisor(is_trained.sum(-1), torch.ones(2), config),
    )
    assert_close(result.loss, torch.tensor(expected).double())
    assert result.gaps_M.tolist() == pytest.approx([0, 0.1, 0])
    assert result.totals["ratio"].tolist() == pytest.approx([1 + math.exp(0.1) + 1, 3])
    assert result.totals["clip_fraction"].tolist() == [0, 3]
    assert "kl" not in result.totals


def test_metrics_are_of_the_sequences_that_move_the_policy() -> None:
    tensors = batch()
    tensors["advantages_B"] = torch.tensor([1.0, 0.0, -1.0, 2.0]).double()
    tensors["weight_B"] = torch.tensor([3.0, 1.0, 1.0, 0.0]).double()
    entropies = tensors["logprobs_BT"].neg()
    n_B = tensors["is_trained_BT"].sum(-1)
    sum_B = torch.where(tensors["is_trained_BT"], entropies, 0.0).sum(-1)
    for coefficient, moves in ((0.0, [3.0, 0.0, 1.0, 0.0]), (0.1, [3.0, 1.0, 1.0, 0.0])):
        config = PolicyGradientConfig(kl_coefficient=coefficient)
        result = policy_gradient_loss(config, **tensors, entropy_BT=entropies, divisor=divisor_of(tensors, config))
        moving_B = torch.tensor(moves).double()
        assert_close(result.totals["entropy"], torch.stack([(sum_B * moving_B).sum(), (n_B * moving_B).sum()]))
        assert result.totals["kl"][1] == (n_B * tensors["weight_B"]).sum(), "over all, whatever moves"
        assert len(result.gaps_M) == n_B[moving_B > 0].sum()


def test_kl_and_entropy_enter_the_loss_with_their_coefficients() -> None:
    tensors = batch()
    tensors["advantages_B"] = torch.zeros(4).double()
    config = PolicyGradientConfig(kl_coefficient=0.5, entropy_coefficient=0.25)
    entropies = torch.full_like(tensors["logprobs_BT"], 2.0)
    result = policy_gradient_loss(config, **tensors, entropy_BT=entropies, divisor=divisor_of(tensors, config))
    means = {name: float(total / number) for name, (total, number) in result.totals.items()}
    assert means["entropy"] == pytest.approx(2.0)
    assert result.loss.item() == pytest.approx(0.5 * means["kl"] - 0.25 * 2.0)


def test_on_policy_gradient_is_the_policy_gradient() -> None:
    tensors = batch()
    tensors["logprobs_BT"] = tensors["sampler_logprobs_BT"]
    _, gradient = loss_and_gradient(PolicyGradientConfig(kl_coefficient=0), tensors)
    n_tokens = tensors["is_trained_BT"].sum()
    assert_close(gradient, -tensors["advantages_B"][:, None] * tensors["is_trained_BT"] / n_tokens)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@given(seed=st.integers(0, 2**16), counts=st.lists(st.integers(1, 5), min_size=4, max_size=4))
def test_a_weight_equals_computing_it_many_times(ratio: Any, aggregation: Any, seed: int, counts: list[int]) -> None:
    config = PolicyGradientConfig(ratio=ratio, aggregation=aggregation)
    once = batch(seed=seed)
    index = torch.arange(4).repeat_interleave(torch.tensor(counts))
    repeated = part_of(once, index)
    once["weight_B"] = torch.tensor(counts).double()
    loss_once, gradient_once = loss_and_gradient(config, once)
    loss_many, gradient_many = loss_and_gradient(config, repeated)
    assert_close(loss_once, loss_many)
    assert_close(gradient_once, torch.zeros_like(gradient_once).index_add(0, index, gradient_many))


@given(seed=st.integers(0, 2**16), counts=st.lists(st.integers(1, 5), min_size=4, max_size=4))
def test_a_weight_gives_the_metrics_of_computing_it_many_times(seed: int, counts: list[int]) -> None:
    config = PolicyGradientConfig()
    once = batch(seed=seed)
    repeated = part_of(once, torch.arange(4).repeat_interleave(torch.tensor(counts)))
    once["weight_B"] = torch.tensor(counts).double()
    totals_once = policy_gradient_loss(config, **once, divisor=torch.tensor(1.0)).totals
    totals_many = policy_gradient_loss(config, **repeated, divisor=torch.tensor(1.0)).totals
    for name, value in totals_once.items():
        assert value.tolist() == pytest.approx(totals_many[name].tolist()), name


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@given(seed=st.integers(0, 2**16), cut=st.integers(1, 3))
def test_minibatches_sum_to_the_whole(ratio: Any, aggregation: Any, seed: int, cut: int) -> None:
    config = PolicyGradientConfig(ratio=ratio, aggregation=aggregation)
    whole = batch(seed=seed)
    parts = [part_of(whole, slice(0, cut)), part_of(whole, slice(cut, None))]
    divisor = torch.stack([divisor_of(part, config) for part in parts]).sum()
    assert_close(divisor, divisor_of(whole, config))
    loss, gradient = loss_and_gradient(config, whole)
    losses, gradients = zip(*(loss_and_gradient(config, part, divisor) for part in parts), strict=True)
    assert_close(torch.stack(losses).sum(), loss)
    assert_close(torch.cat(gradients), gradient)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@given(
    seed=st.integers(0, 2**16),
    n_left=st.integers(0, 3),
    n_right=st.integers(0, 3),
    fill=st.sampled_from([0, -99, NAN, math.inf]),
)
def test_padding_never_changes_a_loss(
    ratio: Any, aggregation: Any, seed: int, n_left: int, n_right: int, fill: float
) -> None:
    config = PolicyGradientConfig(ratio=ratio, aggregation=aggregation)
    tensors = batch(seed=seed)

    def pad(name: str, tensor: Tensor) -> Tensor:
        if tensor.ndim == 1:
            return tensor
        value = False if name == "is_trained_BT" else fill
        return torch.nn.functional.pad(tensor, (n_left, n_right), value=value)

    padded = {name: pad(name, tensor) for name, tensor in tensors.items()}
    loss, gradient = loss_and_gradient(config, tensors)
    padded_loss, padded_gradient = loss_and_gradient(config, padded)
    assert_close(padded_loss, loss)
    assert_close(padded_gradient, torch.nn.functional.pad(gradient, (n_left, n_right)))


def test_advantage_zero_leaves_only_the_divergence() -> None:
    tensors = batch()
    tensors["advantages_B"] = torch.zeros(4).double()
    loss, gradient = loss_and_gradient(PolicyGradientConfig(kl_coefficient=0), tensors)
    assert loss == 0
    assert not gradient.any()


def test_nothing_trained_is_a_loss_of_zero() -> None:
    tensors = batch()
    tensors["is_trained_BT"] = torch.zeros(4, 6, dtype=torch.bool)
    loss, gradient = loss_and_gradient(PolicyGradientConfig(), tensors)
    assert loss == 0
    assert not gradient.any()


def test_a_stray_token_does_not_make_the_loss_infinite() -> None:
    tensors = batch()
    tensors["logprobs_BT"][0, 0] = -2000.0
    tensors["sampler_logprobs_BT"][1, 0] = -2000.0
    loss, gradient = loss_and_gradient(PolicyGradientConfig(dual_clip=None), tensors)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_a_missing_reference_or_entropy_is_named() -> None:
    tensors = batch()
    reference = tensors.pop("reference_logprobs_BT")
    with pytest.raises(ValueError, match=r"kl_coefficient=0\.001"):
        policy_gradient_loss(PolicyGradientConfig(), **tensors, divisor=torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"entropy_coefficient=0\.1"):
        policy_gradient_loss(
            PolicyGradientConfig(entropy_coefficient=0.1),
            **tensors,
            reference_logprobs_BT=reference,
            divisor=torch.tensor(1.0),
        )


def test_shapes_that_disagree_are_named() -> None:
    tensors = batch()
    tensors["sampler_logprobs_BT"] = tensors["sampler_logprobs_BT"][:, :-1]
    with pytest.raises(ValueError, match=r"\(4, 6\), got \(4, 5\)"):
        policy_gradient_loss(PolicyGradientConfig(), **tensors, divisor=torch.tensor(1.0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"advantage": "ppo"},
        {"ratio": "word"},
        {"surrogate": "ppo"},
        {"sapo_temperatures": (1.0, 0.0)},
        {"aggregation": "mean"},
        {"clip_low": 1.0},
        {"clip_low": -0.1},
        {"clip_high": -0.1},
        {"dual_clip": 1.2},
        {"kl_coefficient": -1.0},
        {"entropy_coefficient": -1.0},
        {"constant_tokens": 0},
        {"std_epsilon": 0.0},
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=name) as error:
        PolicyGradientConfig(**wrong)
    assert str(value) in str(error.value)


def test_gspo_by_hand() -> None:
    """The ratio of a sequence is the geometric mean of its tokens' ratios; the bounds are GSPO's."""
    config = PolicyGradientConfig(
        ratio="sequence", clip_low=3e-4, clip_high=4e-4, dual_clip=None, kl_coefficient=0, aggregation="sequence_mean"
    )
    is_trained = torch.tensor([[True, True], [True, False], [True, False]])
    result = policy_gradient_loss(
        config,
        logprobs_BT=table([[-0.9, -2.0998], [-1.9, 7], [-2.9, 7]]),
        sampler_logprobs_BT=table([[-1, -2], [-2, -7], [-3, -7]]),
        advantages_B=torch.tensor([1.0, -1.0, 1.0]).double(),
        is_trained_BT=is_trained,
        divisor=loss_divisor(is_trained.sum(-1), torch.ones(3), config),
    )
    # (0.1 - 0.0998) / 2 = 1e-4 is inside; e^0.1 counts in full if the advantage is negative, and is clipped otherwise.
    assert_close(result.loss, torch.tensor((-math.exp(1e-4) + math.exp(0.1) - 1.0004) / 3).double())
    assert result.totals["clip_fraction"].tolist() == [1, 4]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("surrogate", ["cispo", "sapo"])
@given(
    seed=st.integers(0, 2**16),
    counts=st.lists(st.integers(1, 5), min_size=4, max_size=4),
    fill=st.sampled_from([NAN, math.inf]),
)
def test_other_surrogates_ignore_padding_and_count_weights(
    surrogate: Any, aggregation: Any, seed: int, counts: list[int], fill: float
) -> None:
    config = PolicyGradientConfig(surrogate=surrogate, aggregation=aggregation)
    once = batch(seed=seed)
    index = torch.arange(4).repeat_interleave(torch.tensor(counts))
    repeated = part_of(once, index)
    once["weight_B"] = torch.tensor(counts).double()
    for name in ("logprobs_BT", "sampler_logprobs_BT", "reference_logprobs_BT"):
        once[name] = once[name].masked_fill(~once["is_trained_BT"], fill)
    loss_once, gradient_once = loss_and_gradient(config, once, correction=SamplerCorrection())
    loss_many, gradient_many = loss_and_gradient(config, repeated, correction=SamplerCorrection())
    assert_close(loss_once, loss_many)
    assert_close(gradient_once, torch.zeros_like(gradient_once).index_add(0, index, gradient_many))


# --- TRL on the same tensors ---

LOSS_TYPES = [("token_mean", "dapo"), ("sequence_mean", "grpo"), ("constant", "dr_grpo")]


@pytest.mark.parametrize(("aggregation", "loss_type"), LOSS_TYPES)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("kl_coefficient", [0.0, 0.04])
def test_loss_equals_trl(ratio: Any, aggregation: Any, loss_type: str, kl_coefficient: float) -> None:
    tensors = batch(n_sequences=5, n_tokens=7, seed=3)
    expected = loss_of_trl(tensors, loss_type, ratio=ratio, beta=kl_coefficient)
    config = PolicyGradientConfig(
        ratio=ratio, aggregation=aggregation, dual_clip=None, kl_coefficient=kl_coefficient, constant_tokens=7
    )
    assert_close(loss_and_gradient(config, tensors), expected)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_cispo_and_sapo_equal_trl(ratio: Any) -> None:
    tensors = batch(n_sequences=5, n_tokens=7, seed=3)
    cispo = PolicyGradientConfig(surrogate="cispo", ratio=ratio, clip_high=0.1, kl_coefficient=0)
    assert_close(loss_and_gradient(cispo, tensors), loss_of_trl(tensors, "cispo", ratio=ratio, epsilon_high=1.1))
    sapo = PolicyGradientConfig(
        surrogate="sapo", ratio=ratio, aggregation="sequence_mean", kl_coefficient=0, sapo_temperatures=(0.7, 1.3)
    )
    expected = loss_of_trl(tensors, "sapo", ratio=ratio, sapo_temperatures=(0.7, 1.3))
    assert_close(loss_and_gradient(sapo, tensors), expected)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_corrected_loss_equals_trl(level: Any) -> None:
    """TRL takes the weights as an input, and does not weight its KL either."""
    tensors = batch(n_sequences=5, n_tokens=7, seed=3)
    tensors["old_logprobs_BT"] = batch(n_sequences=5, n_tokens=7, seed=4)["sampler_logprobs_BT"]
    correction = SamplerCorrection(level, max_ratio=1.5)
    weights = sampler_weights(
        tensors["old_logprobs_BT"], tensors["sampler_logprobs_BT"], tensors["is_trained_BT"], correction
    )[0]
    assert weights.max() == 1.5
    config = PolicyGradientConfig(dual_clip=None, kl_coefficient=0.04)
    found = loss_and_gradient(config, tensors, correction=correction)
    assert_close(found, loss_of_trl(tensors, "dapo", beta=0.04, sampler_weights=weights))
