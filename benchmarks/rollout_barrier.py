"""Trajectories in flight over time, with a barrier after each turn, and with each trajectory at its own pace.

    python benchmarks/rollout_barrier.py [--trajectories 64] [--out runs/benchmarks/rollout_barrier]

The policy is a clock: a turn takes its number of tokens times `--token-ms`, regardless of other turns, as on an engine
that is not full. Lengths are log-normal (median 40 tokens, sigma 0.8), a trajectory has one to four turns, and one in
eight tool calls takes 0.5 s. Both ways sample the same turns, alternately, `--rounds` times; the ratio is the median of
the rounds' ratios. Two more measurements: rollouts whose calls all use workers, one in eight for 5 s, with the calls of
a batch answered together and with each answered as it ends; and processor time of a rollout whose policy and tools take
no time, with the driver and with the plain loop over batches of turns. Writes a figure and a JSON.
"""

# ruff: noqa: E402 - this folder leaves the path before anything else is imported: files in it have names of packages
from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

from PIL import Image

from cv_lightning.conversation import Conversation, format_answer, format_call
from cv_lightning.driver import drive
from cv_lightning.rollout import AsyncSession, Completion, Session, append_observation, append_reply, observe
from cv_lightning.types import Sample, TokenSequence, ToolCall, Trajectory
from modules.policy.tiny import train_tokenizer
from sandbox import Observation, ToolRequest
from sandbox.types import Tell

MAX_TURNS = 4
SLOW_S, LONG_S, FAST_S, SLOW_ONE_OF = 0.5, 5.0, 0.002, 8


class Clock:
    """Samples the same turns in each run, and records when each trajectory is being sampled."""

    def __init__(self, conversation: Conversation, contexts: Sequence[TokenSequence], token_s: float) -> None:
        self.conversation, self.token_s = conversation, token_s
        self.number = {id(context): number for number, context in enumerate(contexts)}
        self.n_turns = [0] * len(contexts)
        self.spans: list[tuple[float, float]] = []

    def turn(self, context: TokenSequence) -> tuple[Completion, float]:
        """The next turn of a trajectory, and its duration in seconds."""
        number = self.number[id(context)]
        turn, self.n_turns[number] = self.n_turns[number], self.n_turns[number] + 1
        chance = random.Random(1000 * number + turn)
        n_tokens = chance.lognormvariate(3.7, 0.8)
        is_answer = turn == MAX_TURNS - 1 or chance.random() < 0.35
        is_slow = chance.randrange(SLOW_ONE_OF) == 0
        call = ToolCall(f"result = image  # {'slow' if is_slow else 'fast'}", "")
        text = format_answer("", "K") if is_answer else format_call("", call)
        ids = [*self.conversation.tokenizer.encode(text, add_special_tokens=False), self.conversation.end_of_turn_id]
        return Completion(ids, [-1.0] * len(ids), True), n_tokens * self.token_s


class Together(Clock):
    """A batch of turns that ends with its longest turn."""

    def sample(self, contexts: Sequence[TokenSequence]) -> list[Completion]:
        """See `Session`."""
        turns = [self.turn(context) for context in contexts]
        started = time.perf_counter()
        self.spans += [(started, started + seconds) for _, seconds in turns]
        time.sleep(max(seconds for _, seconds in turns))
        return [completion for completion, _ in turns]


class Apart(Clock):
    """Turns that each end by themselves."""

    async def sample(self, context: TokenSequence) -> Completion:
        """See `AsyncSession`."""
        completion, seconds = self.turn(context)
        started = time.perf_counter()
        await asyncio.sleep(seconds)
        self.spans.append((started, time.perf_counter()))
        return completion

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


class Tools:
    """Runs the calls of a batch in parallel."""

    def __init__(self, slow_s: float, fast_s: float) -> None:
        self.slow_s, self.fast_s = slow_s, fast_s

    def execute(self, requests: Sequence[ToolRequest], tell: Tell | None = None) -> list[Observation]:
        """See `Executor`."""
        if requests:
            time.sleep(max(self.slow_s if "slow" in request.code else self.fast_s for request in requests))
        return [Observation("ok", text="done") for _ in requests]

    def execute_here(self, requests: Sequence[ToolRequest]) -> list[Observation | None]:
        """See `Executor`: slow calls need a worker."""
        is_fast = ["slow" not in request.code for request in requests]
        time.sleep(self.fast_s * any(is_fast))
        return [Observation("ok", text="done") if fast else None for fast in is_fast]


class InWorkers(Tools):
    """Every call uses a worker; if `tells` is set, calls of a batch are reported as they end."""

    def __init__(self, tells: bool) -> None:
        super().__init__(LONG_S, FAST_S)
        self.tells = tells

    def execute(self, requests: Sequence[ToolRequest], tell: Tell | None = None) -> list[Observation]:
        """See `Executor`."""
        started, seconds = (
            time.perf_counter(),
            [self.slow_s if "slow" in each.code else self.fast_s for each in requests],
        )
        done = Observation("ok", text="done")
        for index in sorted(range(len(requests)), key=lambda index: seconds[index]):
            time.sleep(max(0.0, started + seconds[index] - time.perf_counter()))
            if tell is not None and self.tells:
                tell(index, done)
        return [done] * len(requests)

    def execute_here(self, requests: Sequence[ToolRequest]) -> list[Observation | None]:
        """See `Executor`."""
        return [None] * len(requests)


