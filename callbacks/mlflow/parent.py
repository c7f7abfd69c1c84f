"""Finds the recipe's run to which a run belongs; MLflow's list shows the run below it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: The file in which a logger saves which run it logs to.
NOTE = "mlflow_run.json"

#: MLflow's tag of a child; not imported from MLflow, because that takes seconds.
_PARENT = "mlflow.parentRunId"

#: The tag that names the stage of a run, and its value for a whole recipe.
STAGE, RECIPE = "stage", "recipe"


def parent_tag(begin: Mapping[str, Any], tracking_uri: str) -> dict[str, str]:
    """The tag that makes a run a child of the recipe's run, whose folder is directly above its own.

    Args:
        begin: The first record of the logger, with `folder` and `experiment` of the run.
        tracking_uri: The store; a parent must be in the same store.

    Returns:
        Empty if there is no such run, or MLflow has not given it an id yet.
    """
    try:
        note = json.loads((Path(begin["folder"]).absolute().parent / NOTE).read_text(encoding="utf-8"))
        is_parent = note[STAGE] == RECIPE
        is_same = (note["tracking_uri"], note["experiment"]) == (tracking_uri, begin["experiment"])
        return {_PARENT: str(note["run_id"])} if is_parent and is_same and note["run_id"] else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
