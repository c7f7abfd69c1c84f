"""GRPO with a separate sampler that answers each trajectory alone: same steps, correction, sampling ahead."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.health import Health
from cv_lightning.errors import ConfigError, EngineError, TrainingError
from cv_lightning.rollout import Completion, OnTokens, Sampling, SamplingPolicy
from cv_lightning.types import Rollouts, Sample, TokenSequence
from modules.base import StepOutput
from modules.evaluate import LocalSolver
from modules.grpo import GRPOModule
from modules.optimizer import OptimizerConfig
from modules.policy.policy import Policy
from modules.rollouts import RolloutConfig
from modules.sampler_correction import SamplerCorrection
from modules.samplers.replica import Replica
from tests.modules.helpers import small_policy, train
from tests.modules.test_grpo import NO_KL, ROLLOUT, Watched, samples, scored

__all__ = ["scored"]  # the fixture that scores rollouts by their text

Pace = Callable[[int], Awaitable[object]]


async def at_once(_: int) -> None:
    """Answer without a delay."""


class Aside(Replica):
    """An engine in this process: a copy of the policy that opens a session for each trajectory.

    Args:
        pace: A coroutine function that is awaited before each turn, with the number of the trajectory.
        bias: Value that is added to every reported log-probability.
    """

    def __init__(self, pace: Pace = at_once, bias: float = 0.0) -> None:
        super().__init__()
        self.pace = pace
        self.bias = bias
        self.n_refreshes = 0
        self.n_sessions = self.n_closed = 0

    @property
    def version(self) -> int | None:
        return self.n_refreshes

    def refresh(self) -> None:
        super().refresh()
        self.n_refreshes += 1

    @contextmanager
    def speaking(self) -> Iterator[SamplingPolicy]:
        with super().speaking() as network:
            yield _Speaker(self, network)  # type: ignore[arg-type]


class _Speaker:
    def __init__(self, sampler: Aside, network: Policy) -> None:
        self.sampler, self.network, self.conversation = sampler, network, network.conversation

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> _Session:
        self.sampler.n_sessions += 1
        return _Session(self, sampling)


class _Session:
    def __init__(self, speaker: _Speaker, sampling: Sampling) -> None:
        self.speaker, self.sampling = speaker, sampling
        self.sessions: dict[int, tuple[int, Any]] = {}

    async def sample(self, context: TokenSequence) -> Completion:
        number = len(self.sessions)
        seed = self.sampling.seed + number
        own = Sampling(self.sampling.temperature, self.sampling.max_new_tokens, seed)
        number, session = self.sessions.setdefault(id(context), (number, self.speaker.network.open_session(own)))
        await self.speaker.sampler.pace(number)
        (drawn,) = session.sample([context])
        sampler = self.speaker.sampler
        logprobs = [logprob + sampler.bias for logprob in drawn.logprobs]
        return Completion(drawn.ids, logprobs, drawn.is_finished, [sampler.n_refreshes] * len(drawn.ids))

    async def close(self) -> None:
        self.speaker.sampler.n_closed += 1


# ---- the same step ---------------------------------------------------------------------------------------------------


class Replay(Replica):
    """An engine that repeats recorded completions, and returns them in another order."""

    def __init__(self, rollouts: Rollouts) -> None:
        super().__init__()
        self.rollouts = rollouts

    @contextmanager
    def speaking(self) -> Iterator[SamplingPolicy]:
        yield _Replayer(self.rollouts, self.policy)


class _Replayer:
    def __init__(self, rollouts: Rollouts, policy: Policy) -> None:
        self.said = [trajectory.tokens for trajectory in rollouts.trajectories]
        self.conversation = policy.conversation
        self.places: dict[int, int] = {}
        self.chance = random.Random(3)

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> _Replayer:
        return self

    async def sample(self, context: TokenSequence) -> Completion:
        said = self.said[self.places.setdefault(id(context), len(self.places))]
        for _ in range(self.chance.randrange(20)):
            await asyncio.sleep(0)
        start = end = len(context)
        while end < len(said) and said.is_trained[end]:
            end += 1
        ids = said.ids[start:end]
        return Completion(ids, said.logprobs[start:end], ids[-1:] == [self.conversation.end_of_turn_id])

    async def close(self) -> None:
        """Close nothing."""


def test_a_step_equals_that_of_the_local_sampler_with_the_same_tokens() -> None:
    local = Watched(small_policy(), group_size=4, policy_gradient=NO_KL)
    train(local, [samples()])
    apart = Watched(small_policy(), group_size=4, policy_gradient=NO_KL, sampler=Replay(local.rolled_out))
    train(apart, [samples()])
    assert [t.tokens for t in apart.rolled_out.trajectories] == [t.tokens for t in local.rolled_out.trajectories]
    assert max(float(gradient.abs().max()) for gradient in local.seen[0].values()) > 0
    assert apart.seen[0].keys() == local.seen[0].keys()
    assert all(torch.equal(apart.seen[0][name], gradient) for name, gradient in local.seen[0].items())


def test_greedy_answers_of_a_solver_are_those_without_an_engine() -> None:
    rollout = RolloutConfig(max_turns=2, max_new_tokens=6, lane="pillow")
    sampler = Aside(lambda number: asyncio.sleep(0.001 * (number % 3)))
    alone, apart = LocalSolver(small_policy(), rollout), LocalSolver(small_policy(), rollout, sampler=sampler)
    expected, found = alone.solve(samples(4)), apart.solve(samples(4))
    assert [t.tokens.ids for t in found if t] == [t.tokens.ids for t in expected if t]
    assert len(found) == 4
    assert alone.fingerprint() == apart.fingerprint()
    without = apart.without_tools()
    without.solve(samples(2))
    assert (sampler.n_refreshes, sampler.n_sessions, sampler.n_closed) == (1, 2, 2), "one engine, brought up once"
    for solver in (alone, apart, without):
        solver.close()


# ---- a sampler that is wrong -----------------------------------------------------------------------------------------


def test_a_wrong_sampler_is_corrected_and_raises_the_alarm(tmp_path: Path) -> None:
    """The sampler reports 0.7 nats too much for each token, so each token has a weight of exp(-0.7), about one half."""
    true = Watched(small_policy(), group_size=4, policy_gradient=NO_KL, sampler=Aside())
    train(true, [samples()])
    correction = SamplerCorrection()
    options: dict[str, Any] = {"group_size": 4, "policy_gradient": NO_KL, "sampler_correction": correction}
    wrong = Watched(small_policy(), sampler=Aside(bias=0.7), **options)
    trainer = train(wrong, [samples()])
    measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert measured["rl/sampler_weight"] == pytest.approx(0.4966, abs=1e-3)
    assert measured["rl/logprob_gap_mean"] == pytest.approx(0.7, abs=1e-3)
    for name, gradient in true.seen[0].items():
        assert torch.allclose(wrong.seen[0][name], gradient * 0.4966, rtol=2e-3, atol=1e-6), name

    health = Health(patience=1, action="stop", max_logprob_gap=0.1, max_logprob_gap_mean=None)
    module = GRPOModule(small_policy(), rollout=ROLLOUT, sampler=Aside(bias=0.7), **options)
    with pytest.raises(TrainingError, match=r"rl/logprob_gap is 0\.7"):
        train(module, [samples()] * 2, callbacks=[health], default_root_dir=tmp_path)


# ---- ahead -----------------------------------------------------------------------------------------------------------


class Ahead(GRPOModule):
    """Records the samples and metrics of each step; its engine samples ahead only during an update."""

    def __init__(self, sampler: Aside, **options: Any) -> None:
        sampler.pace = self.pace
        rollout: dict[str, Any] = {"rollout": ROLLOUT, "policy_gradient": NO_KL, "group_size": 4}
        super().__init__(small_policy(), sampler=sampler, samples_ahead=True, **rollout | options)
        self.is_ahead = False
        self.learned: list[list[str]] = []
        self.logged: list[dict[str, float]] = []
        self.updates = threading.Event()

    async def pace(self, _: int) -> None:
        while self.is_ahead and not self.updates.is_set():
            await asyncio.sleep(0.001)

    def training_step(self, batch: list[Sample], batch_idx: int) -> StepOutput:
        output = super().training_step(batch, batch_idx)
        self.updates.clear()
        self.logged.append(output["metrics"])
        return output

    def roll_out(self, samples: Any, *options: Any, **more: Any) -> Rollouts:
        self.is_ahead = threading.current_thread() is not threading.main_thread()
        return super().roll_out(samples, *options, **more)

    def _staleness(self, rollouts: Rollouts) -> dict[str, float]:
        self.learned.append([group.sample.id for group in rollouts.groups])
        return super()._staleness(rollouts)

    def _update(self, prepared: Any) -> Any:
        ahead = self._roller._ahead
        self.updates.set()
        if ahead is not None:
            ahead.result(60)  # sampled during this update
        return super()._update(prepared)


def named(*names: str) -> list[list[Sample]]:
    return [[Sample(f"{name}{n}", "Read.", each.images, "K7") for n, each in enumerate(samples(2))] for name in names]


def ahead_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("rollout")]


@pytest.mark.parametrize("minibatches", [1, 2])
def test_the_next_rollouts_are_sampled_during_the_update(minibatches: int) -> None:
    sampler = Aside()
    module = Ahead(sampler, minibatches=minibatches, optimizer=OptimizerConfig(lr=1e-2))
    train(module, named("a", "b", "c", "d"), max_steps=4 * minibatches)
    assert module.learned == [["a0", "a1"], ["a0", "a1"], ["b0", "b1"], ["c0", "c1"]]
    assert [metrics["rl/staleness"] for metrics in module.logged] == [0, *[minibatches] * 3]
    assert [metrics["rl/staleness_max"] for metrics in module.logged] == [0, *[minibatches] * 3]
    assert sampler.n_refreshes == 4
    assert sampler.n_sessions == sampler.n_closed == 4, "nothing is sampled for a step that does not come"
    assert isinstance(module.sampler_correction, SamplerCorrection)
    assert all("rl/sampler_weight" in metrics for metrics in module.logged)
    gaps = [metrics["rl/logprob_gap"] for metrics in module.logged]
    assert gaps[0] < 1e-4 < min(gaps[1:]), "the weights that spoke are those of the step before"
    assert ahead_threads() == []


@pytest.mark.parametrize("is_engines", [True, False])
def test_an_error_ends_rollouts_that_run_ahead(is_engines: bool) -> None:
    class Failing(Ahead):
        async def pace(self, number: int) -> None:
            if self.is_ahead:
                if is_engines:
                    raise EngineError("The engine is gone. Start it.")
                await asyncio.sleep(3600)

        def _update(self, prepared: Any) -> Any:
            if not is_engines:
                raise MemoryError("none left")
            return GRPOModule._update(self, prepared)

    sampler = Aside()
    module = Failing(sampler)
    error = EngineError if is_engines else MemoryError
    with pytest.raises(error):
        train(module, named("a", "b", "c"))
    assert ahead_threads() == []
    assert sampler.n_closed == sampler.n_sessions
    assert module._roller._executor is None


def test_only_an_engine_samples_ahead() -> None:
    with pytest.raises(ConfigError, match="samples_ahead: expected a sampler that is an engine"):
        GRPOModule(small_policy(), samples_ahead=True, sampler=Replica())
    with pytest.raises(ConfigError, match="max_resamples: expected 0 with samples_ahead, got 2"):
        GRPOModule(small_policy(), samples_ahead=True, sampler=Aside(), max_resamples=2)
