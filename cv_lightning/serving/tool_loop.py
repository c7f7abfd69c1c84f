"""`serve --tools loop`: answers a request with a whole rollout, so that a client needs no tools of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from starlette.concurrency import run_in_threadpool

from cv_lightning.frames import view_question
from cv_lightning.rollout import Completion, Executor, append_observation, append_reply, observe
from cv_lightning.serving.answers import Answer, pieces
from cv_lightning.serving.encoding import ChatEncoder
from cv_lightning.serving.replies import Backend, cut_at, wanted_reply
from cv_lightning.serving.request import BadRequest, ChatRequest
from cv_lightning.tools.reply_text import read_turn
from cv_lightning.types import Sample, StopReason, TokenSequence, Trajectory
from cv_lightning.viewer.recording import describe, image_name


class ToolLoop:
    """Answers with the final answer of a rollout, whose calls are executed here.

    Args:
        executor: Runs the policy's code.
        max_turns: Turns of the policy for one request; a tool call in the last one is not executed.
    """

    def __init__(self, executor: Executor, max_turns: int = 4) -> None:
        self._executor = executor
        self._max_turns = max_turns

    def encode(self, backend: Backend, request: ChatRequest) -> TokenSequence:
        """Encode the conversation; the policy's own prompt, which describes its tools, stays in it.

        Raises:
            BadRequest: The client offers tools of its own, or the request does not fit.
        """
        if request.tools:
            raise BadRequest("This server runs its own tools (--tools loop): leave tools out.", "tools")
        return backend.encoder.encode(request, keeps_prompt=True)

    async def answer(
        self, backend: Backend, request: ChatRequest, tokens: TokenSequence, index: int
    ) -> AsyncGenerator[Answer, None]:
        """Yield each turn as an empty piece with its text, then the answer with the trajectory."""
        trajectory = _begin(request, tokens)
        quiet = request.model_copy(update={"stop": [], "is_streamed": False})
        n_output = 0
        for turn in range(self._max_turns):
            started = time.perf_counter()
            number = index + request.n * turn
            wanted = wanted_reply(quiet, trajectory.tokens.copy(), backend.max_new_tokens, number)
            async with aclosing(pieces(backend, wanted, is_first=turn == 0)) as replies:
                completion = [reply.completion async for reply in replies][-1] or Completion([], [], False)
            n_output += len(completion.ids)
            seconds, is_last = time.perf_counter() - started, turn == self._max_turns - 1
            await run_in_threadpool(self._take, trajectory, completion, backend.encoder, seconds, is_last)
            if trajectory.stop_reason is not None:
                break
            yield Answer("", n_output, extra={"turn": trajectory.turns[-1].text})
        record = await run_in_threadpool(describe, trajectory, image_name)
        is_said = trajectory.stop_reason in (StopReason.ANSWERED, StopReason.NO_ACTION)
        end = "stop" if is_said else "length"
        words = cut_at(final_words(trajectory), request.stop)
        yield Answer(words, n_output, end, completion=completion, extra={"trajectory": record})

    def _take(
        self, trajectory: Trajectory, completion: Completion, encoder: ChatEncoder, seconds: float, is_last: bool
    ) -> None:
        """Read a turn and run its call, as `driver.drive` does."""
        with encoder.lock:
            append_reply(trajectory, completion, encoder.conversation, seconds, is_last)
        if trajectory.stop_reason is not None:
            return
        (observation,) = observe([trajectory], self._executor)
        with encoder.lock:
            append_observation(trajectory, observation, encoder.conversation)


def _begin(request: ChatRequest, tokens: TokenSequence) -> Trajectory:
    """Start a rollout that continues the client's conversation; all of its images count as given."""
    question = "\n".join(_texts(request))
    sample = Sample("request", question, tuple(viewed.image for viewed in tokens.images), "", family="serve")
    own = replace(tokens.copy(), images=view_question(sample))
    return Trajectory(sample, images=[*own.images], tokens=own)


def _texts(request: ChatRequest) -> Sequence[str]:
    return [message.text for message in request.messages if message.role == "user" and message.text]


def final_words(trajectory: Trajectory) -> str:
    """The answer; if there is none, the text of the last turn without its reasoning and calls."""
    if trajectory.answer is not None:
        return trajectory.answer
    return read_turn(trajectory.turns[-1].text).words.strip()
