"""The data sets of a run as MLflow's inputs: name, digest, source, size, and use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: MLflow's word for the use of each split.
_CONTEXTS = {"train": "training", "validation": "validation", "test": "testing"}


def inputs_of(facts: Mapping[str, Any], source: Mapping[str, Any], splits: Sequence[str]) -> list[dict[str, Any]]:
    """The splits that a command uses, as JSON for `BackgroundMLflowLogger.log_inputs`.

    Args:
        facts: Result of `callbacks.data_facts.data_facts`.
        source: The arguments and `class_path` of the source in the config; empty if it has none.
        splits: The splits in use.

    Returns:
        For each split: `name` (of the file or the data set on the hub, else the class), `digest` (the fingerprint),
        `source_type` and `source` in MLflow's terms, `size` (None: endless or unknown) and `context`. Splits
        without samples and data without a fingerprint are left out.
    """
    found = []
    for split in splits:
        known = facts.get("splits", {}).get(split, {})
        digest = known.get("fingerprint") if known else facts.get("fingerprint")
        if digest is not None:
            kind, place, name = _place(source, split)
            found.append(
                {
                    "name": name[:500],
                    "digest": digest,
                    "source_type": kind,
                    "source": place,
                    "size": known.get("size"),
                    "context": _CONTEXTS[split],
                }
            )
    return found


def _place(source: Mapping[str, Any], split: str) -> tuple[str, dict[str, Any], str]:
    """MLflow's type of a source, its arguments for that type, and the name of the data set."""
    given, class_path = source.get(split), str(source.get("class_path", ""))
    if not isinstance(given, str):
        return "code", {"tags": {"class_path": class_path}}, class_path.rpartition(".")[2] or "data"
    path = Path(given).expanduser()
    if path.exists() or path.is_absolute() or "*" in given:
        return "local", {"uri": str(path.absolute())}, path.name
    return "hugging_face", {"path": given}, given


def entities(values: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The splits that `inputs_of` found, as MLflow's `DatasetInput`s."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    return [
        DatasetInput(
            Dataset(
                name=value["name"],
                digest=value["digest"],
                source_type=value["source_type"],
                source=json.dumps(value["source"]),
                profile=None if value["size"] is None else json.dumps({"num_rows": value["size"]}),
            ),
            [InputTag(MLFLOW_DATASET_CONTEXT, value["context"])],
        )
        for value in values
    ]
