"""The sampler that a command uses; the engine's server is a fake."""

from __future__ import annotations

from pathlib import Path

import pytest

from cv_lightning.errors import ConfigError
from cv_lightning.rollout import Sampling
from modules.samplers.speaking import speaking
from tests.modules.helpers import small_policy
from tests.modules.samplers.vllm.fake import FakeServer
from tests.modules.samplers.vllm.helpers import contexts_of, converse, fake_environment, pids_of


def test_a_policy_without_an_engine_samples_itself() -> None:
    policy = small_policy()
    with speaking(policy, None) as speaker:
        assert speaker is policy


def test_servers_by_address_get_the_weights_and_share_the_conversations() -> None:
    policy = small_policy()
    image_id = policy.core.config.image_token_id
    with FakeServer(image_id) as first, FakeServer(image_id) as second:
        with speaking(policy, [first.url, f"{second.url}/"]) as speaker:
            assert speaker.conversation is policy.conversation
            said = converse(speaker.open_session(Sampling(1.0, 12, 3)), policy, contexts_of(policy))
        assert [len(each) for each in said] == [2] * 4
        assert first.weights == second.weights != {}
        assert first.requests
        assert second.requests


def test_a_folder_starts_an_engine_that_ends_with_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = fake_environment(tmp_path / "vllm")
    with speaking(small_policy(), [str(environment)]):
        assert pids_of(tmp_path)
    assert not pids_of(tmp_path)
    assert len(list(tmp_path.glob("runs/engine/*/server-0.log"))) == 1


@pytest.mark.parametrize("where", [["vllm", "http://127.0.0.1:1"], ["vllm", "other"]])
def test_one_folder_or_addresses(where: list[str]) -> None:
    with pytest.raises(ConfigError, match="--engine: expected one folder, or addresses"):
        speaking(small_policy(), where).__enter__()
