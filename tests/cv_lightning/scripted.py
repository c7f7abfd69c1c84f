"""Conversations with a policy whose turns a test writes; tokens, executor and frames are real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from cv_lightning.chat.talk import AnswerLimits, Talk
from cv_lightning.conversation import Conversation, format_answer, format_call
from cv_lightning.rollout import Completion, Executor, OnTokens, Sampling
from cv_lightning.types import TokenSequence, ToolCall, Trajectory
from tests.modules.helpers import small_policy

TURN = format_call("Turned left.", ToolCall("result = image.rotate(270, expand=True)"))
BREAK = format_call("Closer.", ToolCall("result = image.rotate(90).crop((5, 5, 5, 9))"))
ANSWER = format_answer("Upright.", "64P")


def photo(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def a_conversation(**changes: Any) -> Conversation:
    return small_policy(**changes).conversation


class Script:
    """A policy that samples texts of a test, one token per letter."""

    def __init__(self, conversation: Conversation, *texts: str) -> None:
        self.conversation = conversation
        self.texts = list(texts)
        self.contexts: list[list[int]] = []
        self.samplings: list[Sampling] = []
        self.before_token: Callable[[int], None] = lambda n: None

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> _Session:
        assert on_tokens is not None
        self.samplings.append(sampling)
        return _Session(self, on_tokens)


class _Session:
    def __init__(self, script: Script, on_tokens: OnTokens) -> None:
        self._script = script
        self._on_tokens = on_tokens

    def sample(self, contexts: Sequence[TokenSequence]) -> list[Completion]:
        script = self._script
        script.contexts += [[*context.ids] for context in contexts]
        encode = script.conversation.tokenizer.encode
        letters = [token for letter in script.texts.pop(0) for token in encode(letter, add_special_tokens=False)]
        written: list[int] = []
        for token in [*letters, script.conversation.end_of_turn_id]:
            script.before_token(len(written))
            written.append(token)
            if not self._on_tokens([token]):
                break
        is_finished = written[-1] == script.conversation.end_of_turn_id
        return [Completion(written, [-1.0] * len(written), is_finished)]


class Notes:
    """A watcher that records everything, and stops an answer after `stop_at` letters of a turn."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.texts: list[str] = []
        self.n_turns: list[int] = []
        self.stop_at = stop_at
        self.is_tired = False

    def on_text(self, text: str) -> None:
        self.texts.append(text)
        self.is_tired |= self.stop_at is not None and len(text) >= self.stop_at

    def on_turn(self, trajectory: Trajectory) -> None:
        self.n_turns.append(len(trajectory.turns))

    def is_stopped(self) -> bool:
        return self.is_tired


def a_talk(script: Script, executor: Executor, max_turns: int = 4) -> Talk:
    limits = AnswerLimits(Sampling(temperature=0.0, max_new_tokens=300, seed=3), max_turns)
    return Talk(script, executor, limits)
