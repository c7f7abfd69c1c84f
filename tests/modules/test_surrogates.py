"""Losses per token against tables worked out by hand; TRL's are in `test_policy_gradient`."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from modules.surrogates import cispo_surrogate, clipped_surrogate, log_ratios, sapo_surrogate
from tests.modules.loss_tensors import table


def test_ratios_by_hand() -> None:
    new, old = table([[-1.0, -2.0, -3.0]]), table([[-1.2, -1.9, -9.0]])
    is_trained = torch.tensor([[True, True, False]])
    assert_close(log_ratios(new, old, is_trained), table([[0.2, -0.1, 0]]))
    assert_close(log_ratios(new, old, is_trained, "sequence"), table([[0.05, 0.05, 0]]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual_clip", "loss", "clipped", "bound"),
    [
        (1.0, 2.0, 10.0, -2.0, False, False),
        (1.2, 2.0, 10.0, -2.4, False, False),  # inside 1 + 0.28
        (1.5, 2.0, 10.0, -2.56, True, False),  # held at 1.28
        (0.5, 2.0, 10.0, -1.0, False, False),  # a good action that became rarer is never clipped
        (0.5, -2.0, 10.0, 1.6, True, False),  # held at 0.8
        (0.9, -2.0, 10.0, 1.8, False, False),
        (1.5, -2.0, 10.0, 3.0, False, False),  # a bad action that became likelier counts in full ...
        (15.0, -2.0, 10.0, 20.0, False, True),  # ... up to the dual clip
        (15.0, -2.0, None, 30.0, False, False),
        (15.0, 2.0, 10.0, -2.56, True, False),  # the dual clip is for negative advantages only
    ],
)
def test_clipped_surrogate_by_hand(
    ratio: float, advantage: float, dual_clip: float | None, loss: float, clipped: bool, bound: bool
) -> None:
    result = clipped_surrogate(table([[ratio]]), torch.tensor([advantage]).double(), 0.2, 0.28, dual_clip)
    assert_close(result[0], table([[loss]]))
    assert (result[1].item(), result[2].item()) == (clipped, bound)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.5, 2.0, 6.0, -3.0, False),  # weight 1.5, log-probability -2
        (6.0, 2.0, 20.0, -10.0, True),  # the weight is held at 5, and the token still learns
        (6.0, -2.0, -20.0, 10.0, True),
        (0.1, -2.0, -0.4, 0.2, False),  # no lower bound
    ],
)
def test_cispo_by_hand(ratio: float, advantage: float, loss: float, gradient: float, clipped: bool) -> None:
    logprobs = table([[-2.0]]).requires_grad_()
    found, is_clipped = cispo_surrogate(logprobs, table([[ratio]]), torch.tensor([advantage]).double(), 4.0)
    found.sum().backward()
    assert_close(found.detach(), table([[loss]]))
    assert_close(logprobs.grad, table([[gradient]]))
    assert is_clipped.item() == clipped


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -4.0, -2.0),  # sigmoid(0) = 1/2; the slope is that of the policy gradient
        (1 + math.log(3), 2.0, -6.0, -1.5),  # sigmoid(ln 3) = 3/4, slope 4 * 3/4 * 1/4 of it
        (1.0, -2.0, 2.0, 2.0),  # temperature 2: half the value, the same slope
        (1 + math.log(3) / 2, -2.0, 3.0, 1.5),
        (1 - math.log(3) / 2, -2.0, 1.0, 1.5),
    ],
)
def test_sapo_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    ratios = table([[ratio]]).requires_grad_()
    found = sapo_surrogate(ratios, torch.tensor([advantage]).double(), (1.0, 2.0))
    found.sum().backward()
    assert_close(found.detach(), table([[loss]]))
    assert_close(ratios.grad, table([[slope]]))
