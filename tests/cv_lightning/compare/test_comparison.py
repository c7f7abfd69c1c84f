"""Notes and means of a comparison."""

from __future__ import annotations

from cv_lightning.compare.comparison import compare
from tests.cv_lightning.compare.made_runs import a_group, answer


def test_how_many_questions_are_shared_is_said() -> None:
    first = a_group("a", [answer(str(n), 1.0) for n in range(4)])
    second = a_group("b", [answer(str(n), 1.0) for n in range(2, 9)])
    assert any("a and b share 2 of 4 and 7 answers" in note for note in compare([*first.runs, *second.runs]).notes)


def test_the_interval_of_the_mean_is_of_the_orientations_alone() -> None:
    labels = ("upright", "noise_5", "blur_5")
    answers = [answer(str(n), float(n % 10 > 0 and c == "upright"), c) for n in range(200) for c in labels]
    groups = [a_group("a", answers), a_group("b", answers)]
    for group in groups:
        group.runs[0].curves = {"test/accuracy/mean": [(0.0, 0.9)]}
    (row,) = compare([*groups[0].runs, *groups[1].runs]).conditions["accuracy"].values()
    assert row[0] is not None
    assert row[0].interval is not None
    assert 0.8 < row[0].interval[0] < 0.9 < row[0].interval[1] < 0.96
