"""TIR-Bench's scoring, worked out by hand from the authors' script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.grading.tirbench import tirbench

CASES = [
    # task, truth, answer, credit
    ("ocr", "aires", "Buenos aires", 1),
    ("ocr", "aires", "Buenos Aires", 0),  # case counts
    ("jigsaw", "1, 2, 3, 4", "1, 2, 3, 4", 1),
    ("jigsaw", "1, 2, 3, 4", "The order is **1, 3, 2, 4**.", 0.5),
    ("jigsaw", "[1, 2, 3, 4]", "1 2\n3 4", 1),
    ("jigsaw", "1, 2, 3, 4", "1, 2, 3", 0),  # no four numbers in a row
    ("jigsaw", "1, 2, 3, 4", "2 x 2: 1, 2, 3, 4", 1),
    ("spot_difference", "3", "3 places", 1),
    ("spot_difference", "3", "3 or 4", 0),
    ("spot_difference", "[1, 2, 3]", "1, 2", 2 / 3),
    ("spot_difference", "[1, 2, 3]", "none", 0),
    ("word_search", "5", "**5**", 1),
    ("word_search", "[3, 7]", "row 3, column 7", 0),  # the authors read "3, 7" only
    ("word_search", "[3, 7]", "(3,7)", 1),
    ("word_search", "[3, 7]", "[7, 3]", 0),
    ("maze", "B", "B. RRD", 1),
    ("maze", "B", "The answer is (B)", 1),
    ("maze", "B", "A", 0),
    ("maze", "A", "I cannot tell", 0),  # the authors' script takes the nearest option: A
    ("symbolic", "AC", "C, A", 1),
    ("symbolic", "AC", "A", 0),
    ("math", "12", "12 cans", 1),
    ("math", "12", "\\boxed{12}", 1),
    ("math", "56", "5 or 6", 0),  # the authors' script reads 56
    ("instrument", "2.5", "2.50 cm", 1),
    ("instrument", "2.5", "2.51", 0),
    ("rotation_game", "90", "90°", 1),
    ("contrast", "1000", "1,000", 1),
]


@pytest.mark.parametrize(("task", "truth", "answer", "credit"), CASES)
def test_credit_by_task(task: str, truth: str, answer: str, credit: float) -> None:
    assert tirbench(answer, [truth], task) == pytest.approx(credit)


@given(st.text(), st.text(min_size=1), st.sampled_from(sorted({case[0] for case in CASES})))
def test_any_text_gets_a_share(answer: str, truth: str, task: str) -> None:
    assert 0 <= tirbench(answer, [truth], task) <= 1
