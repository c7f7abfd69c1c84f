"""Training through an engine that is started, watched, killed and ended; the engine is the fake."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback

from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.errors import ConfigError
from cv_lightning.rollout import Sampling
from modules.grpo import GRPOModule
from modules.policy.policy import Policy
from modules.rollouts import RolloutConfig
from modules.samplers.vllm.engine import Patience
from modules.samplers.vllm.launch import Launch
from modules.samplers.vllm.sampler import VLLM
from tests.modules.helpers import LORA, small_policy, train
from tests.modules.samplers.vllm.fake import FakeServer
from tests.modules.samplers.vllm.helpers import fake_environment, pids_of, server_of

PATIENCE = Patience(turn_s=20.0, away_s=60.0, attempts=4)


class Recorder(Callback):
    """Records the sampled tokens of each step, and calls a function after it."""

    def __init__(self, between: Callable[[int], None] = lambda step: None) -> None:
        self.between = between
        self.ids: list[list[list[int]]] = []
        self.versions: list[set[int]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trajectories = outputs["rollouts"].trajectories
        self.ids.append([trajectory.tokens.ids for trajectory in trajectories])
        turns = [turn for trajectory in trajectories for turn in trajectory.turns]
        self.versions.append({version for turn in turns for version in turn.versions})
        self.between(batch_idx)


def run(folder: Path, before: Callable[[int], None] = lambda step: None, n_steps: int = 3, **of_policy: Any) -> Any:
    """Train some steps, with a call of `before` before each; return the recorder and the module."""
    policy = small_policy(**of_policy)
    environment = folder / "environment"
    if not environment.exists():
        fake_environment(environment)
    sampler = VLLM(launch=Launch(str(environment), str(folder / "engine")), patience=PATIENCE)
    rollout = RolloutConfig(max_turns=2, max_new_tokens=12, lane="pillow")
    module = GRPOModule(policy, group_size=2, rollout=rollout, sampler=sampler)
    world = PlateWorld(seed=0)
    batches = [[world.sample("train", 2 * step + index) for index in range(2)] for step in range(n_steps)]
    (folder / "engine").mkdir(exist_ok=True)
    recorder = Recorder(lambda step: before(step + 1))
    before(0)
    train(module, batches, callbacks=[recorder])
    return recorder, module


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("unbroken")
    recorder, module = run(folder)
    assert not pids_of(folder)  # closed with the module
    return recorder, {name: p.detach().clone() for name, p in module.policy.named_parameters()}


def test_each_step_samples_with_the_weights_of_the_step_before(unbroken: Any) -> None:
    recorder, _ = unbroken
    assert recorder.versions == [{1}, {2}, {3}]
    assert all(len(ids) == 4 for ids in recorder.ids)


@pytest.mark.filterwarnings("ignore:The engine at")
@pytest.mark.parametrize("when", ["rollout", "update", "between"])
def test_a_killed_engine_changes_nothing(unbroken: Any, tmp_path: Path, when: str) -> None:
    routes = {"rollout": "_inference_v1_generate", "update": "_update_weights"}

    def kill(step: int) -> None:
        if step == 1 and when == "between":
            os.kill(server_of(tmp_path / "engine"), signal.SIGKILL)
        elif step == 1:
            (tmp_path / "engine" / f"kill{routes[when]}").touch()

    recorder, module = run(tmp_path, kill)
    expected, weights = unbroken
    assert recorder.ids == expected.ids
    assert recorder.versions == expected.versions
    for name, parameter in module.policy.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    assert not pids_of(tmp_path)


def test_a_policy_in_bfloat16_brings_bfloat16_and_corrects(tmp_path: Path) -> None:
    with FakeServer(settings={("model_config", "dtype"): "torch.bfloat16"}) as server:
        policy = small_policy(dtype="bfloat16")
        server.image_id = policy.core.config.image_token_id
        sampler = VLLM([server.url], folder=str(tmp_path), patience=PATIENCE)
        rollout = RolloutConfig(max_turns=2, max_new_tokens=12, lane="pillow")
        # A step that measures the KL computes groups without a spread of rewards too.
        module = GRPOModule(policy, group_size=2, rollout=rollout, sampler=sampler, measure_kl_every=1)
        logged = train(module, [[PlateWorld(seed=0).sample("train", 0)]]).callback_metrics
    assert server.dtypes == {"BF16"}
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}, "masters stay here"
    assert logged["rl/logprob_gap"] >= logged["rl/logprob_gap_mean"] > 1, "the fake invents its log-probabilities"
    assert 0 < logged["rl/sampler_weight"] < 0.5


def test_adapters_are_brought_under_a_new_name_each_time(tmp_path: Path) -> None:
    with FakeServer() as server:
        policy = small_policy(lora=LORA)
        server.image_id = policy.core.config.image_token_id
        sampler = VLLM([server.url], folder=str(tmp_path), patience=PATIENCE)
        sampler.attach(policy)
        for number in range(1, 5):
            sampler.refresh()
            assert len(server.adapters) == min(number, 2)
        assert server.calls.count("/update_weights") == 1  # the weights below the adapters stay
        assert [*server.adapters][-1] == sampler._engine.weights.current().model  # type: ignore[union-attr]
        assert all((Path(path) / "adapter_model.safetensors").exists() for path in server.adapters.values())
        server.version, server.adapters = "default", {}  # as if somebody had restarted it
        sampler.refresh()
        assert server.calls.count("/update_weights") == 2
        assert len(server.adapters) == 1
        sampler.close()
    assert not [*tmp_path.iterdir()]


def test_adapters_that_vllm_cannot_load_are_added_to_the_weights(tmp_path: Path) -> None:
    policy = small_policy(lora={**LORA, "modules_to_save": ["lm_head"]})
    with FakeServer() as server:
        with pytest.raises(ConfigError, match=r"sampler.adapters: .*adapters: false"):
            attached(VLLM([server.url], folder=str(tmp_path), adapters=True), policy).refresh()
        sampler = attached(VLLM([server.url], folder=str(tmp_path)), policy)
        sampler.refresh()
        sampler.refresh()
        assert server.calls.count("/update_weights") == 2
        assert not server.adapters
        sampler.close()


def attached(sampler: VLLM, policy: Policy) -> VLLM:
    sampler.attach(policy)
    return sampler


def test_weights_are_brought_every_so_often(tmp_path: Path) -> None:
    with FakeServer() as server:
        sampler = attached(VLLM([server.url], folder=str(tmp_path), every=2), small_policy())
        versions = []
        for _ in range(5):
            sampler.refresh()
            versions.append(sampler.version)
        assert versions == [1, 1, 2, 2, 3]
        sampler.close()


def test_sleep_and_wake_are_around_the_update(tmp_path: Path) -> None:
    with FakeServer() as server:
        sampler = attached(VLLM([server.url], folder=str(tmp_path), sleep=2), small_policy())
        sampler.refresh()
        sampler.rest()
        sampler.rest()
        server.calls.clear()
        sampler.refresh()
        assert [call for call in server.calls if call in ("/wake_up", "/pause", "/resume")] == [
            *("/wake_up", "/pause", "/resume", "/wake_up"),
        ]
        sampler.close()


def test_who_agrees() -> None:
    float32, bfloat16 = small_policy(), small_policy(dtype="bfloat16")
    urls = ["http://127.0.0.1:1"]
    assert attached(VLLM(urls), float32).agrees
    assert not attached(VLLM(urls, dtype="bfloat16"), float32).agrees
    assert not attached(VLLM(urls), bfloat16).agrees
    assert not attached(VLLM(urls, every=2), float32).agrees, "its weights may be old"
    assert GRPOModule(bfloat16, sampler=VLLM(urls)).sampler_correction is not None


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exactly one of servers"):
        VLLM()
    with pytest.raises(ConfigError, match=r"sampler.every"):
        VLLM(["http://127.0.0.1:1"], every=0)
    with FakeServer() as server:
        sampler = attached(VLLM([server.url], folder=str(tmp_path)), small_policy())
        sampler.refresh()
        with (
            sampler.speaking() as speaker,
            pytest.raises(ConfigError, match=r"rollout.temperature: expected at most 2"),
        ):
            speaker.open_session(Sampling(2.5))
        sampler.close()
