"""A trajectory's verdict and reward, in MLflow's format."""

from __future__ import annotations

from typing import Any

import pytest

from callbacks.mlflow.assessments import assessments

RECORD = {"truth": "K7", "is_right": True, "reward": 0.75, "terms": {"accuracy": 1.0, "format": -0.25}}


def made(**changes: Any) -> dict[str, Any]:
    return {one.name: one for one in assessments({**RECORD, **changes}, "tr-1", "run-1", 5)}


def test_each_number_is_feedback_and_the_truth_is_expected() -> None:
    of_name = made()
    assert of_name.pop("expected_response").value == "K7"
    values = {name: one.feedback.value for name, one in of_name.items()}
    assert values == {"is_right": True, "reward": 0.75, "reward.accuracy": 1.0, "reward.format": -0.25}
    for one in of_name.values():
        assert (one.trace_id, one.create_time_ms, one.last_update_time_ms) == ("tr-1", 5, 5)
        assert "run-1" in one.metadata.values()


def test_an_answer_that_nobody_could_judge_has_an_error_and_no_reward() -> None:
    of_name = made(is_right=None)
    assert of_name.keys() == {"expected_response", "is_right"}
    assert of_name["is_right"].feedback.error.error_code == "NOT_JUDGED"


@pytest.mark.parametrize("other", [{"reward": 0.0}, {"truth": "other"}])
def test_ids_follow_from_trace_and_name_so_that_what_is_sent_again_replaces(other: dict[str, Any]) -> None:
    first, second = made(), made(**other)
    assert {name: one.assessment_id for name, one in first.items()} == {
        name: one.assessment_id for name, one in second.items()
    }
    assert len({one.assessment_id for one in first.values()}) == len(first)
    elsewhere = assessments(RECORD, "tr-2", "run-1", 5)
    assert not {one.assessment_id for one in elsewhere} & {one.assessment_id for one in first.values()}
