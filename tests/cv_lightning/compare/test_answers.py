"""Answers of two groups, paired by question: values by hand, and the choice of the statistical test."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from cv_lightning.compare.answers import ALL, MCNEMAR, SIGN_FLIP, PairedTable, pair_groups
from cv_lightning.compare.comparison import compare
from cv_lightning.compare.groups import RunGroup
from cv_lightning.compare.run import Run
from cv_lightning.evaluation.answer_log import AnswerRecord
from tests.cv_lightning.compare.made_runs import a_group, answer


def test_pairs_by_hand() -> None:
    first = a_group("a", [answer("1", 1.0), answer("2", 0.0), answer("3", 0.0), answer("4", 1.0), answer("9", 1.0)])
    second = a_group("b", [answer("1", 1.0), answer("2", 1.0), answer("3", 1.0), answer("4", 0.0), answer("8", 1.0)])
    table = pair_groups(first, second)
    assert (table.n_shared, table.n_first, table.n_second) == (4, 5, 5)
    (row,) = table.rows
    assert (row.condition, row.n, row.first, row.second) == ("upright", 4, 0.5, 0.75)
    assert (row.only_first, row.only_second, row.test) == (1, 2, MCNEMAR)
    assert row.p == 1.0
    assert (row.seeds_ahead, row.seeds_behind, row.n_seeds) == (1, 0, 1)


def test_a_question_of_several_conditions_counts_once_over_all() -> None:
    def of(score: float) -> list[AnswerRecord]:
        return [answer(str(n), score, condition) for n in range(5) for condition in ("upright", "rot90", "hflip")]

    *conditions, over_all = pair_groups(a_group("a", of(0.0)), a_group("b", of(1.0))).rows
    assert [row.condition for row in conditions] == ["upright", "rot90", "hflip"]
    assert [row.p for row in conditions] == [2 / 32] * 3
    assert [row.p_holm for row in conditions] == [6 / 32] * 3
    assert (over_all.condition, over_all.n, over_all.test) == (ALL, 15, SIGN_FLIP)
    # Five questions, not fifteen: two of the 32 sign flips are as extreme as the data.
    assert over_all.p == pytest.approx(2 / 32, abs=0.01)


def test_scores_between_take_sign_flips_and_unjudged_answers_do_not_count() -> None:
    first = a_group("a", [answer("1", 0.5), answer("2", None), answer("3", 0.0)])
    second = a_group("b", [answer("1", 1.0), answer("2", 1.0), answer("3", 0.75)])
    (row,) = pair_groups(first, second).rows
    assert (row.n, row.test, row.only_first) == (2, SIGN_FLIP, None)
    assert row.difference == pytest.approx(0.625)


def test_other_seeds_of_the_same_questions_are_paired_by_question() -> None:
    first = a_group("a", [answer("1", 1.0)], [answer("1", 0.0)])
    second = a_group("b", [answer("1", 1.0)], [answer("1", 1.0)], first_seed=5)
    (row,) = pair_groups(first, second).rows
    assert (row.n, row.n_seeds, row.first, row.second) == (1, 0, 0.5, 1.0)


def test_a_question_of_the_same_name_with_another_answer_is_another() -> None:
    first, second = a_group("a", [answer("1", 1.0), answer("2", 1.0)]), a_group("b", [answer("1", 1.0, truth="G4")])
    table = pair_groups(first, second)
    assert (table.n_shared, table.n_other_truth, table.rows) == (0, 1, [])
    notes = " ".join(compare([*first.runs, *second.runs]).notes)
    assert "answered no question in common (2 and 1 answers)" in notes
    assert "1 answers are not paired: " in notes


def test_a_question_of_several_seeds_counts_once() -> None:
    first = [answer(str(n), 0.0) for n in range(5)]
    second = [answer(str(n), 1.0) for n in range(5)]
    (row,) = pair_groups(a_group("a", first, first, first), a_group("b", second, second, second)).rows
    assert (row.n, row.test, row.seeds_ahead) == (15, SIGN_FLIP, 3)
    assert row.p == pytest.approx(2 / 32, abs=0.01)


def test_difference_and_interval_weigh_alike() -> None:
    labels = ("upright", "rot90", "hflip", "vflip", "rot180", "rot270")
    asked = [(str(n), label) for n in range(10) for label in labels] + [(str(n), "upright") for n in range(10, 110)]
    first = [answer(item, 0.0, label) for item, label in asked]
    second = [answer(item, float(int(item) < 10), label) for item, label in asked]
    over_all = pair_groups(a_group("a", first), a_group("b", second)).rows[-1]
    assert over_all.difference == pytest.approx(10 / 110)
    assert over_all.interval is not None
    assert over_all.interval[0] < over_all.difference < over_all.interval[1]


def paired(first: list[dict[tuple[str, str], float]], second: list[dict[tuple[str, str], float]]) -> PairedTable:
    """Two paired groups of runs; each run maps (question, condition) to a score, and its index is its seed."""

    def group(name: str, runs: list[dict[tuple[str, str], float]]) -> RunGroup:
        made = []
        for seed, answers in enumerate(runs):
            run = Run(name, str(seed))
            run.config = {"seed_everything": seed}
            run.answers = [
                cast("AnswerRecord", SimpleNamespace(item=q, condition=c, score=s, truth="x", required=[], tools=[]))
                for (q, c), s in answers.items()
            ]
            made.append(run)
        return RunGroup(name, made)

    return pair_groups(group("first", first), group("second", second))


def test_questions_that_several_seeds_share_do_not_make_luck_significant() -> None:
    random = np.random.default_rng(0)
    n_trials, n_rejected, n_missed = 200, 0, 0
    for _ in range(n_trials):
        first, second = ({(str(q), "a"): float(random.integers(2)) for q in range(40)} for _ in range(2))
        row = paired([first] * 3, [second] * 3).rows[0]
        assert row.test == "sign flips"
        n_rejected += row.p < 0.05
        n_missed += row.interval is None or not row.interval[0] <= 0 <= row.interval[1]
    assert n_rejected <= 0.08 * n_trials
    assert n_missed <= 0.1 * n_trials


def test_difference_and_interval_are_of_one_mean() -> None:
    """By hand: 10 questions gain 1 under each of six conditions, 100 gain 0 under one: the mean is 10 / 110."""
    asked = [(str(q), c) for q in range(10) for c in "abcdef"] + [(str(q), "a") for q in range(10, 110)]
    row = paired([dict.fromkeys(asked, 0.0)], [{(q, c): float(int(q) < 10) for q, c in asked}]).rows[-1]
    assert row.difference == pytest.approx(10 / 110)
    assert row.interval is not None
    assert row.interval[0] < row.difference < row.interval[1]
    unequal = paired(
        [{(str(q), "a"): 0.0 for q in range(n)} for n in (100, 4)],
        [{(str(q), "a"): value for q in range(n)} for n, value in ((100, 1.0), (4, 0.0))],
    ).rows[0]
    assert unequal.difference == pytest.approx(0.5)  # the mean over seeds, whatever their numbers of questions
