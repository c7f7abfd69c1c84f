"""The multi-turn loop: a policy speaks, the executor answers, until every trajectory has ended.

What a policy is to this loop stands in the protocols; the local backbone (`modules.policy.Policy`) is one. Whatever
goes wrong in a rollout is recorded in its `Turn`s and its `StopReason`; nothing a policy writes raises here.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cv_lightning.conversation import Conversation, parse_reply
from cv_lightning.frames import view_question, view_result
from cv_lightning.types import Group, Reply, Sample, StopReason, TokenSequence, ToolCall, Trajectory, Turn
from sandbox import Observation, ToolRequest


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: from the whole distribution, as scoring assumes (no top-k, no top-p, no penalty).

    Attributes:
        temperature: Softmax temperature; 0 takes the most probable token.
        max_new_tokens: Longest turn.
        seed: Seed of the generator; the same seed and contexts give the same tokens.
    """

    temperature: float = 1.0
    max_new_tokens: int = 1024
    seed: int = 0


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
    """What the rollout needs of a policy."""

    conversation: Conversation

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> Session:
        """Start sampling a batch; `on_tokens` reads along and may stop it."""


class Executor(Protocol):
    """What the rollout needs of an executor: `sandbox.ToolExecutor`."""

    def execute(self, requests: Sequence[ToolRequest]) -> list[Observation]:
        """Run requests; answers in their order, never raises for what code did."""


def rollout(
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
        policy: Who speaks.
        executor: Who runs the code.
        sampling: How tokens are drawn.
        group_size: G, trajectories of each sample.
        max_turns: Assistant turns of a trajectory; at the last one a tool call is not executed any more.

    Returns:
        P groups of G trajectories.
    """
    groups = []
    for sample in samples:
        trajectories = [
            Trajectory(sample, images=view_question(sample), tokens=policy.conversation.start(sample))
            for _ in range(group_size)
        ]
        groups.append(Group(sample, trajectories))
    session = policy.open_session(sampling)
    active = [trajectory for group in groups for trajectory in group.trajectories]
    run = uuid.uuid4().hex  # an executor outlives a rollout: no two trajectories may share the state of an episode
    names = {id(trajectory): f"{run}-{index}" for index, trajectory in enumerate(active)}
    for turn in range(max_turns):
        active = take_turn(active, session, policy.conversation, executor, names, is_last=turn == max_turns - 1)
    return groups


def take_turn(
    active: Sequence[Trajectory],
    session: Session,
    conversation: Conversation,
    executor: Executor,
    names: Mapping[int, str],
    is_last: bool,
) -> list[Trajectory]:
    """Let the policy speak once in every trajectory and run what it calls.

    Args:
        active: Trajectories that go on.
        session: Samples the turns.
        conversation: Writes them as tokens.
        executor: Who runs the code.
        names: `id` of a trajectory -> name of its episode.
        is_last: Whether a call is not executed any more.

    Returns:
        Those that go on after it; the others have their `stop_reason`.
    """
    if not active:
        return []
    started = time.perf_counter()
    completions = session.sample([t.tokens for t in active])
    seconds = time.perf_counter() - started
    for trajectory, completion in zip(active, completions, strict=True):
        _append_reply(trajectory, completion, conversation, seconds)
    active = [trajectory for trajectory in active if trajectory.stop_reason is None]
    if is_last:
        for trajectory in active:
            trajectory.stop_reason = StopReason.MAX_TURNS
        return []
    observations = observe(active, executor, names)
    return [
        trajectory
        for trajectory, observation in zip(active, observations, strict=True)
        if _append_observation(trajectory, observation, conversation)
    ]


def _append_reply(trajectory: Trajectory, completion: Completion, conversation: Conversation, seconds: float) -> None:
    trajectory.tokens.append(completion.ids, is_trained=True, logprobs=completion.logprobs)
    text = conversation.decode_reply(completion.ids)
    reply = parse_reply(text, conversation.toolbox)
    trajectory.turns.append(Turn(text, reply, wall_s=seconds))
    trajectory.stop_reason = end_after(reply, completion.is_finished)


def end_after(reply: Reply, is_finished: bool) -> StopReason | None:
    """Why a trajectory ends with this reply, None where it goes on."""
    if not is_finished:
        return StopReason.MAX_TOKENS
    if reply.answer is not None:
        return StopReason.ANSWERED
    return StopReason.NO_ACTION if reply.is_silent else None


def observe(active: Sequence[Trajectory], executor: Executor, names: Mapping[int, str]) -> list[Observation]:
    """Execute the last turn's calls in one batch; a malformed call gets its fault as the observation.

    Args:
        active: Trajectories that go on.
        executor: Who runs the code.
        names: `id` of a trajectory -> name of its episode.
    """
    observations = []
    requests = []
    callers = []
    for index, trajectory in enumerate(active):
        call = trajectory.turns[-1].reply.call
        observations.append(refusal(trajectory.turns[-1].reply))
        if call is not None and call.fault is None:
            requests.append(request_of(trajectory, call, names[id(trajectory)]))
            callers.append(index)
    for index, observation in zip(callers, executor.execute(requests), strict=True):
        observations[index] = observation
    for trajectory, observation in zip(active, observations, strict=True):
        trajectory.turns[-1].observation = observation
    return observations


def refusal(reply: Reply) -> Observation:
    """What a policy is shown of a turn that nothing can be executed of."""
    if reply.call is not None:
        return Observation("error", text=reply.call.fault or "")
    return Observation("rejected", text=reply.fault or "")


def request_of(trajectory: Trajectory, call: ToolCall, episode: str) -> ToolRequest:
    """A call on the images of its trajectory."""
    images = [viewed.image for viewed in trajectory.images]
    return ToolRequest(call.code, images, call.image_index, episode, call.model)


def _append_observation(trajectory: Trajectory, observation: Observation, conversation: Conversation) -> bool:
    """Show the policy what came of its call; False where it did not fit and the trajectory ends before it."""
    turn = len(trajectory.turns) - 1
    call = trajectory.turns[turn].reply.call
    if not conversation.append_observation(trajectory.tokens, observation.text, observation.image):
        trajectory.stop_reason = StopReason.CONTEXT_FULL
        return False
    if call is not None and observation.image is not None:
        trajectory.images.append(view_result(trajectory, call, observation, turn))
    return True
