"""Rollouts of a policy, sampled by vLLM and by itself: seconds, and trajectories in flight with slow tools.

    python benchmarks/engine.py --policy runs/tiny/sft/policy --engine ~/vllm [--out runs/benchmarks/engine]

`--engine` is the folder of an environment with vLLM, or the address of a server. Both sample the same plates
alternately, `--rounds` times, after a warm-up round; the medians are printed. Then the engine samples with tools of
which one call in eight takes 0.5 s, with each trajectory at its own pace, and with a barrier after each turn. Writes a
figure and a JSON.
"""

# ruff: noqa: E402 - this folder leaves the path before anything else is imported: files in it have names of packages
from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import asyncio
import json
import statistics
import time
import zlib
from collections.abc import Sequence
from typing import Any

from benchmarks.rollout_barrier import draw
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.driver import roll_out
from cv_lightning.rollout import Completion, Executor, OnTokens, Sampling, SamplingPolicy
from cv_lightning.types import Group, Sample, TokenSequence
from modules.policy.policy import Policy
from modules.samplers.speaking import speaking
from sandbox import Observation, ToolExecutor, ToolRequest
from sandbox.types import Tell

SLOW_S, SLOW_ONE_OF = 0.5, 8


class Slow:
    """An executor in which one call in eight takes longer, as if it ran in a worker."""

    def __init__(self, executor: ToolExecutor) -> None:
        self._executor = executor

    def execute(self, requests: Sequence[ToolRequest], tell: Tell | None = None) -> list[Observation]:
        """See `Executor`."""
        if any(map(self._is_slow, requests)):
            time.sleep(SLOW_S)
        return self._executor.execute(requests, tell)

    def execute_here(self, requests: Sequence[ToolRequest]) -> list[Observation | None]:
        """See `Executor`."""
        seen = self._executor.execute_here(requests)
        return [None if self._is_slow(request) else one for request, one in zip(requests, seen, strict=True)]

    @staticmethod
    def _is_slow(request: ToolRequest) -> bool:
        return zlib.crc32(request.images[0].tobytes() + request.code.encode()) % SLOW_ONE_OF == 0


class Watched:
    """A policy that an engine samples; records when turns are sampled, and may add a barrier after each turn."""

    def __init__(self, policy: SamplingPolicy, has_barrier: bool) -> None:
        self.conversation = policy.conversation
        self.spans: list[tuple[float, float]] = []
        self._policy, self._has_barrier = policy, has_barrier

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> Any:
        """See `SamplingPolicy`."""
        session: Any = self._policy.open_session(sampling, on_tokens)
        return _Together(self, session) if self._has_barrier else _Apart(self, session)


class _Apart:
    def __init__(self, watched: Watched, session: Any) -> None:
        self._spans, self._session = watched.spans, session

    async def sample(self, context: TokenSequence) -> Completion:
        started = time.perf_counter()
        completion: Completion = await self._session.sample(context)
        self._spans.append((started, time.perf_counter()))
        return completion

    async def close(self) -> None:
        await self._session.close()


class _Together(_Apart):
    def __init__(self, watched: Watched, session: Any) -> None:
        super().__init__(watched, session)
        self._loop = asyncio.new_event_loop()  # the session's connections stay in this loop

    def sample(self, contexts: Sequence[TokenSequence]) -> list[Completion]:  # type: ignore[override]
        async def all_of_them() -> list[Completion]:
            return await asyncio.gather(*(_Apart.sample(self, context) for context in contexts))

        return self._loop.run_until_complete(all_of_them())

    close = None  # type: ignore[assignment]  # a session that samples batches has none


def roll(samples: Sequence[Sample], policy: SamplingPolicy, executor: Executor, seed: int) -> tuple[float, list[Group]]:
    """The seconds of a rollout of four trajectories per sample, and its groups."""
    started = time.perf_counter()
    groups = roll_out(samples, policy, executor, Sampling(1.0, 64, seed), group_size=4, max_turns=2)
    return time.perf_counter() - started, groups


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--engine", required=True, action="append")
    parser.add_argument("--trajectories", type=int, default=128, help="a multiple of four")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks/engine"), help="path of the results, without an ending"
    )
    options = parser.parse_args()
    limits: dict[str, Any] = {"min_pixels": 784, "max_pixels": 7056, "max_context_tokens": 400}
    policy = Policy(source=options.policy, system_prompt="Read.", **limits).eval()
    world = PlateWorld(seed=1)
    samples = [world.sample("train", index, ("rotate_90",)) for index in range(options.trajectories // 4)]
    seconds: dict[str, list[float]] = {"engine_s": [], "local_s": []}
    n_tokens: list[int] = []
    with ToolExecutor() as executor, speaking(policy, options.engine) as speaker:
        for seed in range(options.rounds + 1):
            for name, who in (("engine_s", speaker), ("local_s", policy)):
                took, groups = roll(samples, who, executor, seed)
                seconds[name] += [took] if seed else []
                n_tokens.append(sum(sum(t.tokens.is_trained) for group in groups for t in group.trajectories))
        watched = {"a barrier after each turn": Watched(speaker, True), "each at its own pace": Watched(speaker, False)}
        slow = {name: roll(samples, each, Slow(executor), 0)[0] for name, each in watched.items()}
    result = {
        "trajectories": options.trajectories,
        "tokens": round(statistics.median(n_tokens)),
        **{name: round(statistics.median(each), 2) for name, each in seconds.items()},
        "with_slow_tools_s": {name: round(took, 2) for name, took in slow.items()},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    clocks: Any = watched
    draw(clocks, options.out.with_suffix(".png"))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
