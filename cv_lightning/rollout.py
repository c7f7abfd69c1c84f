"""The multi-turn loop: a policy speaks, the executor answers, until every trajectory has ended.

The protocols say what the loop needs of a policy; `modules.policy.Policy` is one. A rollout that goes wrong is
data: its `Turn`s and its `StopReason` record the cause, and nothing that a policy writes raises here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cv_lightning.conversation import Conversation
from cv_lightning.frames import view_result
from cv_lightning.types import Group, Reply, Sample, StopReason, TokenSequence, ToolCall, Trajectory, Turn
from sandbox import Observation, ToolRequest


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
    """A sampled turn: ids with their log-probabilities, and whether it ended by itself."""

    ids: list[int]
    logprobs: list[float]
    is_finished: bool


#: Called after every step with the sampled id of each row, None for a row that has ended. If it returns False, sampling
#: stops and the turns stay as they are.
OnTokens = Callable[[Sequence[int | None]], bool]


class Session(Protocol):
    """Samples the turns of a batch of conversations."""

    def sample(self, contexts: Sequence[TokenSequence]) -> list[Completion]:
        """Sample one turn for each context; later calls take some of the same contexts, grown."""


class SamplingPolicy(Protocol):
    """The part of a policy that the rollout needs."""

    conversation: Conversation

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> Session:
        """Start sampling a batch; `on_tokens` reads along and may stop it."""


class Executor(Protocol):
    """The part of an executor that the rollout needs, such as `sandbox.ToolExecutor`."""

    def execute(self, requests: Sequence[ToolRequest]) -> list[Observation]:
        """Run requests; answers in their order, and code that fails never raises."""


def roll_out(
    samples: Sequence[Sample],
    policy: SamplingPolicy,
    executor: Executor,
    sampling: Sampling,
    group_size: int = 1,
    max_turns: int = 4,
) -> list[Group]:
    """Sample `group_size` trajectories of each sample.

    Args:
        samples: P questions.
        policy: Speaks.
        executor: Runs the code.
        sampling: How tokens are drawn.
        group_size: G, trajectories of each sample.
        max_turns: Assistant turns of a trajectory; a tool call in the last one is not executed.

    Returns:
        P groups of G trajectories.
    """
    groups = [Group(sample, _begin(sample, policy.conversation, group_size)) for sample in samples]
    session = policy.open_session(sampling)
    active = [trajectory for group in groups for trajectory in group.trajectories]
    for turn in range(max_turns):
        active = take_turn(active, session, policy.conversation, executor, is_last=turn == max_turns - 1)
    return groups


def _begin(sample: Sample, conversation: Conversation, group_size: int) -> list[Trajectory]:
    """G trajectories before their first turn; the prompt is written once, and they share its images."""
    prompt = conversation.start(sample)
    return [Trajectory(sample, images=[*prompt.images], tokens=prompt.copy()) for _ in range(group_size)]


def take_turn(
    active: Sequence[Trajectory], session: Session, conversation: Conversation, executor: Executor, is_last: bool
) -> list[Trajectory]:
    """Let the policy speak once in every trajectory and run its calls.

    Args:
        active: Trajectories that have not ended.
        session: Samples the turns.
        conversation: Writes them as tokens.
        executor: Runs the code.
        is_last: Whether this is the last turn, in which no call is executed.

    Returns:
        Those that continue after it; the others have their `stop_reason`.
    """
    if not active:
        return []
    started = time.perf_counter()
    completions = session.sample([t.tokens for t in active])
    seconds = time.perf_counter() - started
    for trajectory, completion in zip(active, completions, strict=True):
        append_reply(trajectory, completion, conversation, seconds)
    active = [trajectory for trajectory in active if trajectory.stop_reason is None]
    if is_last:
        for trajectory in active:
            trajectory.stop_reason = StopReason.MAX_TURNS
        return []
    observations = observe(active, executor)
    return [
        trajectory
        for trajectory, observation in zip(active, observations, strict=True)
        if append_observation(trajectory, observation, conversation)
    ]


def append_reply(trajectory: Trajectory, completion: Completion, conversation: Conversation, seconds: float) -> None:
    """Append a sampled turn that took `seconds`, read; it may end the trajectory."""
    trajectory.tokens.append(completion.ids, is_trained=True, logprobs=completion.logprobs)
    text = conversation.decode_reply(completion.ids)
    reply = conversation.read_reply(text, trajectory.images)
    trajectory.turns.append(Turn(text, reply, wall_s=seconds))
    trajectory.stop_reason = end_after(reply, completion.is_finished)


def end_after(reply: Reply, is_finished: bool) -> StopReason | None:
    """Why a trajectory ends with this reply; None if it continues."""
    if not is_finished:
        return StopReason.MAX_TOKENS
    if reply.answer is not None:
        return StopReason.ANSWERED
    return StopReason.NO_ACTION if reply.is_silent else None


def observe(active: Sequence[Trajectory], executor: Executor) -> list[Observation]:
    """Execute the last turn's calls in one batch; a malformed call gets its fault as the observation."""
    started = time.perf_counter()
    observations = []
    requests = []
    callers = []
    for index, trajectory in enumerate(active):
        call = trajectory.turns[-1].reply.call
        observations.append(refusal(trajectory.turns[-1].reply))
        if call is not None and call.fault is None:
            requests.append(request_of(trajectory, call))
            callers.append(index)
    for index, observation in zip(callers, executor.execute(requests), strict=True):
        observations[index] = observation
    seconds = time.perf_counter() - started
    for trajectory, observation in zip(active, observations, strict=True):
        trajectory.turns[-1].observation, trajectory.turns[-1].tools_s = observation, seconds
    return observations


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
