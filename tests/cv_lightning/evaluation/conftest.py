"""Records of answers to a few questions."""

from __future__ import annotations

import pytest

from cv_lightning.evaluation.answer_log import AnswerRecord
from tests.cv_lightning.evaluation.answered import record


@pytest.fixture
def records() -> list[AnswerRecord]:
    call = {"n_calls": 1, "turns": ["a", "b"], "required": ["rotate_270"]}
    return [
        record("a", "upright", 1.0),
        record("b", "upright", 1.0, n_calls=1, outcomes=[True], tools=[["contrast", "resize"]], used=["contrast"]),
        record("c", "upright", 0.0),
        record("a", "rot90", 1.0, **call, outcomes=[True], tools=[["rotate_270"]], used=["rotate_270"]),
        record("b", "rot90", 0.0, **call, outcomes=[False], is_restored=False),
        record("c", "rot90", None, **call, outcomes=[False, True], tools=[["rotate", "crop"]], used=["crop"]),
        record("d", "rot90", 1.0, **call, outcomes=[False, True], tools=[["rotate_270"]], used=["rotate_270"]),
    ]
