"""The policy samples itself, with its current weights, and only if every process holds all of them."""

from __future__ import annotations

import pytest

from cv_lightning.errors import ConfigError
from modules.samplers.itself import Itself
from tests.modules.helpers import small_policy


@pytest.mark.parametrize("was_training", [True, False])
def test_it_speaks_in_evaluation_mode_and_is_left_as_it_was(was_training: bool) -> None:
    policy, sampler = small_policy().train(was_training), Itself()
    sampler.attach(policy)
    sampler.refresh()
    with sampler.speaking() as speaker:
        assert speaker is policy
        assert not policy.training
    assert policy.training == was_training
    assert sampler.version is None


def test_a_sharded_policy_needs_a_copy() -> None:
    policy, sampler = small_policy(), Itself()
    policy.is_sharded = True
    sampler.attach(policy)
    with pytest.raises(ConfigError, match=r"expected a sampler that holds a copy.*modules\.samplers\.Replica"):
        sampler.refresh()
