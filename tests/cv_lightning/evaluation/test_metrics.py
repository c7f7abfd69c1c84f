"""Evaluation metrics against counts by hand, in one process and in two."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.evaluation.conditions import ORIENTATION_CONDITIONS
from cv_lightning.evaluation.metrics import (
    LABELS,
    TrajectoryMetrics,
    is_restored,
    orientation_label,
)
from cv_lightning.rewards import RewardConfig, score
from cv_lightning.types import Group, RewardBreakdown, Sample, Trajectory
from sandbox import orient

Play = Callable[..., Trajectory]

UPRIGHT = Image.fromarray(np.random.default_rng(2).integers(0, 256, (20, 30, 3), dtype=np.uint8))
RESTORE = "result = image.rotate(270, expand=True)"
BROKEN = "result = image.nothing()"


def sample(*transforms: str) -> Sample:
    image = UPRIGHT
    for name in transforms:
        image = orient(image, name)
    return Sample("s", "?", (image,), "FJ7", transforms=transforms)


def breakdowns(trajectories: list[Trajectory]) -> list[RewardBreakdown]:
    return [score(Group(t.sample, [t]), RewardConfig())[0] for t in trajectories]


@pytest.mark.parametrize(
    ("transforms", "label"),
    [
        ((), "upright"),
        (("rotate_90",), "rot90"),
        (("rotate_180",), "rot180"),
        (("rotate_270",), "rot270"),
        (("flip_horizontal",), "hflip"),
        (("flip_vertical",), "vflip"),
        (("crop",), "crop"),
        (("rotate_90", "flip_vertical", "crop"), "rot90+vflip+crop"),
        (("crop",) * 4, "other"),
    ],
)
def test_labels(transforms: tuple[str, ...], label: str) -> None:
    assert orientation_label(transforms) == label
    assert label in LABELS


def test_every_label_of_the_report_is_one() -> None:
    assert set(ORIENTATION_CONDITIONS) <= set(LABELS)
    assert len(LABELS) == len(set(LABELS))


@pytest.fixture(scope="module")
def played(play: Play, run: Any, say: Any) -> list[Trajectory]:
    turned = sample("rotate_90")
    return [
        play(turned, run(RESTORE), say("FJ7")),  # restored and right
        play(turned, run(BROKEN), run(RESTORE), say("FJ8")),  # recovered, restored, wrong
        play(turned, run(BROKEN), say("FJ7")),  # failed and not recovered
        play(turned, "<think>a</think><tool_call>{</tool_call>", say("FJ8")),  # a call that does not parse
        play(sample(), say("FJ7")),
        play(sample(), run(RESTORE), say("FJ7")),  # a needless turn
        play(sample("flip_vertical"), "I cannot say."),  # no answer and no attempt at a call
    ]


def test_metrics_by_hand(played: list[Trajectory]) -> None:
    metrics = TrajectoryMetrics()
    metrics.update(played, breakdowns(played))
    assert metrics.compute() == pytest.approx(
        {
            "accuracy/rot90": 2 / 4,
            "accuracy/upright": 2 / 2,
            "accuracy/vflip": 0,
            "accuracy/mean": 1.5 / 3,
            "tool_rate/rot90": 3 / 4,
            "tool_rate/upright": 1 / 2,
            "tool_rate/vflip": 0,
            "tool_rate/mean": 1.25 / 3,
            "restored_rate/rot90": 2 / 4,
            "restored_rate/upright": 1 / 2,
            "restored_rate/vflip": 0,
            "restored_rate/mean": 1 / 3,
            "mean_turns/rot90": 9 / 4,
            "mean_turns/upright": 3 / 2,
            "mean_turns/vflip": 1,
            "mean_turns/mean": 4.75 / 3,
            "n_calls/rot90": 4 / 4,
            "n_calls/upright": 1 / 2,
            "n_calls/vflip": 0,
            "n_calls/mean": 1.5 / 3,
            "error_rate/rot90": 3 / 5,  # 4 calls that parsed and 1 that did not; 3 of them failed
            "error_rate/upright": 0 / 1,
            "error_rate/mean": 3 / 10,
            "recovery_rate/rot90": 1 / 3,
            "recovery_rate/mean": 1 / 3,
        }
    )


def test_an_unjudged_answer_is_no_wrong_answer(played: list[Trajectory]) -> None:
    metrics = TrajectoryMetrics()
    unjudged = RewardBreakdown({}, None)
    metrics.update(played[:2], [breakdowns(played[:1])[0], unjudged])
    assert metrics.compute()["accuracy/rot90"] == 1
    only_unjudged = TrajectoryMetrics()
    only_unjudged.update(played[:1], [unjudged])
    assert "accuracy/rot90" not in only_unjudged.compute()
    assert "accuracy/mean" not in only_unjudged.compute()


def test_nothing_counted_has_no_keys() -> None:
    metrics = TrajectoryMetrics()
    metrics.update([], [])
    assert metrics.compute() == {}


def test_breakdowns_of_other_trajectories_are_refused(played: list[Trajectory]) -> None:
    with pytest.raises(ValueError, match="0 for 7 trajectories"):
        TrajectoryMetrics().update(played, [])


@given(cut=st.integers(0, 7))
def test_batches_and_processes_add_up(played: list[Trajectory], cut: int) -> None:
    whole, first, second = TrajectoryMetrics(), TrajectoryMetrics(), TrajectoryMetrics()
    scored = breakdowns(played)
    whole.update(played, scored)
    first.update(played[:cut], scored[:cut])
    second.update(played[cut:], scored[cut:])
    second.table = first.table + second.table  # as the reduction "sum" of the state does over processes
    assert second.compute() == pytest.approx(whole.compute())


def test_reset_and_pickle(played: list[Trajectory]) -> None:
    metrics = TrajectoryMetrics()
    metrics.update(played, breakdowns(played))
    assert pickle.loads(pickle.dumps(metrics)).compute() == metrics.compute()
    metrics.reset()
    metrics.update([], [])
    assert metrics.compute() == {}


@pytest.mark.parametrize("name", ["rotate_90", "rotate_180", "rotate_270", "flip_horizontal", "flip_vertical"])
def test_restored_is_restored_to_the_pixel(play: Play, run: Any, say: Any, name: str) -> None:
    codes = [
        "result = image.rotate(90, expand=True)",
        "result = image.rotate(180)",
        "result = image.rotate(270, expand=True)",
        "result = ImageOps.mirror(image)",
        "result = ImageOps.flip(image)",
    ]
    restored = [play(sample(name), run(code), say("FJ7")) for code in codes]
    by_pixels = [t.images[-1].image.tobytes() == UPRIGHT.tobytes() for t in restored]
    assert [is_restored(t) for t in restored] == by_pixels
    assert sum(by_pixels) == 1


def _count_in_a_process(rank: int, address: str, results: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    metrics = TrajectoryMetrics()
    if rank == 0:  # the other process has no trajectories
        image = Image.new("RGB", (4, 4))
        trajectories = [Trajectory(Sample(str(i), "?", (image,), "A", transforms=("rotate_90",))) for i in range(3)]
        metrics.update(trajectories, [RewardBreakdown({}, i == 0) for i in range(3)])
    computed = metrics.compute()
    Path(results, str(rank)).write_text(repr(computed["accuracy/rot90"]))
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(60)
def test_two_processes_compute_the_same(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/rendezvous"
    torch.multiprocessing.start_processes(_count_in_a_process, (address, str(tmp_path)), nprocs=2, start_method="fork")
    values = [float((tmp_path / str(rank)).read_text()) for rank in range(2)]
    assert values == pytest.approx([1 / 3, 1 / 3])
