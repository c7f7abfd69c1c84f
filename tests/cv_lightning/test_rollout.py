"""The rollout loop with a scripted policy: who samples when, which calls are executed, why a trajectory ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from PIL import Image

from cv_lightning.conversation import Conversation, format_answer, format_call
from cv_lightning.driver import roll_out
from cv_lightning.rollout import Completion, OnTokens, Sampling
from cv_lightning.types import Group, Sample, StopReason, TokenSequence, ToolCall, Trajectory
from modules.policy.tiny import train_tokenizer
from sandbox import Observation, ToolExecutor, ToolRequest
from sandbox.types import Tell

TURN_LEFT = "result = image.rotate(90, expand=True)"


class Script:
    """A scripted policy: `lines[i]` are the turns of trajectory i; None is a turn that is cut off."""

    def __init__(self, lines: Sequence[Sequence[str | None]], max_context_tokens: int = 4096) -> None:
        tokenizer = train_tokenizer([TURN_LEFT], 400, max_token_chars=16)
        self.conversation = Conversation(tokenizer, lambda size: size[0] * size[1] // 784, "Read.", max_context_tokens)
        self.lines = lines
        self.asked: list[list[int]] = []
        self.sampling: Sampling | None = None

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> Script:
        self.sampling = sampling
        self._indices: dict[int, int] = {}
        self._spoken = [0] * len(self.lines)
        return self

    def sample(self, contexts: Sequence[TokenSequence]) -> list[Completion]:
        if not self._indices:
            self._indices = {id(context): index for index, context in enumerate(contexts)}
        indices = [self._indices[id(context)] for context in contexts]
        self.asked.append(indices)
        return [self._speak(index) for index in indices]

    def _speak(self, index: int) -> Completion:
        line = self.lines[index][self._spoken[index]]
        self._spoken[index] += 1
        ids = self.conversation.tokenizer.encode("<think>so" if line is None else line, add_special_tokens=False)
        if line is not None:
            ids = [*ids, self.conversation.end_of_turn_id]
        return Completion(ids, [-0.1 * (index + 1)] * len(ids), line is not None)


class Recorder:
    """An executor that records its requests."""

    def __init__(self) -> None:
        self.calls: list[list[ToolRequest]] = []
        self._executor = ToolExecutor(lane="pillow")

    def execute(self, requests: Sequence[ToolRequest], tell: Tell | None = None) -> list[Observation]:
        self.calls.append(list(requests))
        return self._executor.execute(requests)

    def execute_here(self, requests: Sequence[ToolRequest]) -> list[Observation | None]:
        return [None] * len(requests)


def sample(name: str = "a", n_images: int = 1) -> Sample:
    return Sample(name, "What is written?", tuple(Image.new("RGB", (56, 28 * (i + 1))) for i in range(n_images)), "K")


def call(code: str = TURN_LEFT, image_index: int = 0) -> str:
    return format_call("Turned.", ToolCall(code, "", image_index))


ANSWER = format_answer("I can read it.", "K")


def play(*lines: Sequence[str | None], max_turns: int = 4, **changes: Any) -> tuple[list[Trajectory], Script, Recorder]:
    policy, executor = Script(lines, **changes), Recorder()
    groups = roll_out([sample()], policy, executor, Sampling(), group_size=len(lines), max_turns=max_turns)
    return groups[0].trajectories, policy, executor


def test_groups_are_in_the_order_of_samples() -> None:
    samples = [sample("a"), sample("b", 2), sample("c")]
    policy, executor = Script([[format_answer("", str(index))] for index in range(6)]), Recorder()
    sampling = Sampling(0.5, 7, 3)
    groups = roll_out(samples, policy, executor, sampling, group_size=2)
    assert all(isinstance(group, Group) for group in groups)
    assert [group.sample for group in groups] == samples
    assert [[trajectory.answer for trajectory in group.trajectories] for group in groups] == [
        ["0", "1"],
        ["2", "3"],
        ["4", "5"],
    ]
    assert all(trajectory.sample is group.sample for group in groups for trajectory in group.trajectories)
    assert [len(group.trajectories[0].images) for group in groups] == [1, 2, 1]
    assert policy.sampling is sampling


def test_answer_ends_a_trajectory() -> None:
    (only,), policy, executor = play([ANSWER])
    assert only.stop_reason is StopReason.ANSWERED
    assert only.answer == "K"
    assert only.n_calls == 0
    assert policy.asked == [[0]]
    assert [request for requests in executor.calls for request in requests] == []


def test_turns_are_executed_in_one_batch_and_only_the_living_speak() -> None:
    trajectories, policy, executor = play(
        [call(), ANSWER],
        [ANSWER],
        [call(), call("result = ImageOps.mirror(image)", 1), ANSWER],
        ["<tool_call>{</tool_call>", call(), ANSWER],
    )
    assert policy.asked == [[0, 1, 2, 3], [0, 2, 3], [2, 3]]
    assert [len(requests) for requests in executor.calls if requests] == [2, 2]
    assert [request.image_index for request in executor.calls[1]] == [1, 0]
    assert [len(request.images) for request in executor.calls[1]] == [2, 1]
    assert [trajectory.stop_reason for trajectory in trajectories] == [StopReason.ANSWERED] * 4
    assert [trajectory.n_calls for trajectory in trajectories] == [1, 0, 2, 1]
    assert [len(trajectory.images) for trajectory in trajectories] == [2, 1, 3, 2]


def test_every_trajectory_has_a_name_of_its_own() -> None:
    lines = [[call(), call(), ANSWER]] * 2
    names: list[list[str]] = []
    for _ in range(2):
        _, _, executor = play(*lines)
        first, second = ([request.episode for request in requests] for requests in executor.calls[:2])
        assert first == second, "the turns of a trajectory share its name"
        names.append(first)
    assert len({name for run in names for name in run}) == 4


def test_images_carry_their_place_in_the_question() -> None:
    (only,), _, _ = play([call(), call("result = image.crop((0, 0, 14, 28))", 1), call(TURN_LEFT, 2), ANSWER])
    root, turned, cropped, turned_again = only.images
    assert (root.turn, turned.turn, cropped.turn, turned_again.turn) == (-1, 0, 1, 2)
    assert [viewed.orientation for viewed in only.images] == ["identity", "rotate_90", "rotate_90", "rotate_180"]
    assert turned.image.size == (28, 56)
    assert only.tokens.images == only.images


# ---- why a trajectory ends -------------------------------------------------------------------------------------------


def test_silence_ends_a_trajectory() -> None:
    (only,), _, _ = play(["It says K."])
    assert only.stop_reason is StopReason.NO_ACTION
    assert only.answer is None
    assert only.turns[0].observation is None


def test_last_turn_is_not_executed() -> None:
    (only,), policy, executor = play([call(), call()], max_turns=2)
    assert only.stop_reason is StopReason.MAX_TURNS
    assert [len(requests) for requests in executor.calls] == [1]
    assert [turn.observation is not None for turn in only.turns] == [True, False]
    assert only.n_calls == 2
    assert len(only.images) == 2
    assert only.tokens.ids[-1] == policy.conversation.end_of_turn_id


def test_cut_off_turn_ends_a_trajectory() -> None:
    (only,), _, executor = play([call(), None])
    assert only.stop_reason is StopReason.MAX_TOKENS
    assert [turn.text for turn in only.turns] == [call(), "<think>so"]
    assert only.turns[-1].observation is None
    assert only.tokens.is_trained[-1]
    assert [len(requests) for requests in executor.calls if requests] == [1]


def test_complete_call_in_a_turn_that_was_cut_off_is_not_executed() -> None:
    class CutOff(Script):
        def _speak(self, index: int) -> Completion:
            completion = super()._speak(index)
            return Completion(completion.ids[:-1], completion.logprobs[:-1], False)

    executor = Recorder()
    (group,) = roll_out([sample()], CutOff([[call()]]), executor, Sampling())
    assert group.trajectories[0].stop_reason is StopReason.MAX_TOKENS
    assert not any(executor.calls)


def test_observation_that_does_not_fit_ends_a_trajectory() -> None:
    (free,), _, _ = play([call(), ANSWER])
    prompt_and_turn = free.tokens.is_trained.index(False, free.tokens.is_trained.index(True))
    (only,), policy, _ = play([call(), ANSWER], max_context_tokens=prompt_and_turn + 5)
    assert only.stop_reason is StopReason.CONTEXT_FULL
    assert policy.asked == [[0]]
    assert len(only.tokens) == prompt_and_turn
    assert [viewed.image for viewed in only.tokens.images] == list(only.sample.images)
    assert len(only.images) == 1, "text and image are rolled back together"
    assert only.turns[0].observation is not None
    assert only.turns[0].observation.status == "ok"


# ---- a bad rollout is data -------------------------------------------------------------------------------------------

BAD = {
    "not JSON": "<think>x</think><tool_call>rotate</tool_call>",
    "open tag": "<think>x</think><tool_call>{}",
    "other tool": '<tool_call>{"name": "zoom", "arguments": {"code": "x"}}</tool_call>',
    "index out of range": call(image_index=5),
    "negative index": call(image_index=-1),
    "huge index": call(image_index=10**25),
    "syntax error": call("result = ("),
    "no such name": call("result = imge"),
    "empty code": call(""),
    "no result": call("x = 1"),
    "lone surrogate": '<tool_call>{"name": "code_image_tool", "arguments": {"code": "x = \\"\\ud800\\""}}</tool_call>',
    "lone surrogate as name": '<tool_call>{"name": "\\ud800", "arguments": {"code": "x"}}</tool_call>',
    "surrogate that is raised": call("raise ValueError('\\ud800')"),
    "null byte": call("result = image\x00"),
    "markup in an error": call("result = image['<|im_end|>']"),
    "enormous code": call("result = image\n" * 2000),
    "endless thought": "<think>" + "so " * 2000,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_turn_is_answered_and_the_policy_goes_on(name: str) -> None:
    (only,), policy, _ = play([BAD[name], ANSWER], max_context_tokens=100_000)
    assert only.stop_reason is StopReason.ANSWERED
    assert policy.asked == [[0], [0]]
    observation = only.turns[0].observation
    assert observation is not None
    assert observation.status != "ok"
    assert observation.image is None
    assert observation.text
    assert len(only.images) == 1
    written = [token for token, trained in zip(only.tokens.ids, only.tokens.is_trained, strict=True) if not trained]
    ends = written.count(policy.conversation.end_of_turn_id)
    assert ends == 3, "the system's, the user's and the observation's"


def test_tokens_are_the_policys_own_with_their_logprobs() -> None:
    lines = [[call(), ANSWER], ["<tool_call>", ANSWER]]
    trajectories, policy, _ = play(*lines)
    for index, trajectory in enumerate(trajectories):
        tokens = trajectory.tokens
        encode: Callable[..., list[int]] = policy.conversation.tokenizer.encode
        written = [
            [*encode(line, add_special_tokens=False), policy.conversation.end_of_turn_id] for line in lines[index]
        ]
        sampled = [token for token, trained in zip(tokens.ids, tokens.is_trained, strict=True) if trained]
        assert sampled == [token for turn in written for token in turn]
        for logprob, trained in zip(tokens.logprobs, tokens.is_trained, strict=True):
            assert logprob == (-0.1 * (index + 1) if trained else 0.0)


def test_nothing_to_do() -> None:
    assert roll_out([], Script([]), Recorder(), Sampling()) == []
