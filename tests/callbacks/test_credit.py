"""Credit per turn: computed by hand, and its sum is the reward."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from callbacks.credit import turn_credits
from cv_lightning.rewards import RewardConfig, score
from cv_lightning.types import Group, Reply, Sample, ToolCall, Trajectory, Turn, ViewedImage
from sandbox import ORIENTATIONS, Affine, Observation, compose, orient
from sandbox.geometry import orientation_frame

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8))
TURNED = Sample("0", "Read.", (IMAGE,), "A", ("rotate_90",))
CONFIG = RewardConfig()


def trajectory(sample: Sample, moves: list[str], answer: str | None) -> Trajectory:
    """One call per move: an orientation, or "error"."""
    images, turns, net = [ViewedImage(IMAGE, 0, Affine(), "identity")], [], "identity"
    for index, move in enumerate(moves):
        call = Reply(call=ToolCall("code", image_index=len(images) - 1))
        if move == "error":
            turns.append(Turn("<think>hm</think>", call, Observation("error", text="TypeError: no")))
            continue
        net = compose(net, move)
        tools = () if move == "identity" else (move,)
        result = orient(IMAGE, net)
        turns.append(Turn("<think>hm</think>", call, Observation("ok", result, tools=tools, orientation=move)))
        images.append(ViewedImage(result, 0, orientation_frame(net, IMAGE.size), net, index))
    if answer is not None:
        turns.append(Turn(f"<think>hm</think><answer>{answer}</answer>", Reply(answer=answer)))
    return Trajectory(sample, turns, images)


def credits_of(sample: Sample, moves: list[str], answer: str | None) -> list[dict[str, float]]:
    done = trajectory(sample, moves, answer)
    return turn_credits(done, score(Group(sample, [done]), CONFIG)[0], CONFIG)


def test_the_turn_that_rights_the_image_earns_what_it_is_for() -> None:
    assert credits_of(TURNED, ["error", "rotate_270"], "A") == [
        {},
        pytest.approx({"mandatory": 1.0, "exact": 0.1}),
        pytest.approx({"accuracy": 1.0, "format": 0.1}),
    ]


def test_turning_away_again_loses_it_and_a_needless_call_pays() -> None:
    first, second, third, last = credits_of(TURNED, ["rotate_270", "rotate_90", "rotate_270"], "B")
    assert first == pytest.approx({"mandatory": 1.0, "exact": 0.1})
    assert second == pytest.approx({"mandatory": -1.0, "exact": -0.1})
    assert third["mandatory"] == 1.0
    assert third["usage"] == -0.5
    assert last == pytest.approx({"format": 0.1})


def test_an_upright_image_that_is_turned_pays_at_that_turn() -> None:
    assert credits_of(Sample("0", "Read.", (IMAGE,), "A"), ["flip_vertical"], "A")[0] == {"spurious": -0.5}


@given(
    st.lists(st.sampled_from([*ORIENTATIONS, "error"]), max_size=5),
    st.sampled_from([None, "A", "B"]),
    st.sampled_from([(), ("rotate_90",), ("flip_vertical", "rotate_180")]),
)
def test_credits_add_up_to_the_reward(moves: list[str], answer: str | None, transforms: tuple[str, ...]) -> None:
    done = trajectory(Sample("0", "Read.", (IMAGE,), "A", transforms), moves, answer)
    breakdown = score(Group(done.sample, [done]), CONFIG)[0]
    by_turn = turn_credits(done, breakdown, CONFIG)
    assert len(by_turn) == len(done.turns)
    if done.turns:
        for name, value in breakdown.terms.items():
            assert sum(one.get(name, 0.0) for one in by_turn) == pytest.approx(value)
