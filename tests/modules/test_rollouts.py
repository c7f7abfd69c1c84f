"""The device of tools, the time that rollouts wait for them, and cleanup."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cv_lightning.errors import ConfigError
from cv_lightning.rollout import Sampling
from cv_lightning.types import Group, Reply, Sample, Trajectory, Turn
from modules.rollouts import Roller, RolloutConfig, waited_for_tools
from sandbox import ToolRequest
from tests.modules.helpers import noise, small_policy


def test_rollouts_run_tools_where_the_policy_is() -> None:
    request = ToolRequest("result = image.rotate(180)", [noise(9, 7)])
    host = torch.device("cpu")
    lanes = {
        config: config.open_executor(host).execute([request])[0].lane
        for config in (RolloutConfig(), RolloutConfig(lane="pillow"), RolloutConfig(lane="kornia", device="cpu"))
    }
    assert list(lanes.values()) == ["pillow", "pillow", "kornia"]
    with pytest.raises(ValueError, match=r"device: .* got 'cuda:99'"):
        RolloutConfig().open_executor(torch.device("cuda", 99))
    RolloutConfig(lane="pillow").open_executor(torch.device("cuda", 99))


def test_the_longest_trajectory_waited_for_every_batch() -> None:
    sample = Sample("a", "Read.", (), "A")
    waits = ((0.5, 0.25, 0.0), (0.5, 0.0))
    long, short = ([Turn("", Reply(), tools_s=seconds) for seconds in of_one] for of_one in waits)
    assert waited_for_tools([Group(sample, [Trajectory(sample, short), Trajectory(sample, long)])]) == 0.75
    assert waited_for_tools([]) == 0.0


@pytest.mark.parametrize(("at_once", "expected"), [(0, [10]), (5, [4, 4, 2]), (1, [1] * 10)])
def test_a_batch_is_sampled_in_parts(at_once: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy()
    opened: list[Sampling] = []
    rows: list[int] = []
    open_session = policy.open_session

    def spy(sampling: Sampling) -> Any:
        opened.append(sampling)
        session = open_session(sampling)
        sample = session.sample
        monkeypatch.setattr(session, "sample", lambda contexts: (rows.append(len(contexts)), sample(contexts))[1])
        return session

    monkeypatch.setattr(policy, "open_session", spy)
    samples = [Sample(str(index), "Read.", (noise(),), "A") for index in range(5)]
    roller = Roller(policy, RolloutConfig(max_turns=1, max_new_tokens=2, lane="pillow", sequences_at_once=at_once))
    told: dict[int, Group] = {}
    groups = roller.roll_out(samples, 2, 1.0, seed=3, after_group=told.__setitem__)
    roller.close()
    assert told == dict(enumerate(groups))
    assert [group.sample.id for group in groups] == ["0", "1", "2", "3", "4"]
    assert [len(group.trajectories) for group in groups] == [2] * 5
    assert rows == expected
    assert opened[0].seed == 3
    assert len({sampling.seed for sampling in opened}) == len(expected)
    with pytest.raises(ConfigError, match=r"rollout\.sequences_at_once: expected 0 or more, got -1"):
        RolloutConfig(sequences_at_once=-1)


def test_a_roller_keeps_the_mode_of_its_policy_and_closes_what_it_opened() -> None:
    policy = small_policy().train()
    roller = Roller(policy, RolloutConfig(max_turns=1, max_new_tokens=2, lane="pillow"))
    (group,) = roller.roll_out([Sample("a", "Read.", (noise(),), "A")], 2, 1.0, seed=0)
    assert len(group.trajectories) == 2
    assert policy.training
    assert roller._executor is not None
    roller.close()
    assert roller._executor is None
