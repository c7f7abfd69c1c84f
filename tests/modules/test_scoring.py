"""Groups are scored in threads as they end, and their rewards come back in order."""

from __future__ import annotations

import threading

import pytest

from cv_lightning.rewards import RewardConfig, score
from cv_lightning.types import Group, Sample
from modules.scoring import Scoring
from tests.modules.helpers import replying

SAMPLES = [Sample(str(number), str(number), (), "bus") for number in range(3)]
GROUPS = [Group(sample, [replying(sample, "a coach"), replying(sample, "bus")]) for sample in SAMPLES]


def test_without_a_judge_the_rules_score() -> None:
    with Scoring(RewardConfig()) as scoring:
        for number in (1, 2, 0):
            scoring.begin(number, GROUPS[number])
        assert scoring.breakdowns() == [score(group, RewardConfig()) for group in GROUPS]


def test_a_judge_is_asked_about_many_groups_at_once() -> None:
    together = threading.Barrier(3, timeout=60)  # passes only if three groups are judged at the same time

    def judge(question: str, prediction: str, truth: str) -> bool:
        together.wait()
        return question == "1"

    with Scoring(RewardConfig(), judge) as scoring:
        for number, group in enumerate(GROUPS):
            scoring.begin(number, group)
        rights = [[one.is_right for one in of_group] for of_group in scoring.breakdowns()]
    assert rights == [[False, True], [True, True], [False, True]]


def test_an_error_ends_the_questions_that_were_not_asked_yet() -> None:
    asked: list[str] = []
    is_asked, may_reply = threading.Event(), threading.Event()

    def judge(question: str, prediction: str, truth: str) -> bool:
        asked.append(question)
        is_asked.set()
        return may_reply.wait(60)

    many = [Group(sample, [replying(sample, "a coach")]) for sample in SAMPLES * 20]

    def fail() -> None:
        with Scoring(RewardConfig(), judge) as scoring:
            for number, group in enumerate(many):
                scoring.begin(number, group)
            assert is_asked.wait(60)
            threading.Timer(0.2, may_reply.set).start()
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert len(asked) < len(many)
    assert not any(thread.name.startswith("judge") for thread in threading.enumerate())
