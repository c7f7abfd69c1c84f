"""A conversation with a policy about images: each question is answered by a rollout that continues the earlier ones."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from PIL import Image

from cv_lightning.driver import drive
from cv_lightning.errors import ConversationError
from cv_lightning.rollout import Executor, Sampling, SamplingPolicy
from cv_lightning.types import Sample, StopReason, TokenSequence, Trajectory, ViewedImage
from cv_lightning.viewer.recording import describe
from cv_lightning.viewer.records import Record
from sandbox import Affine


class Watcher(Protocol):
    """Follows an answer while it is generated, and may stop it."""

    def on_text(self, text: str) -> None:
        """Called with all text so far of the turn that is being generated."""

    def on_turn(self, trajectory: Trajectory) -> None:
        """Called after each turn, with the result of its call."""

    def is_stopped(self) -> bool:
        """Whether the answer is no longer wanted."""


@dataclass(frozen=True)
class AnswerLimits:
    """Sampling parameters and length of an answer.

    Attributes:
        sampling: How tokens are sampled. Each question uses the same seed, so a repeated question gets the same answer.
        max_turns: Turns of the policy for one question; a tool call in the last one is not executed.
    """

    sampling: Sampling
    max_turns: int = 4


class Talk:
    """Questions about images and their answers; sampled tokens are never decoded and encoded again.

    Args:
        policy: Generates the answers.
        executor: Runs the policy's code.
        limits: Limits of each answer.

    Attributes:
        trajectories: One for each question with at least a part of an answer. Its images are all that the policy has
            seen; images from earlier questions and answers count as given (`turn` is -1).
    """

    def __init__(self, policy: SamplingPolicy, executor: Executor, limits: AnswerLimits) -> None:
        self.trajectories: list[Trajectory] = []
        self._episode = uuid.uuid4().hex  # calls of one conversation may share variables, those of two never do
        self._policy = policy
        self._conversation = policy.conversation
        self._executor = executor
        self._limits = limits

    def ask(self, question: str, images: Sequence[Image.Image], watcher: Watcher) -> Trajectory:
        """Ask a question.

        Args:
            question: The question.
            images: New images for the question; earlier ones need not be given again.
            watcher: Follows the answer.

        Returns:
            The answer. If it was stopped before its first turn, it has no turns, and the conversation is unchanged.

        Raises:
            ConversationError: The question is empty or has no image, or does not fit in the conversation.
        """
        trajectory = self._begin(question, images)
        self._answer(trajectory, images, watcher)
        if trajectory.turns:
            self.trajectories.append(trajectory)
        return trajectory

    def record(self, trajectory: Trajectory, name: Callable[[Image.Image], str]) -> Record:
        """Describe an answer of this conversation, complete or not, in the format of docs/trajectories.md.

        Args:
            trajectory: The answer.
            name: Stores an image and returns its name.
        """
        place = next((n for n, one in enumerate(self.trajectories) if one is trajectory), len(self.trajectories))
        n_seen = len(self.trajectories[place - 1].images) if place > 0 else 0
        return describe(trajectory, name) | {"kind": "chat", "first_image": n_seen}

    def _begin(self, question: str, images: Sequence[Image.Image]) -> Trajectory:
        # A terminal may pass bytes that are not UTF-8, which a tokenizer refuses.
        question = question.encode("utf-8", "replace").decode().strip()
        if not question:
            raise ConversationError("The question is empty. Ask something about the image.")
        before = self.trajectories[-1] if self.trajectories else None
        given = list(before.sample.images) if before is not None else []
        seen = [replace(viewed, turn=-1) for viewed in before.images] if before is not None else []
        if not given and not images:
            raise ConversationError("There is no image to talk about. Name one first.")
        new = [ViewedImage(image, len(given) + index, Affine(), "identity") for index, image in enumerate(images)]
        name = f"question-{len(self.trajectories) + 1}"
        sample = Sample(name, question, (*given, *images), answer="", family="chat", source="chat")
        return Trajectory(sample, images=[*seen, *new], episode=self._episode)

    def _answer(self, trajectory: Trajectory, images: Sequence[Image.Image], watcher: Watcher) -> None:
        trajectory.tokens = self._tokens(trajectory, len(images))
        written: list[int] = []

        def on_tokens(ids_B: Sequence[int | None]) -> bool:
            written.extend(token for token in ids_B if token is not None)
            watcher.on_text(self._conversation.decode_reply(written))
            return not watcher.is_stopped()

        def after_turn(trajectory: Trajectory) -> bool:
            written.clear()
            watcher.on_turn(trajectory)
            return not watcher.is_stopped()

        if not watcher.is_stopped():
            session = self._policy.open_session(self._limits.sampling, on_tokens)
            drive([trajectory], session, self._conversation, self._executor, self._limits.max_turns, after_turn)

    def _tokens(self, trajectory: Trajectory, n_new: int) -> TokenSequence:
        """The tokens before the answer, as a copy because the answer may be stopped."""
        if not self.trajectories:
            return self._conversation.start(trajectory.sample)
        tokens = self.trajectories[-1].tokens.copy()
        new = trajectory.images[len(trajectory.images) - n_new :]
        if not self._conversation.append_question(tokens, new, trajectory.sample.question):
            limit = self._conversation.max_context_tokens
            raise ConversationError(
                f"The conversation is full: with this question it is longer than {limit} tokens. Begin a new one, or "
                "raise max_context_tokens."
            )
        return tokens


#: Reasons for a missing answer, for the user.
NO_ANSWER = {
    StopReason.NO_ACTION: "it neither called the tool nor answered",
    StopReason.MAX_TURNS: "it still called the tool in its last turn; more turns may help",
    StopReason.MAX_TOKENS: "its turn was cut off at the limit of new tokens",
    StopReason.CONTEXT_FULL: "the result of its call did not fit into the context",
}
