"""What a rollout is made of: how turns are asked for, and what a turn does to its trajectory.

The protocols say what `cv_lightning.driver` needs of a policy; `modules.policy.Policy` is one. A rollout that goes
wrong is data: its `Turn`s and its `StopReason` record the cause, and nothing that a policy writes raises here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cv_lightning.conversation import Conversation
from cv_lightning.frames import view_result
from cv_lightning.types import Reply, StopReason, TokenSequence, ToolCall, Trajectory, Turn
from sandbox import Observation, ToolRequest
from sandbox.types import Tell


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: from the whole distribution, as scoring assumes (no top-k, no top-p, no penalty).

    Attributes:
        temperature: Softmax temperature; 0 takes the most probable token.
        max_new_tokens: Longest turn.
        seed: Seed of the generator; the same seed and contexts give the same tokens.
        call_temperature: Above 0: the temperature inside of tool calls; None: the same as elsewhere.
    """

    temperature: float = 1.0
    max_new_tokens: int = 1024
    seed: int = 0
    call_temperature: float | None = None


@dataclass(frozen=True)
class Completion:
    """A sampled turn.

    Attributes:
        ids: Its T tokens.
        logprobs: Of each token [T], under the distribution that it was drawn from.
        is_finished: Whether the turn ended by itself.
        versions: Of each token [T], the version of the weights that drew it; None if they are the policy's own.
    """

    ids: list[int]
    logprobs: list[float]
    is_finished: bool
    versions: list[int] | None = None


#: Called after every step with the sampled id of each row, None for a row that has ended. If it returns False, sampling
#: stops and the turns stay as they are.
OnTokens = Callable[[Sequence[int | None]], bool]


class Session(Protocol):
    """Samples the turns of a batch of conversations together, in the caller's thread."""

    def sample(self, contexts: Sequence[TokenSequence]) -> list[Completion]:
        """Sample one turn for each context; later calls take some of the same contexts, grown."""


@runtime_checkable
class AsyncSession(Protocol):
    """Samples the turn of each conversation as soon as it is asked for, as an engine does.

    A session serves one rollout, in one event loop. What it needs of the loop (an HTTP client) it makes in its first
    `sample`. `on_tokens` gets one row.
    """

    async def sample(self, context: TokenSequence) -> Completion:
        """Sample one turn of one trajectory.

        Trajectories call concurrently. Their first calls come in the order of the trajectories; later calls pass the
        same object, grown by what was sampled and by the observation. So what was made of a context or of a
        `ViewedImage` may be kept, by identity. A cancelled call must end at once.

        Raises:
            EngineError: The engine cannot continue; it ends the rollout as a whole. Retry what can be retried.
        """

    async def close(self) -> None:
        """End the session within seconds; called once, after every `sample` has returned or was cancelled."""


class SamplingPolicy(Protocol):
    """The part of a policy that the rollout needs."""

    conversation: Conversation

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> Session | AsyncSession:
        """Start sampling the turns of a rollout; `on_tokens` reads along and may stop a turn."""


class BatchingPolicy(Protocol):
    """A policy that samples batches here."""

    conversation: Conversation

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> Session:
        """See `SamplingPolicy`."""


class Executor(Protocol):
    """The part of an executor that the rollout needs, such as `sandbox.ToolExecutor`."""

    def execute(self, requests: Sequence[ToolRequest], tell: Tell | None = None) -> list[Observation]:
        """Run requests; answers in their order, and code that fails never raises.

        `tell` may get index and observation of some while others run.
        """

    def execute_here(self, requests: Sequence[ToolRequest]) -> Sequence[Observation | None]:
        """Run those that take no worker, in any thread; None for the others."""


def append_reply(
    trajectory: Trajectory, completion: Completion, conversation: Conversation, seconds: float, is_last: bool
) -> None:
    """Append a sampled turn that took `seconds`, read; it may end the trajectory, and does if it `is_last`."""
    trajectory.tokens.append(completion.ids, is_trained=True, logprobs=completion.logprobs)
    text = conversation.decode_reply(completion.ids)
    reply = conversation.read_reply(text, trajectory.images)
    trajectory.turns.append(Turn(text, reply, wall_s=seconds, versions=completion.versions))
    trajectory.stop_reason = end_after(reply, completion.is_finished, is_last)


def end_after(reply: Reply, is_finished: bool, is_last: bool) -> StopReason | None:
    """Why a trajectory ends with this reply, which may be the last one allowed; None if it continues."""
    if not is_finished:
        return StopReason.MAX_TOKENS
    if reply.answer is not None:
        return StopReason.ANSWERED
    if reply.is_silent:
        return StopReason.NO_ACTION
    return StopReason.MAX_TURNS if is_last else None


def observe(active: Sequence[Trajectory], executor: Executor) -> list[Observation]:
    """Execute the last turn's calls in one batch; a malformed call gets its fault as the observation."""
    started = time.perf_counter()
    observations = []
    requests = []
    callers = []
    for index, trajectory in enumerate(active):
        reply = trajectory.turns[-1].reply
        observations.append(refusal(reply))
        call = runnable_call(reply)
        if call is not None:
            requests.append(request_of(trajectory, call))
            callers.append(index)
    for index, observation in zip(callers, executor.execute(requests), strict=True):
        observations[index] = observation
    seconds = time.perf_counter() - started
    for trajectory, observation in zip(active, observations, strict=True):
        trajectory.turns[-1].observation, trajectory.turns[-1].tools_s = observation, seconds
    return observations


def runnable_call(reply: Reply) -> ToolCall | None:
    """The call that the executor can be asked to run; None if the reply has none, or a malformed one."""
    return None if reply.call is None or reply.call.fault is not None else reply.call


def refusal(reply: Reply) -> Observation:
    """The observation of a turn in which nothing can be executed: it shows the fault."""
    if reply.call is not None:
        return Observation("error", text=reply.call.fault or "")
    return Observation("rejected", text=reply.fault or "")


def request_of(trajectory: Trajectory, call: ToolCall) -> ToolRequest:
    """A call on the images of its trajectory."""
    images = [viewed.image for viewed in trajectory.images]
    return ToolRequest(call.code, images, call.image_index, trajectory.episode, call.model)


def append_observation(trajectory: Trajectory, observation: Observation, conversation: Conversation) -> bool:
    """Show the policy the result of its call; False if it did not fit, which ends the trajectory before it."""
    turn = len(trajectory.turns) - 1
    call = trajectory.turns[turn].reply.call
    viewed = None
    if call is not None and observation.image is not None:
        viewed = view_result(trajectory, call, observation, turn)
    if not conversation.append_observation(trajectory.tokens, observation.text, viewed):
        trajectory.stop_reason = StopReason.CONTEXT_FULL
        return False
    trajectory.images += [] if viewed is None else [viewed]
    return True
