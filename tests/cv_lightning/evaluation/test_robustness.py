"""The indices against fractions worked out by hand."""

from __future__ import annotations

import pytest

from cv_lightning.evaluation.robustness import INDICES, robustness
from tests.cv_lightning.evaluation.test_table import record


def of(condition: str, *scores: float | None) -> list[object]:
    return [record(str(item), condition, score) for item, score in enumerate(scores)]


def values(found: object) -> dict[str, float]:
    return {name: index.value for name, index in found.indices.items()}  # type: ignore[attr-defined]


def test_indices_by_hand() -> None:
    answers = {
        "upright": of("upright", 1, 1, 1, 0, 1),
        "rot90": of("rot90", 1, 0, 0, 0, 0),
        "hflip": of("hflip", 1, 1, 1, 0, None),
        "jpeg_1": of("jpeg_1", 1, 1, 1, 1, 1),
        "jpeg_5": of("jpeg_5", 1, 1, 0.5, 0, 0),
        "recorded": of("recorded", 0, 0, 0, 0, 0),
    }
    found = robustness(answers)  # type: ignore[arg-type]
    assert list(found) == ["orientations", "corruptions"]
    turned, corrupted = found["orientations"], found["corruptions"]
    assert (turned.conditions, turned.worst) == (("rot90", "hflip"), "rot90")
    assert values(turned) == pytest.approx(
        {
            "mean_drop": 0.8 - (0.2 + 0.75) / 2,
            "worst_accuracy": 0.2,
            "relative_accuracy": (0.2 + 0.75) / 2 / 0.8,
            "worst_relative": 0.2 / 0.8,
            "robustness_index": ((0.2 + 0.75) / 2 / 0.8 + 0.2 / 0.8) / 2,
        }
    )
    assert (corrupted.conditions, corrupted.worst) == (("jpeg_1", "jpeg_5"), "jpeg_5")
    assert values(corrupted)["relative_accuracy"] == pytest.approx((1 + 0.5) / 2 / 0.8)
    assert all(index.low <= index.value <= index.high for index in turned.indices.values())
    assert list(turned.indices) == list(INDICES)


def test_a_policy_that_answers_nothing_upright_has_no_relative_accuracy() -> None:
    found = robustness({"upright": of("upright", 0, 0), "rot90": of("rot90", 0, 1)})["orientations"]  # type: ignore[dict-item]
    assert values(found) == {"mean_drop": -0.5, "worst_accuracy": 0.5}


def test_without_upright_only_the_worst_accuracy_is_known() -> None:
    found = robustness({"rot90": of("rot90", 0, 1), "hflip": of("hflip", 1, 1)})["orientations"]  # type: ignore[dict-item]
    assert (found.worst, values(found)) == ("rot90", {"worst_accuracy": 0.5})


@pytest.mark.parametrize("answers", [{}, {"upright": of("upright", 1)}, {"rot90": of("rot90", None)}])
def test_without_a_judged_change_there_are_none(answers: dict[str, object]) -> None:
    assert robustness(answers) == {}  # type: ignore[arg-type]


def test_an_interval_shrinks_with_the_questions_and_none_right_is_no_certainty() -> None:
    widths = []
    for n in (10, 1000):
        index = robustness({"upright": of("upright", *[1, 1] * n), "rot90": of("rot90", *[0, 1] * n)})  # type: ignore[dict-item]
        relative = index["orientations"].indices["relative_accuracy"]
        widths.append(relative.high - relative.low)
    assert widths[1] < widths[0] / 5
    none_right = robustness({"upright": of("upright", 1, 1), "rot90": of("rot90", 0, 0)})["orientations"]  # type: ignore[dict-item]
    assert none_right.indices["worst_accuracy"].high > 0.5
