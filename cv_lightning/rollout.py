"""The parts of a rollout: requests for turns, and the effect of a turn on its trajectory.

The protocols define what `cv_lightning.driver` needs from a policy; `modules.policy.Policy` implements them. A rollout
that goes wrong is data: its `Turn`s and its `StopReason` record the cause. Nothing that a policy writes raises here.
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
    """How tokens are sampled: from the whole distribution, as scoring assumes (no top-k, no top-p, no penalty).

    Attributes:
        temperature: Softmax temperature; 0 takes the most probable token.
        max_new_tokens: Maximum length of a turn.
        seed: Seed of the generator; the same seed and contexts give the same tokens.
        call_temperature: Temperature inside tool calls, above 0; None uses `temperature` there too.
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
        logprobs: Log-probability of each token [T] under the distribution that it was sampled from.
        is_finished: Whether the turn ended by itself.
        versions: Version of the weights that sampled each token [T]; None if these are the policy's own weights.
    """

    ids: list[int]
    logprobs: list[float]
    is_finished: bool
    versions: list[int] | None = None


#: Called after every step with the sampled id of each row, None for a row that has ended. If it returns False, sampling
#: stops and the turns keep the tokens that they have.
OnTokens = Callable[[Sequence[int | None]], bool]


class Session(Protocol):
    """Samples the turns of a batch of conversations together, in the caller's thread."""

    def sample(self, contexts: Sequence[TokenSequence]) -> list[Completion]:
        """Sample one turn for each context; later calls pass some of the same contexts, extended."""


@runtime_checkable
class AsyncSession(Protocol):
    """Samples each turn as soon as it is requested, as an engine does.

    A session serves one rollout, in one event loop. Its first `sample` creates whatever belongs to the loop (an HTTP
    client). `on_tokens` gets one row.
    """

    async def sample(self, context: TokenSequence) -> Completion:
        """Sample one turn of one trajectory.

        Trajectories call concurrently. Their first calls arrive in the order of the trajectories. Later calls pass the
        same object, extended by the sampled tokens and the observation, so a session may cache data of a context or of
        a `ViewedImage` by identity. A cancelled call must end at once.

        Raises:
            EngineError: The engine cannot continue; the error ends the whole rollout. Retry transient failures first.
        """

    async def close(self) -> None:
        """End the session within seconds; called once, after every `sample` has returned or was cancelled."""


class SamplingPolicy(Protocol):
    """The part of a policy that a rollout needs."""

    conversation: Conversation

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> Session | AsyncSession:
        """Start sampling the turns of a rollout; `on_tokens` receives the tokens and may stop a turn."""


class BatchingPolicy(Protocol):
    """A policy that samples batches in this process."""

    conversation: Conversation

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> Session:
        """See `SamplingPolicy`."""


class Executor(Protocol):
    """The part of an executor that a rollout needs; `sandbox.ToolExecutor` is an example."""

    def execute(self, requests: Sequence[ToolRequest], tell: Tell | None = None) -> list[Observation]:
        """Run requests and return the observations in the same order; code that fails never raises here.

        `tell` may get the index and the observation of some requests while others still run.
        """

    def execute_here(self, requests: Sequence[ToolRequest]) -> Sequence[Observation | None]:
        """Run the requests that need no worker, in any thread; None for the others."""


def append_reply(
    trajectory: Trajectory, completion: Completion, conversation: Conversation, seconds: float, is_last: bool
) -> None:
    """Parse and append a sampled turn that took `seconds`; it may end the trajectory, and always does if `is_last`."""
    trajectory.tokens.append(completion.ids, is_trained=True, logprobs=completion.logprobs)
    text = conversation.decode_reply(completion.ids)
    reply = conversation.read_reply(text, trajectory.images)
    trajectory.turns.append(Turn(text, reply, wall_s=seconds, versions=completion.versions))
    trajectory.stop_reason = end_after(reply, completion.is_finished, is_last)


def end_after(reply: Reply, is_finished: bool, is_last: bool) -> StopReason | None:
    """Why a trajectory ends with this reply; None if it continues. `is_last` marks the last allowed turn."""
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
    """The call that the executor can run; None if the reply has no call or a malformed one."""
    return None if reply.call is None or reply.call.fault is not None else reply.call


def refusal(reply: Reply) -> Observation:
    """The observation of a turn in which nothing can be executed: it shows the fault."""
    if reply.call is not None:
        return Observation("error", text=reply.call.fault or "")
    return Observation("rejected", text=reply.fault or "")


def request_of(trajectory: Trajectory, call: ToolCall) -> ToolRequest:
    """The request that runs a call on the images of its trajectory."""
    images = [viewed.image for viewed in trajectory.images]
    return ToolRequest(call.code, images, call.image_index, trajectory.episode, call.model)


def append_observation(trajectory: Trajectory, observation: Observation, conversation: Conversation) -> bool:
    """Show the policy the result of its call; if it does not fit, end the trajectory without it and return False."""
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
