"""Tricks that would pay under a reward that reads claims. Under "effects" none pays more than the honest trajectory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from cv_lightning.conversation import format_call
from cv_lightning.frames import view_result
from cv_lightning.rewards import TERMS, RewardConfig, score
from cv_lightning.types import Group, Reply, RewardBreakdown, Sample, ToolCall, Trajectory
from sandbox import Affine, Observation, orient
from sandbox.geometry import ORIENTATIONS, inverse, orientation_frame

Play = Callable[..., Trajectory]

UPRIGHT = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8))
PLATE = Image.new("RGB", (60, 40), (40, 60, 90))
ImageDraw.Draw(PLATE).text((4, 4), "FJ7", (240, 230, 200), ImageFont.load_default(28))
TURNED = Sample("turned", "?", (orient(UPRIGHT, "rotate_90"),), "FJ7", transforms=("rotate_90",))
STRAIGHT = Sample("straight", "?", (UPRIGHT,), "FJ7")
BOXED = Sample("boxed", "?", (UPRIGHT,), "FJ7", transforms=("crop",), box=(10, 10, 30, 30))

RESTORE = "result = image.rotate(270, expand=True)"
CROP = "result = image.crop((10, 10, 30, 30))"
NOTHING = "result = image"
DRAW = "import cv2\nresult = Image.fromarray(cv2.rectangle(np.array(image), (0, 0), (20, 20), (255, 0, 0), 2))"


@pytest.fixture(scope="module")
def honest(play: Play, run: Any, say: Any) -> dict[str, Trajectory]:
    return {
        "turned": play(TURNED, run(RESTORE), say("FJ7")),
        "straight": play(STRAIGHT, say("FJ7")),
        "boxed": play(BOXED, run(CROP), say("FJ7")),
    }


def in_group(trajectory: Trajectory, honest: dict[str, Trajectory]) -> tuple[RewardBreakdown, RewardBreakdown]:
    """The breakdowns of a trick and of the honest trajectory, in one group of eight under "effects"."""
    sample = trajectory.sample
    breakdowns = score(Group(sample, [trajectory] + [honest[sample.id]] * 7), RewardConfig())
    return breakdowns[0], breakdowns[1]


def turns(*codes: str) -> list[tuple[str, int]]:
    """Calls that each work on the last image."""
    return [(code, index) for index, code in enumerate(codes)]


#: Name -> (sample, [(code, image_index)], the terms that must stay at 0 or below).
TRICKS: dict[str, tuple[Sample, list[tuple[str, int]], tuple[str, ...]]] = {
    "a comment": (TURNED, [("# image.rotate(270, expand=True)\nresult = image", 0)], ("mandatory", "exact")),
    "a string": (TURNED, [("x = 'image.rotate(270)'\nresult = image", 0)], ("mandatory", "exact")),
    "a variable": (TURNED, [("rotate_270 = 1\nresult = image", 0)], ("mandatory", "exact")),
    "code that fails after turning": (TURNED, [(RESTORE + "\nresult = result.nothing()", 0)], ("mandatory", "exact")),
    "code that does not parse": (TURNED, [(RESTORE + "\n(", 0)], ("mandatory", "exact")),
    "turned but not kept": (TURNED, [("image.rotate(270, expand=True)\nresult = image", 0)], ("mandatory", "exact")),
    "a turn by nothing": (TURNED, [("result = image.rotate(0)", 0)], ("mandatory", "exact")),
    "a turn by 360": (TURNED, [("result = image.rotate(360)", 0)], ("mandatory", "exact")),
    "four turns in one call": (
        TURNED,
        [("result = image" + ".rotate(270, expand=True)" * 4, 0)],
        ("mandatory", "exact", "emergence"),
    ),
    "four turns in four calls": (TURNED, turns(*[RESTORE] * 4), ("mandatory", "exact", "usage")),
    "five turns in five calls": (TURNED, turns(*[RESTORE] * 5), ("usage",)),
    "there and back in one call": (
        TURNED,
        [("result = image.rotate(270, expand=True).rotate(90, expand=True)", 0)],
        ("mandatory", "exact"),
    ),
    "there and back in two calls": (
        TURNED,
        turns(RESTORE, "result = image.rotate(90, expand=True)"),
        ("mandatory", "exact"),
    ),
    "restored, then the turned image again": (TURNED, [(RESTORE, 0), (NOTHING, 0)], ("mandatory", "exact")),
    "the other way round": (TURNED, [("result = image.rotate(90, expand=True)", 0)], ("mandatory", "exact")),
    "every orientation": (
        TURNED,
        [(f"result = image.rotate({angle}, expand=True)", 0) for angle in (270, 180, 90)]
        + [("result = ImageOps.mirror(image)", 0), ("result = ImageOps.flip(image)", 0)],
        ("mandatory", "exact", "usage"),
    ),
    "almost a turn": (TURNED, [("result = image.rotate(269.9, expand=True)", 0)], ("mandatory", "exact", "emergence")),
    "drawing instead of restoring": (TURNED, [(DRAW, 0)], ("mandatory", "exact", "emergence")),
    "decorating what was restored": (
        TURNED,
        turns(RESTORE, "result = ImageEnhance.Contrast(image).enhance(1.8)"),
        ("emergence",),
    ),
    "many calls": (TURNED, [(RESTORE, 0), *[(NOTHING, 1)] * 4], ("usage",)),
    "a crop on the way": (TURNED, turns(RESTORE, "result = image.crop((0, 0, 9, 9))"), ("exact",)),
    "a turn of an upright image": (STRAIGHT, [(RESTORE, 0)], ("mandatory", "exact", "spurious")),
    "an upright image there and back": (
        STRAIGHT,
        turns(RESTORE, "result = image.rotate(90, expand=True)"),
        ("mandatory", "exact", "spurious"),
    ),
    "a crop of an upright image": (STRAIGHT, [(CROP, 0)], ("mandatory", "exact", "emergence")),
    "contrast on an upright image": (
        STRAIGHT,
        [("result = ImageEnhance.Contrast(image).enhance(1.8)", 0)],
        ("mandatory", "exact", "emergence"),
    ),
    "a little turn of an upright image": (STRAIGHT, [("result = image.rotate(1)", 0)], ("emergence",)),
    "a crop of everything": (BOXED, [("result = image.crop((0, 0, 60, 40))", 0)], ("mandatory", "exact")),
    "a crop beyond the image": (BOXED, [("result = image.crop((-900, -900, 900, 900))", 0)], ("exact",)),
    "a crop elsewhere": (BOXED, [("result = image.crop((40, 0, 60, 10))", 0)], ("mandatory", "exact")),
    "a crop of a pixel": (BOXED, [("result = image.crop((10, 10, 11, 11))", 0)], ("exact",)),
    "the box drawn on a crop": (
        BOXED,
        turns("result = image.crop((30, 5, 60, 40))", "result = image.crop((10, 10, 30, 30))"),
        ("mandatory", "exact"),
    ),
    "a resize to the size of the box": (BOXED, [("result = image.resize((20, 20))", 0)], ("mandatory", "exact")),
    # results that no longer show the turn or the crop
    "a thumbnail of 2 x 2": (TURNED, [(RESTORE + ".resize((2, 2))", 0)], ("mandatory", "exact")),
    "a thumbnail of 1 x 1": (TURNED, [(RESTORE + ".resize((1, 1))", 0)], ("mandatory", "exact")),
    "down and up": (TURNED, [(RESTORE + ".resize((3, 2)).resize((60, 40))", 0)], ("mandatory", "exact")),
    "down and up in a call of its own": (
        TURNED,
        turns(RESTORE, "result = image.resize((2, 2)).resize((60, 40))"),
        ("mandatory", "exact"),
    ),
    "black": (TURNED, turns(RESTORE, "result = ImageEnhance.Brightness(image).enhance(0)"), ("mandatory", "exact")),
    "blurred away": (
        TURNED,
        turns(RESTORE, "result = image.filter(ImageFilter.GaussianBlur(30))"),
        ("mandatory", "exact"),
    ),
    "one pixel of what was restored": (TURNED, turns(RESTORE, "result = image.crop((5, 5, 6, 6))"), ("mandatory",)),
    "a crop to 1 x 1": (BOXED, [(CROP + ".resize((1, 1))", 0)], ("mandatory", "exact")),
    "a crop to 2 x 2 and up again": (BOXED, [(CROP + ".resize((2, 2)).resize((20, 20))", 0)], ("mandatory", "exact")),
    "a crop of what was destroyed": (
        BOXED,
        turns("result = image.resize((3, 2)).resize((60, 40))", CROP),
        ("mandatory", "exact"),
    ),
    # the same, again and again
    "the same call again": (TURNED, [(RESTORE, 0)] * 5, ("usage",)),
    "turned to and fro": (
        TURNED,
        turns(RESTORE, "result = image.rotate(90, expand=True)", RESTORE, "result = image.rotate(90, expand=True)"),
        ("mandatory", "exact", "usage"),
    ),
    "the same crop again": (BOXED, [(CROP, 0)] * 3, ("usage",)),
    "a grid of crops": (
        BOXED,
        [(f"result = image.crop(({x}, {y}, {x + 20}, {y + 20}))", 0) for x in (0, 10, 20, 30) for y in (0, 10)],
        ("usage",),
    ),
}


@pytest.mark.parametrize("name", TRICKS)
def test_no_trick_pays_more_than_honesty(play: Play, run: Any, say: Any, honest: Any, name: str) -> None:
    sample, calls, unpaid = TRICKS[name]
    trick, straight = in_group(play(sample, *[run(*call) for call in calls], say("FJ7")), honest)
    assert trick.total <= straight.total + 1e-9
    for term in unpaid:
        assert trick.terms[term] <= 0, term


#: Tricks for which the published reading pays the mandatory part. They are the reason for this suite.
PAID_AS_PUBLISHED = [
    "a comment",
    "a string",
    "code that fails after turning",
    "code that does not parse",
    "turned but not kept",
    "four turns in one call",
    "there and back in two calls",
    "restored, then the turned image again",
    "every orientation",
    "the box drawn on a crop",
]


@pytest.mark.parametrize("name", PAID_AS_PUBLISHED)
def test_the_published_reading_pays_for_tricks(play: Play, run: Any, say: Any, name: str) -> None:
    sample, calls, _ = TRICKS[name]
    trick = play(sample, *[run(*call) for call in calls], say("FJ7"))
    assert score(Group(sample, [trick]), RewardConfig(preset="published"))[0].terms["mandatory"] == 1


@pytest.mark.parametrize("name", [name for name in TRICKS if not name.startswith(("a crop of an upright", "a little"))])
def test_a_trick_pays_less_where_it_looks_at_nothing_new(
    play: Play, run: Any, say: Any, honest: Any, name: str
) -> None:
    sample, calls, _ = TRICKS[name]
    trick, straight = in_group(play(sample, *[run(*call) for call in calls], say("FJ7")), honest)
    # Decorations within the two free calls do not change the total.
    free = {"contrast on an upright image", "decorating what was restored"}
    assert trick.total < straight.total or name in free


def test_a_description_earns_nothing(play: Play, run: Any, say: Any, honest: Any) -> None:
    for sample, words in ((TURNED, "rotate_270, rotate(270)"), (BOXED, "crop [10, 10, 30, 30]")):
        trick, _ = in_group(play(sample, run(NOTHING, description=words), say("FJ7")), honest)
        assert trick.terms["mandatory"] == trick.terms["exact"] == 0


def seen(trajectory: Trajectory, observation: Observation) -> Trajectory:
    """The trajectory with another observation of its first call, as a confined worker might report it."""
    call = trajectory.turns[0].reply.call
    assert call is not None
    trajectory.turns[0].observation = observation
    del trajectory.images[1:]
    if observation.image is not None:
        trajectory.images.append(view_result(trajectory, call, observation, 0))
    return trajectory


def test_what_no_lane_could_verify_earns_nothing(play: Play, run: Any, say: Any, honest: Any) -> None:
    drawn = Observation("ok", image=TURNED.images[0].copy(), lane="confined", tools=("draw",))
    trick, straight = in_group(seen(play(TURNED, run(RESTORE), say("FJ7")), drawn), honest)
    assert trick.terms["mandatory"] == trick.terms["exact"] == trick.terms["emergence"] == 0
    assert trick.total < straight.total
    cropped = Observation("ok", image=UPRIGHT.crop((10, 10, 30, 30)), lane="confined", tools=("crop",))
    trick, straight = in_group(seen(play(BOXED, run(CROP), say("FJ7")), cropped), honest)
    assert trick.terms["mandatory"] == trick.terms["exact"] == 0


@pytest.mark.parametrize("status", ["error", "timeout", "crash", "rejected"])
def test_a_call_that_failed_earns_nothing_whatever_it_reports(
    play: Play, run: Any, say: Any, honest: Any, status: Any
) -> None:
    failed = Observation(status, tools=("rotate_270", "contrast"), orientation="rotate_270")
    trick, _ = in_group(seen(play(TURNED, run(RESTORE), say("FJ7")), failed), honest)
    assert trick.terms["mandatory"] == trick.terms["exact"] == 0
    alone = score(Group(STRAIGHT, [seen(play(STRAIGHT, run(NOTHING), say("FJ7")), failed)]), RewardConfig())[0]
    assert alone.terms["emergence"] == alone.terms["spurious"] == 0


def test_a_route_counts_by_where_it_leads(play: Play, run: Any, say: Any, honest: Any) -> None:
    frame = orientation_frame("rotate_270", TURNED.images[0].size)
    thrice = Observation("ok", UPRIGHT, tools=("rotate_90",) * 3, orientation="rotate_270", frame=frame)
    roundabout, straight = in_group(seen(play(TURNED, run(RESTORE), say("FJ7")), thrice), honest)
    assert roundabout.terms == straight.terms
    nowhere = Observation("ok", UPRIGHT, tools=("rotate_90", "rotate_270"), orientation="identity", frame=Affine())
    trick, straight = in_group(seen(play(STRAIGHT, run(NOTHING), say("FJ7")), nowhere), honest)
    assert trick.terms == straight.terms


def test_a_little_turn_is_no_discovery(play: Play, run: Any, say: Any) -> None:
    tilted = play(STRAIGHT, run("result = image.rotate(1)"), say("FJ7"))
    assert score(Group(STRAIGHT, [tilted]), RewardConfig())[0].terms["emergence"] == 0


def test_only_a_crop_is_measured_as_a_crop(play: Play, run: Any, say: Any) -> None:
    nearly_all = Sample("s", "?", (UPRIGHT,), "FJ7", transforms=("crop",), box=(0, 0, 60, 38))
    trick = play(nearly_all, run("result = image.crop((0, 0, 1, 1))"), run(NOTHING), say("FJ7"))
    assert score(Group(nearly_all, [trick]), RewardConfig())[0].terms["mandatory"] < 0.01


def test_an_unverified_turn_of_an_upright_image_still_counts_as_spurious(
    play: Play, run: Any, say: Any, honest: Any
) -> None:
    turned = Observation("ok", image=UPRIGHT.rotate(90), lane="confined", tools=("rotate_90", "crop"))
    trick, _ = in_group(seen(play(STRAIGHT, run(NOTHING), say("FJ7")), turned), honest)
    assert trick.terms["spurious"] == -0.5


def test_a_call_that_is_never_run_earns_nothing(play: Play, run: Any, say: Any, honest: Any) -> None:
    cut_off = play(TURNED, run(RESTORE))
    cut_off.turns[-1].observation = None  # the last allowed turn
    del cut_off.images[1:]
    trick, _ = in_group(cut_off, honest)
    assert trick.total == 0


#: Texts of a last turn that must give no answer.
NO_ANSWERS = [
    "<think>a</think><answer>FJ8</answer><answer>FJ7</answer>",
    "<think>a</think><answer>FJ7</answer> or <answer>FJ8</answer>",
    "<think>a <answer>FJ7</answer></think>",
    "<think>a <think>b</think> <answer>FJ7</answer></think>",
    "</think><answer>FJ7</answer><think>",
    "<answer>FJ8 <answer>FJ7</answer></answer>",
    "<answer>FJ7<think></answer></think>",
    "<answer>FJ7<think>b</think></answer>",
    "<think>a</think>FJ7",
    "<think>a</think><answer>FJ7",
    "<think>a</think><answer>FJ7 FJ8 FJ9</answer>",
    format_call("a", ToolCall("result = image")) + "<answer>FJ7</answer>",
]


@pytest.mark.parametrize("text", NO_ANSWERS)
def test_an_answer_stands_once_and_outside_the_reasoning(play: Play, honest: Any, text: str) -> None:
    trick, _ = in_group(play(STRAIGHT, text), honest)
    assert trick.terms["accuracy"] == 0
    assert trick.is_right is False


@pytest.mark.parametrize("text", NO_ANSWERS[:10])
def test_the_text_is_read_again_whatever_the_parser_took_from_it(play: Play, honest: Any, text: str) -> None:
    lenient = play(STRAIGHT, text)
    lenient.turns[-1].reply = Reply(answer="FJ7")
    trick, _ = in_group(lenient, honest)
    assert trick.terms["accuracy"] == trick.terms["format"] == 0


def test_every_alternative_in_a_turn_of_its_own_is_one_answer_at_most(play: Play, say: Any, honest: Any) -> None:
    # The loop ends at the first answer. If a recorded trajectory continues, only its last answer counts,
    # and it gets no format reward.
    trick, straight = in_group(play(STRAIGHT, say("FJ8"), say("FJ7")), honest)
    assert trick.terms["format"] == 0
    assert trick.total < straight.total


# --- malformed calls and empty reasoning ---

MALFORMED = "<think>I look.</think><tool_call>{"


def test_a_call_that_cannot_be_read_costs_as_one_that_runs(play: Play, run: Any, say: Any, honest: Any) -> None:
    for n in range(11):
        unread = play(STRAIGHT, *[MALFORMED] * n, say("FJ7"))
        idle = play(STRAIGHT, *[run(NOTHING)] * n, say("FJ7"))
        terms, same = (score(Group(STRAIGHT, [trajectory]), RewardConfig())[0].terms for trajectory in (unread, idle))
        assert terms["usage"] == same["usage"] == -0.5 * max(0, n - 2)
    assert score(Group(STRAIGHT, [unread]), RewardConfig())[0].total == 1 - 4  # ten malformed calls


@pytest.mark.parametrize(
    "thought", ["", " ", "\n\t", "\u200b", ".", "...", "</think><think>", "<think></think>", "<answer></answer>"]
)
def test_reasoning_without_words_has_no_format(play: Play, honest: Any, thought: str) -> None:
    silent, straight = in_group(play(STRAIGHT, f"<think>{thought}</think> I see it. <answer>FJ7</answer>"), honest)
    assert silent.terms["format"] == 0
    assert straight.terms["format"] == pytest.approx(0.1)


def test_every_turn_reasons(play: Play, run: Any, say: Any) -> None:
    silent = run(RESTORE).replace("I look closer.", "")
    terms = score(Group(TURNED, [play(TURNED, silent, say("FJ7"))]), RewardConfig())[0].terms
    assert terms["format"] == 0
    assert terms["mandatory"] == 1


# --- whole groups ---


@pytest.mark.parametrize("call", ["result = ImageEnhance.Contrast(image).enhance(1.8)", DRAW], ids=["contrast", "draw"])
def test_a_group_that_decorates_as_one_earns_nothing_by_it(play: Play, run: Any, say: Any, call: str) -> None:
    sample = STRAIGHT
    decorated = [play(sample, run(call), say(answer)) for answer in ["FJ7"] * 5 + ["FJ8"] * 3]
    plain = [play(sample, say(answer)) for answer in ["FJ7"] * 5 + ["FJ8"] * 3]
    config = RewardConfig(necessity=1.0)
    totals, honest = ([b.total for b in score(Group(sample, those), config)] for those in (decorated, plain))
    assert totals == honest


# --- other images of the question ---


def test_a_turn_or_a_crop_of_another_image_earns_nothing(play: Play, run: Any, say: Any) -> None:
    for sample, code in ((TURNED, RESTORE), (BOXED, CROP)):
        two = replace(sample, images=(sample.images[0], sample.images[0].copy()))
        terms = score(Group(two, [play(two, run(code, image_index=1), say("FJ7"))]), RewardConfig())[0].terms
        assert terms["mandatory"] == terms["exact"] == 0
        there, back = play(two, run(code), run(NOTHING, image_index=1), say("FJ7")), play(two, run(code), say("FJ7"))
        breakdowns = score(Group(two, [there, back]), RewardConfig())
        assert breakdowns[0].total <= breakdowns[1].total


MARKS = [
    "rotate_270",
    "crop [10, 10, 30, 30]",
    "image.rotate(270)",
    "contrast",
    "<answer>FJ7</answer>",
    "result",
    "\\n'",
]
words = st.lists(st.sampled_from(MARKS) | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=9))


@given(words=words, where=st.sampled_from(["comment", "string", "description"]), which=st.integers(0, 2))
def test_credit_ignores_comments_strings_and_the_description(
    play: Play, run: Any, say: Any, words: list[str], where: str, which: int
) -> None:
    sample, code = [(TURNED, RESTORE), (STRAIGHT, NOTHING), (BOXED, CROP)][which]
    text = " ".join(words)
    described = text if where == "description" else ""
    if where == "comment":
        code = f"# {text}\n{code}  # {text}"
    elif where == "string":
        code = f"note = {text!r}\n{code}"
    plain = play(sample, run([RESTORE, NOTHING, CROP][which]), say("FJ7"))
    talking = play(sample, run(code, description=described), say("FJ7"))
    if talking.turns[0].reply.call is None:
        return  # the words closed the call's own tag: no call, and no credit to compare
    observation = talking.turns[0].observation
    assert observation is not None
    if "unusual escape" in observation.text:
        return  # the reader leaves such a text to a confined worker, which this lane does not have
    assert observation.status == "ok", observation.text
    assert (
        score(Group(sample, [talking]), RewardConfig())[0].terms
        == score(Group(sample, [plain]), RewardConfig())[0].terms
    )


orientations = st.sampled_from(["rotate_90", "rotate_180", "rotate_270", "flip_horizontal", "flip_vertical"])
CODES = {
    "rotate_90": "result = image.rotate(90, expand=True)",
    "rotate_180": "result = image.rotate(180)",
    "rotate_270": "result = image.rotate(270, expand=True)",
    "flip_horizontal": "result = ImageOps.mirror(image)",
    "flip_vertical": "result = ImageOps.flip(image)",
}


@given(done=orientations, moves=st.lists(orientations, max_size=4))
def test_mandatory_is_paid_exactly_where_the_last_view_stands_upright(
    play: Play, run: Any, say: Any, done: str, moves: list[str]
) -> None:
    sample = Sample("s", "?", (orient(UPRIGHT, done),), "FJ7", transforms=(done,))
    trajectory = play(sample, *[run(CODES[move], index) for index, move in enumerate(moves)], say("FJ7"))
    is_upright = trajectory.images[-1].image.tobytes() == UPRIGHT.tobytes()
    terms = score(Group(sample, [trajectory]), RewardConfig())[0].terms
    assert terms["mandatory"] == float(is_upright)
    assert terms["exact"] <= 0.1 * is_upright


@given(moves=st.lists(orientations, min_size=1, max_size=4))
def test_no_walk_over_orientations_pays_on_an_upright_image(play: Play, run: Any, say: Any, moves: list[str]) -> None:
    walk = play(STRAIGHT, *[run(CODES[move], index) for index, move in enumerate(moves)], say("FJ7"))
    breakdown = score(Group(STRAIGHT, [walk]), RewardConfig())[0]
    assert breakdown.total <= 1.1 - 0.5 * len(moves) + 1e-9


@pytest.fixture(scope="module")
def pool(play: Play, run: Any, say: Any, honest: Any) -> dict[str, list[Trajectory]]:
    """Every trick with a right and with a wrong answer, and the honest trajectories, by sample."""
    pool: dict[str, list[Trajectory]] = {name: [trajectory] for name, trajectory in honest.items()}
    for sample, calls, _ in TRICKS.values():
        for answer in ("FJ7", "FJ8"):
            pool[sample.id].append(play(sample, *[run(*call) for call in calls], say(answer)))
    return pool


@given(
    name=st.sampled_from(["turned", "straight", "boxed"]), picks=st.lists(st.integers(0, 99), min_size=1, max_size=7)
)
def test_in_no_group_does_anything_pay_more_than_honesty(pool: Any, name: str, picks: list[int]) -> None:
    trajectories = [pool[name][0], *[pool[name][pick % len(pool[name])] for pick in picks]]
    totals = [breakdown.total for breakdown in score(Group(trajectories[0].sample, trajectories), RewardConfig())]
    assert max(totals) <= totals[0] + 1e-9


# --- properties of every reward ---

#: Turns that give the policy no new information.
IDLE = ["nothing", "print", "fails", "malformed", "unknown image"]


def idle_turn(kind: str, run: Any, image_index: int) -> str:
    texts = {
        "nothing": run(NOTHING, image_index),
        "print": run("x = 1", image_index),
        "fails": run("result = image.nothing()", image_index),
        "malformed": MALFORMED,
        "unknown image": run(RESTORE, 99),
    }
    return texts[kind]


moves = st.lists(st.sampled_from([*CODES.values(), CROP, "result = ImageOps.invert(image)"]), max_size=3)
weights = st.fixed_dictionaries({name: st.sampled_from([0.0, 0.5, 2.0]) for name in TERMS})


@given(
    name=st.sampled_from(["turned", "straight", "boxed"]),
    moves=moves,
    idle=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(IDLE)), min_size=1, max_size=4),
    answer=st.sampled_from(["FJ7", "FJ8"]),
    weights=weights,
    mates=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=3),
)
def test_a_useless_call_never_raises_the_total(
    play: Play,
    run: Any,
    say: Any,
    name: str,
    moves: list[str],
    idle: list[tuple[int, str]],
    answer: str,
    weights: dict[str, float],
    mates: list[tuple[bool, bool]],
) -> None:
    """Each move and each idle call use the last image, for any weights and any group."""
    sample = {"turned": TURNED, "straight": STRAIGHT, "boxed": BOXED}[name]
    contrast = "result = ImageEnhance.Contrast(image).enhance(1.8)"
    others = [
        play(sample, *([run(contrast)] if decorates else []), say("FJ7" if right else "FJ8"))
        for decorates, right in mates
    ]

    def played(idle: list[tuple[int, str]]) -> RewardBreakdown:
        texts, last, n_images = [], 0, 1
        for place in range(len(moves) + 1):
            for kind in [kind for at, kind in idle if min(at, len(moves)) == place]:
                texts.append(idle_turn(kind, run, last))
                if kind == "nothing":
                    last, n_images = n_images, n_images + 1
            if place < len(moves):
                texts.append(run(moves[place], last))
                last, n_images = n_images, n_images + 1
        trajectory = play(sample, *texts, say(answer))
        return score(Group(sample, [trajectory, *others]), RewardConfig(**weights))[0]

    assert played(idle).total <= played([]).total + 1e-9


BOUNDS = {
    "accuracy": (0, 1),
    "format": (0, 1),
    "mandatory": (0, 1),
    "necessity": (0, 1),
    "exact": (0, 1),
    "emergence": (0, 1),
    "interaction": (0, 12),
    "usage": (-10, 0),
    "spurious": (-12, 0),
    "overlong": (-1, 0),
}


@given(
    name=st.sampled_from(["turned", "straight", "boxed"]),
    picks=st.lists(st.integers(0, 99), min_size=1, max_size=6),
    preset=st.sampled_from(["effects", "published"]),
)
def test_terms_stay_in_their_bounds_and_the_order_of_a_group_does_not_matter(
    pool: Any, name: str, picks: list[int], preset: Any
) -> None:
    config = RewardConfig(preset=preset, **dict.fromkeys(TERMS, 1.0))
    trajectories = [pool[name][pick % len(pool[name])] for pick in picks]
    breakdowns = score(Group(trajectories[0].sample, trajectories), config)
    for breakdown in breakdowns:
        assert tuple(breakdown.terms) == TERMS == tuple(BOUNDS)
        for term, (low, high) in BOUNDS.items():
            assert low <= breakdown.terms[term] <= high, term
    again = score(Group(trajectories[0].sample, trajectories[::-1]), config)
    assert [b.terms for b in again] == [b.terms for b in breakdowns[::-1]]


@given(done=st.sampled_from(ORIENTATIONS[1:6]), size=st.tuples(st.integers(1, 60), st.integers(1, 40)))
def test_a_restored_image_is_paid_at_every_size_at_which_it_can_be_seen(
    play: Play, run: Any, say: Any, done: str, size: tuple[int, int]
) -> None:
    """A plate with large letters is visible at half its size, but not in four pixels."""
    sample = Sample("s", "?", (orient(PLATE, done),), "FJ7", transforms=(done,))
    move = CODES[inverse(done)]
    trajectory = play(sample, run(f"{move}\nresult = result.resize({size})"), say("FJ7"))
    mandatory = score(Group(sample, [trajectory]), RewardConfig())[0].terms["mandatory"]
    if min(size[0] / 60, size[1] / 40) >= 0.5:
        assert mandatory == 1
    if size[0] * size[1] <= 4:
        assert mandatory == 0
