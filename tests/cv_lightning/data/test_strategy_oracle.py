"""Episodes of the strategy world: all pass the checks, they show every skill, but never a filter that helps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cv_lightning.construction.checks import Checks
from cv_lightning.construction.episode import construct
from cv_lightning.construction.plan import Planner
from cv_lightning.construction.teacher import OracleTeacher
from cv_lightning.data.strategy_oracle import FILTER_REASON, StrategyEpisodes, crop_boxes, strategy_wordings
from cv_lightning.data.worlds.boards import COLORS
from cv_lightning.data.worlds.strategy import StrategyWorld
from cv_lightning.errors import ConfigError
from cv_lightning.evidence import ORIENTATION_TOOLS, emergent_tools, gather_effects
from cv_lightning.rewards import RewardConfig, score
from cv_lightning.types import Group, Trajectory
from modules.policy.tiny import TinyConfig, train_tokenizer
from sandbox import ToolExecutor

N = 240


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor(lane="pillow") as executor:
        yield executor


@pytest.fixture(scope="module")
def episodes(executor: ToolExecutor) -> list[Trajectory]:
    made = [StrategyEpisodes().episode("train", index, executor) for index in range(N)]
    return [episode for episode in made if episode is not None]


def tools_of(episode: Trajectory) -> list[tuple[str, ...]]:
    """The effects of the trained calls."""
    return [tuple(turn.observation.tools) for turn in episode.turns if turn.observation is not None and turn.is_trained]


def test_every_episode_earns_the_whole_reward_but_for_what_its_mistake_costs(episodes: list[Trajectory]) -> None:
    for episode in episodes:
        assert episode.answer == episode.sample.answer
        (breakdown,) = score(Group(episode.sample, [episode]), RewardConfig())
        needed = bool(episode.sample.required_tools)
        assert breakdown.is_right
        assert breakdown.terms["accuracy"] == 1.0
        assert breakdown.terms["format"] == pytest.approx(0.1)
        assert breakdown.terms["mandatory"] == pytest.approx(float(needed))
        if all(turn.is_trained for turn in episode.turns):
            assert breakdown.terms["exact"] == pytest.approx(0.1 * needed)
            assert breakdown.terms["spurious"] == 0
        if "crop" in episode.sample.required_tools:
            assert gather_effects(episode).best_iou == 1.0


def test_each_family_is_solved_in_its_own_way(episodes: list[Trajectory]) -> None:
    plain = [e for e in episodes if not any(FILTER_REASON in turn.text for turn in e.turns)]
    of_family = {name: [tools_of(e) for e in plain if e.sample.family == name] for name in StrategyWorld().families}
    assert of_family["faded"] == []
    assert all(calls == [] for name in ("read", "decoy", "locate") for calls in of_family[name])
    assert all(len(calls) == 1 and len(calls[0]) == 1 for calls in of_family["turned"])
    assert all(calls == [("crop",)] for calls in of_family["find"])
    assert all(calls == [("crop",), ("crop",)] for calls in of_family["small"])
    lengths = [len(calls) for calls in of_family["find_turned"]]
    assert set(lengths) == {1, 2}
    assert 0.1 < lengths.count(1) / len(lengths) < 0.45
    assert all("crop" in calls[-1] for calls in of_family["find_turned"])
    assert all(of_family[name] for name in of_family if name != "faded")


def test_crops_of_small_shrink(episodes: list[Trajectory]) -> None:
    for episode in episodes:
        if episode.sample.family == "small":
            outer, inner = crop_boxes(episode.sample)
            assert outer[0] <= inner[0] < inner[2] <= outer[2]
            assert outer[1] <= inner[1] < inner[3] <= outer[3]
            assert [image.image.size for image in episode.images[-2:]] == [(252, 252), (63, 63)]


def test_mistakes_are_shown_not_trained_and_then_corrected(executor: ToolExecutor) -> None:
    builder = StrategyEpisodes(recovery=1.0, filters=0.0)
    made = [episode for index in range(80) if (episode := builder.episode("train", index, executor)) is not None]
    begun = [episode for episode in made if episode.sample.required_tools]
    statuses, turns, crops = set(), 0, 0
    for episode in begun:
        (place,) = (number for number, turn in enumerate(episode.turns) if not turn.is_trained)
        mistake, retry = episode.turns[place : place + 2]
        assert mistake.observation is not None
        statuses.add(mistake.observation.status)
        assert retry.reply.call is not None
        assert mistake.reply.call is not None
        assert mistake.reply.call.image_index == place
        was_turned = bool(ORIENTATION_TOOLS & set(mistake.observation.tools))
        turns += was_turned
        assert retry.reply.call.image_index == place + was_turned, "a wrong turn is corrected on the image that it made"
        if mistake.observation.tools == ("crop",):
            crops += 1
            assert mistake.reply.call.code != retry.reply.call.code
    assert statuses == {"ok", "error"}
    assert turns > 5
    assert crops > 5
    assert all(not episode.n_calls for episode in made if not episode.sample.required_tools)


def test_filters_are_a_trace_on_images_that_do_not_need_them(executor: ToolExecutor) -> None:
    builder = StrategyEpisodes(source=StrategyWorld(families={"read": 1, "turned": 1, "faded": 1}), filters=0.02)
    made = [builder.episode("train", index, executor) for index in range(600)]
    written = [episode for episode in made if episode is not None]
    with_filter = [e for e in written if any(emergent_tools(tools) for tools in tools_of(e))]
    assert 0 < len(with_filter) / len(written) < 0.04  # 0.02 of about 400
    assert not any(episode.sample.family == "faded" for episode in written)
    assert all(FILTER_REASON in episode.turns[0].text for episode in with_filter)
    assert {episode.n_calls for episode in with_filter} >= {1, 2}, "before an answer, and before another call"
    with pytest.raises(ConfigError, match=r"filters: expected a share in \[0, 0\.02\], got 0\.1"):
        StrategyEpisodes(filters=0.1)


def test_named_tools_solve_the_same_questions(executor: ToolExecutor) -> None:
    builder = StrategyEpisodes(toolbox="named", in_one_call=0.0)
    made = [episode for index in range(60) if (episode := builder.episode("train", index, executor)) is not None]
    assert {call.name for e in made for turn in e.turns if (call := turn.reply.call) and not call.fault} >= {
        "crop",
        "rotate",
        "flip",
    }
    with pytest.raises(ConfigError, match="in_one_call: expected 0 with named tools"):
        StrategyEpisodes(toolbox="named")


def test_base_learns_from_what_needs_no_tool(executor: ToolExecutor) -> None:
    builder = StrategyEpisodes(tools=False)
    made = [episode for index in range(60) if (episode := builder.episode("train", index, executor)) is not None]
    assert {episode.sample.family for episode in made} == {"read", "decoy", "locate"}
    assert not any(episode.n_calls for episode in made)


def test_an_episode_is_a_function_of_its_index(executor: ToolExecutor) -> None:
    builder = StrategyEpisodes()
    for index in range(12):
        texts = [[turn.text for turn in made.turns] if (made := builder.episode("train", index, executor)) else None]
        again = builder.episode("train", index, executor)
        assert texts == [[turn.text for turn in again.turns] if again else None]


def test_data_build_writes_episodes_of_this_world(executor: ToolExecutor, tmp_path: Path) -> None:
    planner = Planner(sources=[StrategyWorld()])
    made = [construct(planner.plan(index), OracleTeacher(), executor, Checks()) for index in range(40)]
    assert sum(one.fault is None for one in made) >= 38
    assert {planner.kind_of(index) for index in range(40)} == set(planner.shares)


def test_a_tokenizer_of_its_words_makes_each_digit_a_token(episodes: list[Trajectory]) -> None:
    config = TinyConfig(wordings="strategy", split_digits=True, max_token_chars=24)
    tokenizer = train_tokenizer(
        strategy_wordings(), config.vocab_size, config.max_token_chars, config.split_digits, COLORS
    )
    assert [tokenizer.decode([token]) for token in tokenizer.encode("(42, 126")] == ["(", "4", "2", ", ", "1", "2", "6"]
    for text in ("Read the {} plate.", "Find the {} plate.", "Too small. {} 21, ", "right of the {} one."):
        for color in COLORS:
            assert color in [tokenizer.decode([token]) for token in tokenizer.encode(text.format(color))]
    lengths = [len(tokenizer.encode(turn.text)) for episode in episodes for turn in episode.turns]
    assert max(lengths) < 72  # max_new_tokens of experiments/paper
