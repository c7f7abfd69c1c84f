"""Episodes are executed, checked to the pixel and deterministic; every spelling has the effect that it names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.conversation import parse_reply
from cv_lightning.data.oracle import BROKEN, KINDS, REASONS, SPELLINGS, EpisodeBuilder, wordings, wrong_turns
from cv_lightning.data.orientation import transform_sample
from cv_lightning.data.source import SampleSource, Split
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.errors import ConfigError
from cv_lightning.evidence import required_orientation
from cv_lightning.rewards import RewardConfig, score
from cv_lightning.types import Group, Sample, StopReason, Trajectory
from sandbox import Observation, ToolExecutor, ToolRequest, inverse, orient

WORLD = PlateWorld(seed=5, width=90, height=60)


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor(lane="pillow") as executor:
        yield executor


def episodes(builder: EpisodeBuilder, executor: ToolExecutor, n: int = 60) -> list[Trajectory]:
    found = [builder.episode("train", index, executor) for index in range(n)]
    kept = [episode for episode in found if episode is not None]
    assert len(kept) == n, "every episode of a plate checks"
    return kept


def content(trajectory: Trajectory | None) -> Any:
    assert trajectory is not None
    turns = [(turn.text, turn.is_trained, turn.observation and turn.observation.text) for turn in trajectory.turns]
    return trajectory.sample.id, turns, [(view.image.tobytes(), view.frame) for view in trajectory.images]


@dataclass(frozen=True)
class Fixed(SampleSource):
    """Plates that always have the same transforms, instead of the requested transforms."""

    always: tuple[str, ...]

    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        sample = WORLD.sample(split, index, ())
        if "crop" in self.always:
            return replace(sample, transforms=("crop",), box=(0, 0, 10, 10))
        return transform_sample(sample, self.always)


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("size", [(84, 84), (90, 60), (31, 57)])
def test_all_spellings_of_a_turn_give_the_same_pixels(name: str, size: tuple[int, int], executor: ToolExecutor) -> None:
    image = PlateWorld(width=size[0], height=size[1], min_font_size=6).sample("train", 1, ()).images[0]
    expected = orient(image, name)
    requests = [ToolRequest(code, [image]) for code in SPELLINGS[name]]
    assert len(requests) == len(set(SPELLINGS[name])) == 4
    for request, observation in zip(requests, executor.execute(requests), strict=True):
        assert observation.status == "ok", request.code
        assert observation.image is not None
        assert (observation.image.size, observation.image.tobytes()) == (expected.size, expected.tobytes()), (
            request.code
        )
        assert observation.orientation == name
        assert observation.tools == (name,)


def test_broken_code_fails_with_words_and_without_an_image(executor: ToolExecutor) -> None:
    image = WORLD.sample("train", 0, ()).images[0]
    for observation in executor.execute([ToolRequest(code, [image]) for code in BROKEN]):
        assert observation.status == "error"
        assert observation.image is None
        assert "Error" in observation.text


@given(index=st.integers(0, 2**40), kind=st.sampled_from(KINDS), seed=st.integers(0, 1000))
def test_every_kept_episode_checks_out(executor: ToolExecutor, index: int, kind: str, seed: int) -> None:
    episode = EpisodeBuilder(WORLD, mix={kind: 1.0}, seed=seed).episode("train", index, executor)
    assert episode is not None
    upright = WORLD.sample("train", index, ()).images[0]
    assert episode.images[-1].image.tobytes() == upright.tobytes()
    assert episode.images[-1].image.size == upright.size
    assert episode.answer == WORLD.sample("train", index, ()).answer
    assert episode.stop_reason is StopReason.ANSWERED
    assert episode.n_calls == {"read": 0, "turn": 1, "recover": 2}[kind]
    assert [turn.is_trained for turn in episode.turns] == [True] * len(episode.turns) if kind != "recover" else True
    for turn in episode.turns:
        assert turn.text.startswith("<think>")
        assert turn.reply == parse_reply(turn.text)
        assert turn.reply.fault is None
        assert (turn.observation is None) == (turn.reply.call is None)


def test_reading_episodes_never_call_a_tool(executor: ToolExecutor) -> None:
    for episode in episodes(EpisodeBuilder(WORLD, mix={"read": 1.0}), executor):
        assert episode.sample.transforms == ()
        assert len(episode.turns) == 1
        assert "tool_call" not in episode.turns[0].text


def test_mistakes_are_shown_and_not_trained(executor: ToolExecutor) -> None:
    recovered = episodes(EpisodeBuilder(WORLD, mix={"recover": 1.0}), executor, 80)
    outcomes = Counter()
    for episode in recovered:
        assert [turn.is_trained for turn in episode.turns] == [False, True, True]
        mistake = episode.turns[0].observation
        assert mistake is not None
        outcomes[mistake.status] += 1
        if mistake.status == "ok":
            assert mistake.orientation != required_orientation(episode.sample)
            assert [view.turn for view in episode.images] == [-1, 0, 1]
        else:
            assert [view.turn for view in episode.images] == [-1, 1]
        assert episode.turns[1].reply.call is not None
        assert episode.turns[1].reply.call.image_index == len(episode.images) - 2, "what was seen last is turned"
    assert min(outcomes["ok"], outcomes["error"]) > 20


@pytest.mark.parametrize(
    ("done", "wrong"),
    [
        ("rotate_90", {"rotate_90", "rotate_180"}),
        ("rotate_270", {"rotate_270", "rotate_180"}),
        ("rotate_180", {"rotate_90", "rotate_270", "flip_horizontal", "flip_vertical"}),
        ("flip_horizontal", {"rotate_180", "flip_vertical"}),
        ("flip_vertical", {"rotate_180", "flip_horizontal"}),
    ],
)
def test_a_wrong_turn_leaves_another_one_to_do(done: str, wrong: set[str]) -> None:
    assert set(wrong_turns(WORLD.sample("train", 0, (done,)))) == wrong


def test_views_lie_where_the_rollout_would_put_them(executor: ToolExecutor) -> None:
    for episode in episodes(EpisodeBuilder(WORLD, mix={"turn": 1.0, "recover": 1.0}), executor, 40):
        question = episode.sample.images[0]
        for view in episode.images:
            assert view.root == 0
            assert view.orientation is not None
            assert view.frame is not None
            assert orient(question, view.orientation).tobytes() == view.image.tobytes()
            assert view.frame.box((0, 0, *view.image.size)) == (0, 0, *question.size)


def test_episodes_earn_what_the_reward_pays_for(executor: ToolExecutor) -> None:
    for episode in episodes(EpisodeBuilder(WORLD, mix={"read": 1.0, "turn": 1.0}), executor, 30):
        (breakdown,) = score(Group(episode.sample, [episode]), RewardConfig())
        assert breakdown.is_right
        assert all(value >= 0 for value in breakdown.terms.values()), breakdown.terms
        assert breakdown.terms["mandatory"] == (1.0 if episode.sample.transforms else 0.0)


@given(index=st.integers(0, 2**40))
def test_an_index_always_gives_the_same_episode(executor: ToolExecutor, index: int) -> None:
    first, second = (EpisodeBuilder(WORLD).episode("train", index, executor) for _ in range(2))
    assert content(first) == content(second)


def test_seeds_and_splits_write_other_episodes(executor: ToolExecutor) -> None:
    plain = [content(e) for e in episodes(EpisodeBuilder(WORLD), executor, 20)]
    other = [content(e) for e in episodes(EpisodeBuilder(WORLD, seed=1), executor, 20)]
    assert plain != other
    held_out = [content(EpisodeBuilder(WORLD).episode("validation", index, executor)) for index in range(20)]
    assert not {repr(c[2]) for c in plain} & {repr(c[2]) for c in held_out}


def test_kinds_and_turns_come_as_often_as_their_weights_say(executor: ToolExecutor) -> None:
    builder = EpisodeBuilder(
        WORLD, mix={"read": 2.0, "turn": 2.0, "recover": 0.0}, turn_weights={"rotate_90": 1.0, "flip_vertical": 3.0}
    )
    counts = Counter(episode.sample.transforms for episode in episodes(builder, executor, 800))
    assert set(counts) == {(), ("rotate_90",), ("flip_vertical",)}
    assert counts[()] == pytest.approx(400, abs=64)  # 4.5 standard deviations
    assert counts["flip_vertical",] == pytest.approx(300, abs=62)


@pytest.mark.parametrize(("n_wordings", "n_spellings"), [(1, 1), (2, 3), (3, 4), (9, 9)])
def test_no_more_wordings_and_spellings_than_asked_for(
    n_wordings: int, n_spellings: int, executor: ToolExecutor
) -> None:
    builder = EpisodeBuilder(WORLD, mix={"turn": 1.0}, n_wordings=n_wordings, n_spellings=n_spellings)
    codes: dict[str, set[str]] = {}
    reasons: dict[str, set[str]] = {}
    for episode in episodes(builder, executor, 300):
        name = episode.sample.transforms[0]
        call = episode.turns[0].reply.call
        assert call is not None
        codes.setdefault(name, set()).add(call.code)
        reasons.setdefault(name, set()).add(episode.turns[0].text.split("</think>")[0].removeprefix("<think>"))
    for name in SPELLINGS:
        assert codes[name] == set(SPELLINGS[inverse(name)][:n_spellings])
        assert reasons[name] == set(REASONS[name][:n_wordings])


def test_wordings_of_different_transforms_differ_from_the_first_word_on() -> None:
    shortest = [texts[0].split()[0] + texts[0].split()[-1] for texts in REASONS.values()]
    assert len(set(shortest)) == len(REASONS)
    every = [text for texts in REASONS.values() for text in texts]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize(
    ("transforms", "n_calls"),
    [
        (("rotate_90", "flip_horizontal"), 2),  # a transposition: no single spelling undoes it
        (("flip_vertical", "rotate_270"), 2),
        (("rotate_90", "rotate_90"), 1),  # the same as rotate_180
        (("flip_horizontal", "flip_vertical"), 1),
        (("flip_horizontal", "flip_horizontal"), 0),
    ],
)
def test_several_transforms_are_undone_in_turn(
    transforms: tuple[str, ...], n_calls: int, executor: ToolExecutor
) -> None:
    episode = EpisodeBuilder(Fixed(transforms), mix={"turn": 1.0}).episode("train", 3, executor)
    assert episode is not None
    assert episode.n_calls == n_calls
    assert [turn.reply.call.image_index for turn in episode.turns if turn.reply.call] == list(range(n_calls))
    assert episode.images[-1].image.tobytes() == WORLD.sample("train", 3, ()).images[0].tobytes()
    recovered = EpisodeBuilder(Fixed(transforms), mix={"recover": 1.0}).episode("train", 3, executor)
    assert recovered is not None or n_calls == 0


def test_reading_a_turned_image_does_not_check(executor: ToolExecutor) -> None:
    assert EpisodeBuilder(Fixed(("rotate_180",)), mix={"read": 1.0}).episode("train", 0, executor) is None


def test_what_needs_a_crop_is_left_out(executor: ToolExecutor) -> None:
    assert EpisodeBuilder(Fixed(("crop",)), mix={"read": 1.0}).episode("train", 0, executor) is None


@dataclass
class Lying:
    """An executor that claims an orientation which its pixels do not have."""

    inner: ToolExecutor
    status: Any = "ok"

    def execute(self, requests: Sequence[ToolRequest]) -> list[Observation]:
        return [
            replace(observation, status=self.status, image=Image.new("RGB", observation.image.size))
            for observation in self.inner.execute(requests)
            if observation.image is not None
        ]


@pytest.mark.parametrize("status", ["ok", "error"])
def test_an_episode_whose_result_is_wrong_is_dropped(status: str, executor: ToolExecutor) -> None:
    builder = EpisodeBuilder(WORLD, mix={"turn": 1.0})
    assert builder.episode("train", 0, Lying(executor, status)) is None


@dataclass
class Vague(Lying):
    """An executor whose pixels are right but whose reported orientation is not."""

    orientation: str | None = None

    def execute(self, requests: Sequence[ToolRequest]) -> list[Observation]:
        return [replace(found, orientation=self.orientation) for found in self.inner.execute(requests)]


@pytest.mark.parametrize("orientation", [None, "identity", "transpose"])
def test_an_episode_whose_views_would_lie_elsewhere_is_dropped(orientation: str | None, executor: ToolExecutor) -> None:
    builder = EpisodeBuilder(WORLD, mix={"turn": 1.0})
    assert builder.episode("train", 0, Vague(executor, orientation=orientation)) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mix": {"reed": 1.0}}, "mix.*read, turn, recover.*reed"),
        ({"mix": {"read": 0.0}}, "not all 0"),
        ({"mix": {"read": 1.0, "turn": -1.0}}, "at least 0"),
        ({"turn_weights": {"none": 1.0}}, "turn_weights.*rotate_90"),
        ({"turn_weights": {}}, "turn_weights"),
        ({"n_wordings": 0}, "n_wordings"),
        ({"n_spellings": 0}, "n_spellings"),
        ({"seed": -3}, "builder.seed"),
    ],
)
def test_a_builder_that_cannot_be_says_why(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EpisodeBuilder(**arguments)


def test_wordings_cover_every_turn_that_is_written(executor: ToolExecutor) -> None:
    """A tokenizer trained on these wordings has seen each piece of an episode."""
    corpus = "\n".join(wordings())
    for episode in episodes(EpisodeBuilder(WORLD), executor, 200):
        for turn in episode.turns:
            if turn.reply.call is not None:
                assert json.dumps(turn.reply.call.code) in corpus
            for sentence in turn.text.split("</think>")[0].removeprefix("<think>").split(". "):
                assert sentence.rstrip(".") in corpus
