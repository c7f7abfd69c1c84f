"""The reward's formula against a table worked out by hand, for both presets, and term by term."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.errors import ConfigError
from cv_lightning.rewards import LONGEST_ANSWER, TERMS, RewardConfig, overlong_penalty, score
from cv_lightning.types import Group, RewardBreakdown, Sample, TokenSequence, Trajectory
from sandbox import ToolExecutor, orient

Play = Callable[..., Trajectory]


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


UPRIGHT = Image.fromarray(PIXELS)


OUTCOME_ONLY = RewardConfig(format=0, mandatory=0, necessity=0, exact=0, emergence=0, usage=0, spurious=0)


ROT270 = "result = image.rotate(270, expand=True)"


ROT90 = "result = image.rotate(90, expand=True)"


FLIP = "result = image.transpose(Image.FLIP_LEFT_RIGHT)"


CONTRAST = "result = ImageEnhance.Contrast(image).enhance(1.8)"


NOTHING = "result = image"


BROKEN = "result = image.rotate(90, expand=True).nothing()"


def sample(*transforms: str, box: tuple[float, float, float, float] | None = None, answer: str = "FJ7") -> Sample:
    image = UPRIGHT
    for name in transforms:
        image = image if name == "crop" else orient(image, name)
    return Sample("s", "What does it say?", (image,), answer, transforms=transforms, box=box)


def reward(trajectories: Trajectory | list[Trajectory], config: RewardConfig | None = None) -> RewardBreakdown:
    """The breakdown of the first trajectory of a group."""
    trajectories = trajectories if isinstance(trajectories, list) else [trajectories]
    return score(Group(trajectories[0].sample, trajectories), config or RewardConfig())[0]


# fmt: off
#: (transforms, box, codes [or (code, image_index)], answer) ->
#: weighted (accuracy, format, mandatory, exact, emergence, usage, spurious).
#: None for exact: a crop that misses its box is exact under "published", but not under "effects".
BOTH = [
    # upright, answered at once
    ((), None, [], "FJ7", (1, .1, 0, 0, 0, 0, 0)),
    ((), None, [], "FJ8", (0, .1, 0, 0, 0, 0, 0)),
    # upright, turned for nothing
    ((), None, [ROT90], "FJ7", (1, .1, 0, 0, 0, 0, -.5)),
    ((), None, [ROT90, ROT270], "FJ7", (1, .1, 0, 0, 0, 0, -1)),
    # turned back, or not
    (("rotate_90",), None, [ROT270], "FJ7", (1, .1, 1, .1, 0, 0, 0)),
    (("rotate_90",), None, [ROT270], "FJ8", (0, .1, 1, .1, 0, 0, 0)),
    (("rotate_90",), None, [], "FJ7", (1, .1, 0, 0, 0, 0, 0)),
    (("rotate_90",), None, [ROT90], "FJ7", (1, .1, 0, 0, 0, 0, 0)),
    (("flip_horizontal",), None, [FLIP], "FJ7", (1, .1, 1, .1, 0, 0, 0)),
    # a third call costs one, a fourth two: max(2, |E|) are free
    ((), None, [NOTHING] * 2, "FJ7", (1, .1, 0, 0, 0, 0, 0)),
    ((), None, [NOTHING] * 3, "FJ7", (1, .1, 0, 0, 0, -.5, 0)),
    ((), None, [NOTHING] * 4, "FJ7", (1, .1, 0, 0, 0, -1, 0)),
    (("rotate_90", "flip_horizontal", "crop"), (0, 0, 1, 1), [NOTHING] * 3, "FJ8", (0, .1, 0, 0, 0, 0, 0)),
    (("rotate_90", "flip_horizontal", "crop"), (0, 0, 1, 1), [NOTHING] * 4, "FJ8", (0, .1, 0, 0, 0, -.5, 0)),
    # a tool outside the core pays when right
    ((), None, [CONTRAST], "FJ7", (1, .1, 0, 0, .2, 0, 0)),
    ((), None, [CONTRAST], "FJ8", (0, .1, 0, 0, 0, 0, 0)),
    ((), None, [CONTRAST, CONTRAST], "FJ7", (1, .1, 0, 0, .2, 0, 0)),
    (("rotate_90",), None, [ROT270, (CONTRAST, 1)], "FJ7", (1, .1, 1, .1, .2, 0, 0)),
    # crops: the box is (10, 10, 30, 30)
    (("crop",), (10, 10, 30, 30), ["result = image.crop((10, 10, 30, 30))"], "FJ7", (1, .1, 1, .1, 0, 0, 0)),
    (("crop",), (10, 10, 30, 30), ["result = image.crop((10, 10, 30, 20))"], "FJ7", (1, .1, .5, .1, 0, 0, 0)),
    (("crop",), (10, 10, 30, 30), ["result = image.crop((10, 10, 14, 15))"], "FJ7", (.05, .1, .05, None, 0, 0, 0)),
    (("crop",), (10, 10, 30, 30), ["result = image.crop((40, 10, 60, 30))"], "FJ7", (0, .1, 0, None, 0, 0, 0)),
    (("crop",), (10, 10, 30, 30), [], "FJ7", (0, .1, 0, 0, 0, 0, 0)),
    # the best of several
    (("crop",), (10, 10, 30, 30),
     ["result = image.crop((40, 10, 60, 30))", "result = image.crop((10, 10, 30, 20))"], "FJ7",
     (1, .1, .5, .1, 0, 0, 0)),
]


@pytest.mark.parametrize("preset", ["published", "effects"])
@pytest.mark.parametrize(("transforms", "box", "codes", "answer", "expected"), BOTH)
def test_the_formula_by_hand(
    play: Play, run: Any, say: Any, preset: Any, transforms: Any, box: Any, codes: Any, answer: str, expected: Any
) -> None:
    calls = [(code, 0) if isinstance(code, str) else code for code in codes]
    trajectory = play(sample(*transforms, box=box), *[run(*code) for code in calls], say(answer))
    plain_and_wrong = play(trajectory.sample, say("FJ8"))
    terms = reward([trajectory, plain_and_wrong], RewardConfig(preset=preset)).terms
    accuracy, form, mandatory, exact, emergence, usage, spurious = expected
    exact = {"published": 0.1, "effects": 0.0}[preset] if exact is None else exact
    assert terms == pytest.approx(
        {
            "accuracy": accuracy,
            "format": form,
            "mandatory": mandatory,
            "necessity": 0,
            "exact": exact,
            "emergence": emergence,
            "interaction": 0,
            "usage": usage,
            "spurious": spurious,
            "overlong": 0,
        }
    )


@pytest.mark.parametrize(
    ("answers", "of_solved"),
    [(("FJ8", "FJ8"), 0.0), (("FJ8", "FJ7"), -0.9), (("FJ7", "FJ8"), -0.9)],
    ids=["nobody is right", "another rollout is right", "it is right"],
)
def test_format_and_penalties_may_need_a_right_answer(
    play: Play, run: Any, say: Any, answers: tuple[str, str], of_solved: float
) -> None:
    """A needless turn and a third call cost half each, and format earns a tenth."""
    needless = play(sample(), *(run(code) for code in (ROT90, NOTHING, NOTHING)), say(answers[0]))
    group = [needless, play(needless.sample, say(answers[1]))]
    for groups, expected in (("all_groups", -0.9), ("solved_groups", of_solved)):
        terms = reward(group, RewardConfig(manner_in=groups)).terms  # type: ignore[arg-type]
        assert terms["format"] + terms["usage"] + terms["spurious"] == pytest.approx(expected)
    with pytest.raises(ConfigError, match=r"manner_in.*all_groups, solved_groups.*'none'"):
        RewardConfig(manner_in="none")  # type: ignore[arg-type]



def test_terms_are_always_all_there_and_sum_to_the_total(play: Play, say: Any) -> None:
    breakdown = reward(play(sample("rotate_90"), say("FJ7")))
    assert tuple(breakdown.terms) == TERMS
    assert breakdown.total == pytest.approx(1.1)
    assert breakdown.is_right is True


def test_an_empty_trajectory_earns_nothing() -> None:
    for preset in ("published", "effects"):
        breakdown = reward(Trajectory(sample("rotate_90", "crop")), RewardConfig(preset=preset))
        assert breakdown.total == 0
        assert breakdown.is_right is False


def test_two_transforms_are_undone_in_two_calls_or_in_one(play: Play, run: Any, say: Any) -> None:
    turned = sample("rotate_90", "flip_horizontal")
    step_by_step = play(turned, run(FLIP), run(ROT270, image_index=1), say("FJ7"))
    at_once = play(turned, run("result = ImageOps.mirror(image).rotate(270, expand=True)"), say("FJ7"))
    for trajectory in (step_by_step, at_once):
        terms = reward(trajectory).terms
        assert (terms["mandatory"], terms["exact"]) == (1, pytest.approx(0.1))


def test_half_of_two_orientations_pays_by_claims_but_not_by_effects(play: Play, run: Any, say: Any) -> None:
    half = play(sample("rotate_90", "flip_horizontal"), run(FLIP), say("FJ7"))
    assert reward(half).terms["mandatory"] == 0
    assert reward(half, RewardConfig(preset="published")).terms["mandatory"] == 0.5


def test_the_wrong_order_of_two_orientations_does_not_restore(play: Play, run: Any, say: Any) -> None:
    wrong = play(sample("rotate_90", "flip_horizontal"), run(ROT270), run(FLIP, image_index=1), say("FJ7"))
    assert reward(wrong).terms["mandatory"] == 0
    assert reward(wrong).terms["exact"] == 0


def test_orientation_and_crop_share_the_mandatory_part(play: Play, run: Any, say: Any) -> None:
    turned = sample("rotate_90", "crop", box=(10, 10, 20, 30))  # in pixels of the turned image, 40 wide and 60 high
    only_turned = play(turned, run(ROT270), say("FJ7"))
    assert reward(only_turned).terms["mandatory"] == 0.5
    assert reward(only_turned).terms["accuracy"] == 1  # 0.5 does not count as poor reasoning
    # The box (10, 10, 20, 30) of the turned image lies at (30, 10, 50, 20) of the upright one.
    both = play(turned, run(ROT270), run("result = image.crop((30, 10, 50, 20))", image_index=1), say("FJ7"))
    assert reward(both).terms["mandatory"] == 1
    assert reward(both).terms["exact"] == pytest.approx(0.1)


def test_a_crop_without_a_box_is_neither_demanded_nor_paid(play: Play, run: Any, say: Any) -> None:
    without_box = play(sample("crop"), say("FJ7"))
    assert reward(without_box).terms["accuracy"] == 1
    cropped = play(sample("crop"), run("result = image.crop((0, 0, 9, 9))"), say("FJ7"))
    assert reward(cropped).total == reward(without_box).total


def test_iou_follows_the_frames_of_all_turns(play: Play, run: Any, say: Any) -> None:
    boxed = sample("crop", box=(20, 10, 40, 30))
    # Crop to (10, 5, 60, 40), double the size, crop to (20, 10, 60, 50): (20, 10, 40, 30) in the question's image.
    zoomed = play(
        boxed,
        run("result = image.crop((10, 5, 60, 40)).resize((100, 70))"),
        run("result = image.crop((20, 10, 60, 50))", image_index=1),
        say("FJ7"),
    )
    assert reward(zoomed).terms["mandatory"] == 1
    assert reward(zoomed, RewardConfig(preset="published")).terms["mandatory"] < 0.5  # compares boxes of two frames


def test_a_crop_of_another_image_of_the_question_is_no_crop_of_the_first(play: Play, run: Any, say: Any) -> None:
    two = Sample("s", "?", (UPRIGHT, UPRIGHT), "FJ7", transforms=("crop",), box=(10, 10, 30, 30))
    crop = "result = image.crop((10, 10, 30, 30))"
    assert reward(play(two, run(crop, image_index=1), say("FJ7"))).terms["mandatory"] == 0
    assert reward(play(two, run(crop, image_index=0), say("FJ7"))).terms["mandatory"] == 1


def test_turning_another_image_of_the_question_restores_nothing(play: Play, run: Any, say: Any) -> None:
    two = Sample("s", "?", (UPRIGHT, UPRIGHT), "FJ7", transforms=("rotate_90",))
    assert reward(play(two, run(ROT270, image_index=1), say("FJ7"))).terms["mandatory"] == 0


def test_color_and_crop_after_restoring_keep_it_restored(play: Play, run: Any, say: Any) -> None:
    trajectory = play(
        sample("rotate_90"), run(ROT270), run("result = image.crop((5, 5, 50, 30))", image_index=1), say("FJ7")
    )
    assert reward(trajectory).terms["mandatory"] == 1
    assert reward(trajectory).terms["exact"] == 0  # the crop was not asked for


@pytest.mark.parametrize("preset", ["published", "effects"])
def test_necessity_by_hand(play: Play, run: Any, say: Any, preset: Any) -> None:
    turned = sample("rotate_90")
    with_tool = [play(turned, run(ROT270), say(answer)) for answer in ("FJ7", "FJ7", "FJ8")]
    without = [play(turned, say(answer)) for answer in ("FJ7", "FJ8", "FJ8", "FJ8")]
    config = RewardConfig(preset=preset, necessity=2.0)
    terms = [b.terms["necessity"] for b in score(Group(turned, with_tool + without), config)]
    gain = 2.0 * (2 / 3 - 1 / 4)
    assert terms == pytest.approx([gain, gain, 0, 0, 0, 0, 0])


def test_necessity_is_nothing_where_two_were_right_without_or_tools_did_worse(play: Play, run: Any, say: Any) -> None:
    turned = sample("rotate_90")
    right_with, wrong_with = (play(turned, run(ROT270), say(answer)) for answer in ("FJ7", "FJ8"))
    right_without, wrong_without = (play(turned, say(answer)) for answer in ("FJ7", "FJ8"))
    config = RewardConfig(necessity=1.0)
    two_right = [right_with, right_without, right_without, wrong_without, wrong_without]
    assert reward(two_right, config).terms["necessity"] == 0
    worse = [right_with, wrong_with, wrong_with, right_without]
    assert reward(worse, config).terms["necessity"] == 0
    alone = [right_with, wrong_with]
    assert reward(alone, config).terms["necessity"] == 0  # no trajectory without tools to compare with


def test_emergence_is_paid_where_it_made_the_difference(play: Play, run: Any, say: Any) -> None:
    turned = sample("rotate_90")
    decorated = play(turned, run(ROT270 + "\nresult = ImageOps.autocontrast(result, cutoff=10)"), say("FJ7"))
    plain_right, plain_wrong = (play(turned, run(ROT270), say(answer)) for answer in ("FJ7", "FJ8"))
    assert reward([decorated, plain_wrong, plain_wrong]).terms["emergence"] == pytest.approx(0.2)
    assert reward([decorated, plain_wrong, plain_right]).terms["emergence"] == 0
    assert reward([decorated, decorated, decorated]).terms["emergence"] == 0
    published = RewardConfig(preset="published")
    grayscale = play(turned, run(ROT270), run("result = image.convert('L')", image_index=1), say("FJ7"))
    assert reward([grayscale, plain_right], published).terms["emergence"] == pytest.approx(0.2)


def test_necessity_as_published_is_nothing_for_a_poor_crop(play: Play, run: Any, say: Any) -> None:
    boxed = sample("crop", box=(10, 10, 30, 30))
    poor, good = (
        play(boxed, run(f"result = image.crop({box})"), say("FJ7")) for box in ((40, 0, 60, 9), (10, 10, 30, 30))
    )
    group = Group(boxed, [poor, good, play(boxed, say("FJ8"))])
    config = RewardConfig(preset="published", necessity=1.0)
    assert [b.terms["necessity"] for b in score(group, config)] == [0, 1, 0]


def test_a_failed_judge_is_nan_and_is_left_out_of_necessity(play: Play, run: Any, say: Any) -> None:
    turned = sample("rotate_90")
    right = play(turned, run(ROT270), say("FJ7"))
    unjudged = play(turned, run(ROT270), say("perhaps"))
    wrong = play(turned, say("FJ8"))
    asked = []

    def judge(question: str, prediction: str, truth: str) -> bool | None:
        asked.append((question, prediction, truth))
        return None if prediction == "perhaps" else False

    config = RewardConfig(necessity=1.0)
    breakdowns = score(Group(turned, [right, unjudged, wrong, unjudged]), config, judge)
    assert [b.is_right for b in breakdowns] == [True, None, False, None]
    assert math.isnan(breakdowns[1].total)
    assert breakdowns[0].terms["necessity"] == 1  # 1 of 1 judged with tools, 0 of 1 without
    assert sorted(asked) == [("What does it say?", "FJ8", "FJ7"), ("What does it say?", "perhaps", "FJ7")]


def test_a_judge_can_overrule_the_rules_but_is_not_asked_about_silence(play: Play, say: Any) -> None:
    silent = play(sample(), "<think>hm</think>")
    said = play(sample(), say("F J 7"))
    breakdowns = score(Group(sample(), [silent, said]), RewardConfig(), lambda *case: True)
    assert [b.is_right for b in breakdowns] == [False, True]


def test_an_answer_too_long_for_a_judge_is_wrong_and_no_way_out(play: Play, say: Any) -> None:
    asked = []

    def judge(question: str, prediction: str, truth: str) -> bool | None:
        asked.append(prediction)
        return None  # the judge times out

    longest = "x" * (LONGEST_ANSWER + 3)
    breakdowns = score(
        Group(sample(), [play(sample(), say(answer)) for answer in (longest, longest + "x", "FJ7")]),
        RewardConfig(),
        judge,
    )
    assert [b.is_right for b in breakdowns] == [None, False, True]
    assert [math.isnan(b.total) for b in breakdowns] == [True, False, False]
    assert asked == [longest]


def test_other_right_answers_are_paid_and_a_list_of_everything_is_not(play: Play, say: Any) -> None:
    question = replace(sample(answer="B"), alternatives=("FJ7",), rule="contains")
    answers = [reward(play(question, say(text)), OUTCOME_ONLY).total for text in ("B", "FJ7", "A B FJ7", "A")]
    assert answers == [1, 1, 0, 0]


def test_the_outcome_alone_can_be_paid(play: Play, run: Any, say: Any) -> None:
    codes = [BROKEN, ROT90, CONTRAST, NOTHING]
    boxed = sample("crop", box=(10, 10, 30, 30))
    for truth in (sample(), sample("rotate_90"), boxed):
        assert reward(play(truth, *[run(code) for code in codes], say("FJ7")), OUTCOME_ONLY).total == 1
        assert reward(play(truth, say("FJ8")), OUTCOME_ONLY).total == 0


@given(weights=st.lists(st.floats(0, 3), min_size=len(TERMS), max_size=len(TERMS)))
def test_every_term_scales_with_its_weight(play: Play, run: Any, say: Any, weights: list[float]) -> None:
    trajectory = play(sample("rotate_90"), run(ROT270), run(NOTHING), run(NOTHING), say("FJ7"))
    ones = reward(trajectory, RewardConfig(**dict.fromkeys(TERMS, 1.0))).terms
    scaled = reward(trajectory, RewardConfig(**dict(zip(TERMS, weights, strict=True)))).terms
    assert scaled == pytest.approx({name: ones[name] * w for name, w in zip(TERMS, weights, strict=True)})


@pytest.mark.parametrize("name", TERMS)
def test_a_negative_weight_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"reward\.{name}: expected at least 0, got -1"):
        RewardConfig(**{name: -1})


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ConfigError, match="'paper'"):
        RewardConfig(preset="paper")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("n_tokens", "expected"), [(0, 0), (60, 0), (61, -1 / 40), (70, -0.25), (99, -39 / 40), (100, -1), (101, -1)]
)
def test_the_overlong_penalty_by_hand(n_tokens: int, expected: float) -> None:
    assert overlong_penalty(n_tokens, max_tokens=100, cache_tokens=40) == pytest.approx(expected)


def test_only_sampled_tokens_are_overlong_and_only_if_asked() -> None:
    tokens = TokenSequence(ids=[1] * 90, is_trained=[False] * 20 + [True] * 70, logprobs=[0.0] * 90)
    long = Trajectory(sample(), tokens=tokens)
    asked = RewardConfig(overlong=2.0, overlong_max_tokens=100, overlong_cache_tokens=40)
    assert reward(long, asked).total == reward(long, asked).terms["overlong"] == pytest.approx(-0.5)
    assert reward(long).total == 0


@pytest.mark.parametrize("cache_tokens", [0, 101])
def test_a_cache_beyond_the_longest_reply_is_named(cache_tokens: int) -> None:
    with pytest.raises(ConfigError, match=rf"overlong_cache_tokens: expected .*=100, got {cache_tokens}"):
        RewardConfig(overlong_max_tokens=100, overlong_cache_tokens=cache_tokens)


def test_every_call_that_shows_something_new_is_paid_if_the_answer_is_right(play: Play, run: Any, say: Any) -> None:
    config = RewardConfig(interaction=0.1)
    crops = [run("result = image.crop((5, 5, 50, 35))"), run("result = image.crop((5, 5, 20, 20))", image_index=1)]
    right, wrong = (play(sample(), *crops, say(answer)) for answer in ("FJ7", "FJ8"))
    assert reward(right, config).terms["interaction"] == pytest.approx(0.2)
    assert reward(wrong, config).terms["interaction"] == 0
    # the same again, what was seen before, nothing at all, code that fails, and a call that cannot be read
    idle = [crops[0], run(ROT90), run(ROT270, image_index=4), run(NOTHING), run(BROKEN), "<think>a</think><tool_call>{"]
    assert reward(play(sample(), *crops, *idle, say("FJ7")), config).terms["interaction"] == pytest.approx(0.3)
    published = RewardConfig(preset="published", interaction=0.1)
    failing = play(sample(), run(BROKEN), run(NOTHING), say("FJ7"))
    assert reward(failing, published).terms["interaction"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("texts", "published", "effects"),
    [
        (["<think>a</think><answer>FJ7</answer>"], 1, 1),
        (["  <think>a</think>\n<answer>FJ7</answer>\n"], 1, 1),
        (["<answer>FJ7</answer>"], 0, 0),
        (["I see. <think>a</think><answer>FJ7</answer>"], 0, 0),
        (["<think>a<answer>FJ7</answer>"], 0, 0),
        (["<think>a</think></think><answer>FJ7</answer>"], 0, 0),
        (["<think>a</think><answer>FJ7</answer> and more"], 0, 0),
        (["<think>a</think><answer>FJ7</answer><answer>FJ8</answer>"], 0, 0),
        (["<think>a <answer>FJ7</answer></think>"], 0, 0),
        (["<think>a <answer>FJ7</answer></think><answer>FJ7</answer>"], 0, 1),
        (["<think>a</think>FJ7"], 0, 0),
        (["<think></think><answer>FJ7</answer>"], 1, 0),
        (["<think> \n\u200b...</think>I see it.<answer>FJ7</answer>"], 1, 0),
        (["<think><think></think></think><answer>FJ7</answer>"], 1, 0),
        (["<think>7</think><answer>FJ7</answer>"], 1, 1),
        (["<think>a</think><answer>FJ7</answer></answer>"], 1, 0),
        (["<answer>FJ7<think>a</think></answer>"], 0, 0),
        (["hm", "<think>a</think><answer>FJ7</answer>"], 0, 0),
        (["<think>a</think>hm", "<think>a</think><answer>FJ7</answer>"], 1, 0),
        ([""], 0, 0),
    ],
)
def test_format_by_hand(play: Play, texts: list[str], published: int, effects: int) -> None:
    trajectory = play(sample(), *texts)
    assert reward(trajectory, RewardConfig(preset="published", format=1)).terms["format"] == published
    assert reward(trajectory, RewardConfig(preset="effects", format=1)).terms["format"] == effects


def test_the_published_preset_pays_for_code_that_fails_and_for_descriptions(play: Play, run: Any, say: Any) -> None:
    published = RewardConfig(preset="published")
    boxed = sample("crop", box=(0, 0, 10, 10))
    described = play(boxed, run(NOTHING, description="crop [0, 0, 10, 10]"), say("FJ7"))
    assert reward(described, published).terms["mandatory"] == 1
    failed = play(sample("rotate_270"), run(BROKEN), say("FJ7"))
    assert failed.turns[0].observation is not None
    assert failed.turns[0].observation.status != "ok"
    assert reward(failed, published).terms["mandatory"] == 1


#: Codes of one trajectory each: effects that an operation of a "close" lane could hide or invent.
CLOSE = [
    ["result = image.rotate(270, expand=True).filter(ImageFilter.GaussianBlur(2))"],
    ["result = image.rotate(15, Image.BILINEAR)", "result = ImageEnhance.Contrast(image).enhance(3)"],
    ["result = image.resize((90, 50)).crop((10, 10, 40, 30))", ROT270],
    ["result = ImageOps.invert(ImageOps.invert(image.filter(ImageFilter.DETAIL)))"],
    ["result = Image.fromarray(cv2.cvtColor(cv2.cvtColor(np.array(image), cv2.COLOR_RGB2LAB), cv2.COLOR_LAB2RGB))"],
    ["result = Image.fromarray(cv2.Canny(np.array(image), 50, 150))"],
]


@pytest.mark.parametrize("exactness", ["exact", "close"])
def test_rewards_do_not_depend_on_the_lane(play: Play, run: Any, say: Any, exactness: Any) -> None:
    rows = [(row[0], row[1], row[2], row[3]) for row in BOTH] + [
        (("rotate_90",), None, codes, "FJ7") for codes in CLOSE
    ]
    places = set()
    with ToolExecutor(lane="kornia", device="cpu", exactness=exactness) as executor:
        for transforms, box, codes, answer in rows:
            question = sample(*transforms, box=box)
            texts = [*(run(*((code, 0) if isinstance(code, str) else code)) for code in codes), say(answer)]
            tensors, pillow = play(question, *texts, executor=executor), play(question, *texts)
            assert reward(tensors).terms == reward(pillow).terms, codes
            seen = [turn.observation for turn in tensors.turns if turn.observation is not None]
            places |= {(each.lane, each.exactness, each.library.partition(" ")[0]) for each in seen}
    assert {("kornia", exactness, "kornia"), ("pillow", "", "")} <= places
