"""CodeVision-RL and MVToolBench (arXiv 2512.03746): verl's Parquet schema with the paper's metadata.

`prompt` = `[{"role": "user", "content": "<image> ..."}]`, `images` = `[{"bytes", "path"}]`, `data_source`,
`reward_model.ground_truth` and `extra_info` = `{"answer", "bbox", "dataset_name", "index", "question", "split",
"transform"}`. `bbox` is in pixels of the image as given; `transform` names its transforms. Rows of verl without
`images`, `extra_info` or `transform` are also accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cv_lightning.data.sources.formats import Format, columns, content_text, place_images, unwrap_images
from cv_lightning.data.sources.records import Record
from cv_lightning.errors import DataError
from cv_lightning.types import IMAGE


def fields(record: Record, where: str, folder: Path) -> dict[str, Any]:
    """The fields of a row; raises `DataError` if the shape of a part differs from the published schema."""
    extra = _mapping(record, "extra_info", where)
    reward = _mapping(record, "reward_model", where)
    index = extra.get("index")
    source = record.get("data_source")
    truth = reward.get("ground_truth")
    truths = truth if isinstance(truth, list) else [truth] if truth not in (None, "") else [extra.get("answer")]
    return {
        "id": None
        if index is None
        else "-".join(str(part) for part in (source, extra.get("split"), index) if part is not None),
        "question": _question(record, extra, where),
        "images": unwrap_images(record.get("images"), where),
        "answer": truths[0] if truths else None,
        "alternatives": [str(other) for other in truths[1:]],
        "transforms": list(extra.get("transform") or []),
        "box": _box(extra.get("bbox")),
        "family": extra.get("dataset_name") or source,
    }


def _mapping(record: Record, name: str, where: str) -> Mapping[str, Any]:
    value = record.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise DataError(f"{where}: {name}: expected a structure, got {type(value).__name__}.")
    return value or {}


def _question(record: Record, extra: Mapping[str, Any], where: str) -> str:
    """The question, or the prompt if there is none; raises `DataError` if the prompt has more places than images."""
    turns = [turn for turn in record.get("prompt") or [] if isinstance(turn, Mapping) and turn.get("role") == "user"]
    prompt = content_text(turns[-1].get("content")) if turns else ""
    if prompt.count(IMAGE) > len(record.get("images") or []):
        needed = f"at least {prompt.count(IMAGE)}, one for each {IMAGE} in the prompt"
        raise DataError(f"{where}: images: expected {needed}, got {len(record.get('images') or [])}.")
    return place_images(str(extra.get("question") or prompt))


def _box(value: Any) -> Any:
    """The box; some rows hold an empty list, or a list with one box."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if value not in ([], None) else None


FORMAT = Format(
    "codevision",
    "CodeVision-RL or MVToolBench",
    [columns("prompt", "images", "reward_model", "extra_info"), columns("prompt", "data_source", "reward_model")],
    fields,
)