def begin(conversation: Conversation, n: int) -> list[Trajectory]:
    """Make trajectories before their first turn."""
    sample = Sample("a", "What is written?", (Image.new("RGB", (56, 56)),), "K")
    prompt = conversation.start(sample)
    return [Trajectory(sample, images=[*prompt.images], tokens=prompt.copy()) for _ in range(n)]


def plain_loop(trajectories: list[Trajectory], session: Session, conversation: Conversation, tools: Tools) -> None:
    """Run the loop over batches of turns that the driver replaced."""
    for turn in range(MAX_TURNS):
        completions = session.sample([trajectory.tokens for trajectory in trajectories])
        for trajectory, completion in zip(trajectories, completions, strict=True):
            append_reply(trajectory, completion, conversation, 0.0, is_last=turn == MAX_TURNS - 1)
        trajectories = [trajectory for trajectory in trajectories if trajectory.stop_reason is None]
        if not trajectories:
            return
        for trajectory, observation in zip(trajectories, observe(trajectories, tools), strict=True):
            append_observation(trajectory, observation, conversation)


def timed(work: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that a function takes, measured by a clock."""
    started = clock()
    work()
    return clock() - started


def roll(
    kind: type[Together] | type[Apart], conversation: Conversation, n: int, token_s: float, tools: Tools | None = None
) -> tuple[float, Clock]:
    """Run one rollout; returns its seconds and its clock."""
    trajectories = begin(conversation, n)
    clock = kind(conversation, [trajectory.tokens for trajectory in trajectories], token_s)
    session: Session | AsyncSession = clock
    executor = tools or Tools(SLOW_S, FAST_S)
    return timed(lambda: drive(trajectories, session, conversation, executor, MAX_TURNS)), clock


def overhead(conversation: Conversation, n: int, rounds: int) -> dict[str, float]:
    """Median processor milliseconds of a rollout in which nothing takes time, with the plain loop and the driver."""
    seconds: dict[str, list[float]] = {"plain": [], "driver": []}
    tools = Tools(0, 0)
    for _ in range(rounds):
        for name, took in seconds.items():
            trajectories = begin(conversation, n)
            session = Together(conversation, [trajectory.tokens for trajectory in trajectories], 0.0)
            loop = plain_loop if name == "plain" else partial(drive, max_turns=MAX_TURNS)
            took.append(timed(partial(loop, trajectories, session, conversation, tools), time.process_time))
    return {name: 1000 * statistics.median(took) for name, took in seconds.items()}


def in_flight(spans: Sequence[tuple[float, float]]) -> tuple[list[float], list[int]]:
    """Times since the first turn began, and the number of trajectories being sampled from each time on."""
    events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    times, counts = [0.0], [0]
    for at, change in events:
        times.append(at - events[0][0])
        counts.append(counts[-1] + change)
    return times, counts


def draw(clocks: dict[str, Clock], path: Path) -> None:
    """Draw both curves in one figure."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for name, clock in clocks.items():
        times, counts = in_flight(clock.spans)
        axes.step(times, counts, where="post", label=name, linewidth=1.2)
    axes.set(xlabel="seconds", ylabel="trajectories being sampled", xlim=(0, None), ylim=(0, None))
    axes.set_title("One in eight tool calls takes 0.5 s", fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=64)
    parser.add_argument("--token-ms", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/benchmarks/rollout_barrier"),
        help="path of the results, without an ending",
    )
    options = parser.parse_args()
    conversation = Conversation(
        train_tokenizer(["result = image"], 400, max_token_chars=16), lambda _: 4, "Read.", 4096
    )
    n, token_s = options.trajectories, options.token_ms / 1000
    ratios, seconds, clocks = [], [], {}
    for _ in range(options.rounds):
        (together_s, together), (apart_s, apart) = (roll(kind, conversation, n, token_s) for kind in (Together, Apart))
        ratios.append(together_s / apart_s)
        seconds.append((together_s, apart_s))
        clocks = {"a barrier after each turn": together, "each at its own pace": apart}
    result = {
        "trajectories": n,
        "with_barrier_s": statistics.median(pair[0] for pair in seconds),
        "without_s": statistics.median(pair[1] for pair in seconds),
        "ratio": statistics.median(ratios),
        "in_workers_s": {
            name: roll(Apart, conversation, n, token_s, InWorkers(tells))[0]
            for name, tells in (("all_with_the_last", False), ("each_as_it_ends", True))
        },
        "overhead_ms": overhead(conversation, n, 5 * options.rounds),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(clocks, options.out.with_suffix(".png"))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
