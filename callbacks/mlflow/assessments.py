"""A trajectory's verdict and reward as MLflow feedback, and its true answer as an expectation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

#: Source of the assessments, as MLflow's pages show it.
_SOURCE = "cv_lightning.rewards"


def assessments(record: Mapping[str, Any], trace_id: str, run_id: str, time_ms: int) -> list[Any]:
    """Assessments of a recorded trajectory.

    Args:
        record: The trajectory (docs/trajectories.md).
        trace_id: Its trace.
        run_id: The run that rewarded it; MLflow deletes assessments with their run.
        time_ms: When it was rewarded, in milliseconds since 1970.

    Returns:
        Feedback `is_right`, `reward` and `reward.<term>`, and the expectation `expected_response`. If nobody could
        judge the answer, `is_right` is an error and there is no `reward`. Ids are derived from trace and name.
    """
    from mlflow.entities import AssessmentError, AssessmentSource, Expectation, Feedback
    from mlflow.tracing.constant import AssessmentMetadataKey

    shared: dict[str, Any] = {
        "source": AssessmentSource("CODE", _SOURCE),
        "trace_id": trace_id,
        "metadata": {AssessmentMetadataKey.SOURCE_RUN_ID: run_id},
        "create_time_ms": time_ms,
        "last_update_time_ms": time_ms,
    }
    made: list[Any] = [Expectation("expected_response", record["truth"], **shared)]
    if record["is_right"] is None:
        unjudged = AssessmentError("NOT_JUDGED", "The answer could not be judged.")
        made.append(Feedback("is_right", error=unjudged, **shared))
    else:
        rewards = {f"reward.{name}": value for name, value in record["terms"].items()}
        values = {"is_right": record["is_right"], "reward": record["reward"], **rewards}
        made += [Feedback(name, value, **shared) for name, value in values.items()]
    for one in made:
        one.assessment_id = f"a-{hashlib.sha256(f'{trace_id}/{one.name}'.encode()).hexdigest()[:32]}"
    return made
