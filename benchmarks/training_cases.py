"""The material of training measurements: a policy, prompts, and the tokens of rollouts; see `training_step.py`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cv_lightning.data.oracle import EpisodeBuilder
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.types import Sample, TokenSequence, Trajectory
from modules.policy import generation
from modules.policy.generation import GenerationSession
from modules.policy.policy import Policy
from modules.policy.tiny import TinyConfig
from sandbox import ToolExecutor

#: Learning rate of both optimizers, and coefficient of the KL term.
LEARNING_RATE, KL = 1e-6, 0.04

#: Side in pixels of an image of 31 x 31 tokens.
LONG_SIDE = 868
#: Kinds of SFT episodes, and their weights.
SFT_MIX = {"read": 2.0, "turn": 5.0, "recover": 2.5}

#: The replies of a rollout, as tokens.
Script = list[list[int]]


@dataclass(frozen=True)
class StepCase:
    """A kind of step.

    Attributes:
        name: Name of the case.
        n_prompts: Number of prompts, or of SFT episodes.
        group_size: Number of rollouts per prompt; 1 for SFT.
        n_distinct: Number of distinct rollouts in a group.
        is_long: Whether prompts have about 1,000 tokens, nearly all from an image, and one reply of 300.
        trl_batch: Number of sequences in TRL's forward pass.
    """

    name: str
    n_prompts: int
    group_size: int
    n_distinct: int
    is_long: bool = False
    trl_batch: int = 32

    @property
    def is_sft(self) -> bool:
        """Whether the step is SFT on episodes."""
        return self.group_size == 1

    @property
    def n_turns(self) -> int:
        """Number of replies of a rollout."""
        return 1 if self.is_long else 2


CASES = {
    case.name: case
    for case in (
        StepCase("rl", 16, 8, 8),
        StepCase("rl joined", 16, 8, 2),
        StepCase("rl 64x8", 64, 8, 8),
        StepCase("rl 64x8 joined", 64, 8, 2),
        StepCase("rl long", 2, 8, 8, is_long=True, trl_batch=4),
        StepCase("sft", 64, 1, 1),
    )
}


@dataclass(frozen=True)
class StepWork:
    """The steps of a case.

    Attributes:
        policy: Our policy, before it is trained.
        batches: For each step, the samples or the episodes.
        scripts: For each step, the replies of each rollout, one group after another.
        results: For each step and rollout, the resulting image of its call.
        n_distinct: Number of distinct sequences of a step.
        n_tokens: Number of tokens of a step's sequences.
    """

    policy: Policy
    batches: list[list[Any]]
    scripts: list[list[Script]]
    results: list[list[Image.Image | None]]
    n_distinct: int
    n_tokens: int

    @property
    def longest_turn(self) -> int:
        """Number of tokens of the longest reply."""
        return max(len(turn) for scripts in self.scripts for script in scripts for turn in script)

    def check(self, n_sampled: float | None, step: int) -> None:
        """Raise `RuntimeError` if a rollout did not reproduce its script."""
        if n_sampled is not None:
            expected = sum(len(turn) for script in self.scripts[step] for turn in script)
            if n_sampled != expected:
                raise RuntimeError(f"sampled tokens: expected the {expected} of the script, got {n_sampled}")


def work_of(case: StepCase, n_steps: int) -> StepWork:
    """Make a policy and the steps of a case."""
    policy = tiny_policy(case.is_long)
    writer = _Writer(policy)
    if case.is_long:
        return _long_work(case, policy, writer, n_steps)
    n_episodes, n_turns = case.n_prompts * n_steps, None if case.is_sft else case.n_turns
    episodes = recorded_episodes(policy, n_episodes, SFT_MIX if case.is_sft else {"turn": 1.0}, n_turns)
    steps = [episodes[start : start + case.n_prompts] for start in range(0, len(episodes), case.n_prompts)]
    sequences = [[episode.tokens for episode in step] for step in steps]
    n_tokens = case.group_size * sum(len(each) for each in sequences[-1])
    if case.is_sft:
        return StepWork(policy, [[*step] for step in steps], [], [], len(steps[-1]), n_tokens)
    scripts = [[script for each in step for script in writer.group(_replies(each), case)] for step in sequences]
    results = [[_result(episode) for episode in step for _ in range(case.group_size)] for step in steps]
    samples: list[list[Any]] = [[episode.sample for episode in step] for step in steps]
    return StepWork(policy, samples, scripts, results, case.n_prompts * case.n_distinct, n_tokens)


def tiny_policy(is_long: bool) -> Policy:
    """A policy with random weights. Its images have at most 3 x 3 tokens, or 31 x 31 if prompts are long."""
    side = LONG_SIDE if is_long else 84
    sizes: dict[str, Any] = {"min_pixels": 784, "max_pixels": side * side, "max_context_tokens": 4000}
    return Policy(build=TinyConfig(family="qwen2_5_vl"), system_prompt="Read.", **sizes)


def recorded_episodes(policy: Policy, n: int, mix: dict[str, float], n_turns: int | None = None) -> list[Trajectory]:
    """Episodes of the tiny world's oracle, encoded as tokens.

    Args:
        policy: The policy whose conversation format encodes them.
        n: Number of episodes.
        mix: Kinds of episodes, and their weights.
        n_turns: Number of turns of each episode; None for any number.
    """
    builder = EpisodeBuilder(PlateWorld(seed=0), mix=mix, n_wordings=1, n_spellings=1)
    with ToolExecutor(lane="pillow") as executor:
        found = (builder.episode("train", index, executor) for index in itertools.count())
        usable = (each for each in found if each is not None and n_turns in (None, len(each.turns)))
        return [replace(each, tokens=policy.conversation.encode(each)) for each in itertools.islice(usable, n)]


def long_question(name: str) -> Sample:
    """A question whose image takes about 1,000 tokens."""
    return Sample(name, "Read.", (Image.effect_noise((LONG_SIDE, LONG_SIDE), 60).convert("RGB"),), "x")


def _result(episode: Trajectory) -> Image.Image | None:
    observation = episode.turns[0].observation
    return observation.image if observation else None


def _replies(sequence: TokenSequence) -> Script:
    """The trained tokens, turn by turn."""
    runs = itertools.groupby(zip(sequence.ids, sequence.is_trained, strict=True), key=lambda pair: pair[1])
    return [[token for token, _ in run] for is_trained, run in runs if is_trained]


def _long_work(case: StepCase, policy: Policy, writer: _Writer, n_steps: int) -> StepWork:
    end = policy.conversation.end_of_turn_id
    batches, scripts = [], []
    for step in range(n_steps):
        batches.append([long_question(f"{step} {n}") for n in range(case.n_prompts)])
        scripts.append([[[*writer.words(299), end]] for _ in range(case.n_prompts * case.group_size)])
    n_tokens = case.n_prompts * case.group_size * (300 + len(policy.conversation.start(batches[0][0])))
    return StepWork(policy, [[*batch] for batch in batches], scripts, [], len(scripts[0]), n_tokens)


class _Writer:
    """Replaces words in replies."""

    def __init__(self, policy: Policy) -> None:
        self._generator = random.Random(0)
        texts = {token: policy.tokenizer.decode([token]) for token in range(len(policy.tokenizer))}
        self._words = [token for token, text in texts.items() if text.isascii() and text.isalpha()]
        self._think = policy.tokenizer.convert_tokens_to_ids("<think>")

    def words(self, n: int) -> list[int]:
        """Random tokens of letters."""
        return self._generator.choices(self._words, k=n)

    def group(self, replies: Script, case: StepCase) -> list[Script]:
        """The replies of a group, with `n_distinct` different ones: their thoughts begin with different words."""
        distinct: list[Script] = []
        while len(distinct) < case.n_distinct:
            other = [self._rewritten(reply) for reply in replies]
            if other not in distinct:
                distinct.append(other)
        return [*itertools.islice(itertools.cycle(distinct), case.group_size)]

    def _rewritten(self, reply: list[int]) -> list[int]:
        place = reply.index(self._think) + 1
        return [*reply[:place], *self.words(1), *reply[place + 1 :]]


class ScriptedSession(GenerationSession):
    """Samples tokens as usual, then replaces them by those of a script."""

    def __init__(self, network: Any, sampling: Any, on_tokens: Any, scripts: Sequence[Script]) -> None:
        super().__init__(network, sampling, on_tokens)
        self._left = [[*script] for script in scripts]
        self._script_of: dict[int, int] = {}
        self._turn: list[list[int]] = []

    def sample(self, contexts: Sequence[TokenSequence]) -> Any:
        """Sample one turn of each context."""
        if not self._script_of:
            self._script_of = {id(context): row for row, context in enumerate(contexts)}
        self._turn = [self._left[self._script_of[id(context)]].pop(0) for context in contexts]
        self._n_drawn = 0
        really_drawn, generation.draw = generation.draw, self._draw_scripted
        self._really_drawn = really_drawn
        try:
            return super().sample(contexts)
        finally:
            generation.draw = really_drawn

    def _draw_scripted(self, probabilities_BV: Tensor, generator: torch.Generator) -> Tensor:
        self._really_drawn(probabilities_BV, generator)
        place, self._n_drawn = self._n_drawn, self._n_drawn + 1
        turns = [self._turn[row] for row in self._rows]
        return torch.tensor([turn[min(place, len(turn) - 1)] for turn in turns])


@contextmanager
def scripted(work: StepWork) -> Iterator[None]:
    """In this context, the policy's rollouts reproduce the scripts, one step after another."""
    steps = iter(work.scripts)
    policy: Any = work.policy
    policy.open_session = lambda sampling, on_tokens=None: ScriptedSession(policy, sampling, on_tokens, next(steps))
    try:
        yield
    finally:
        del policy.open_session
