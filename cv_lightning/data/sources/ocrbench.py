"""OCRBench (arXiv 2305.07895): the hub's Parquet, the authors' OCRBench.json with its image folder, or a toolkit's TSV.

Parquet: `dataset`, `question`, `question_type`, `answer` (list), `image`. JSON: `dataset_name`, `id`, `question`,
`answers` (list or text), `type`, `image_path`. TSV: `index`, `image` (base64), `question`, `answer` (a list as text),
`category`. An answer is right if it contains one of the true answers; formulas are compared without spaces.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from cv_lightning.data.sources.formats import Format, columns, decode_image, unwrap_image
from cv_lightning.data.sources.records import Record

_FORMULAS = ("HME100k", "Handwritten Mathematical Expression Recognition")


def fields(record: Record, where: str, folder: Path) -> dict[str, Any]:
    """The fields of a row of any of the three forms."""
    kind = record.get("question_type") or record.get("type") or record.get("category")
    dataset = record.get("dataset") or record.get("dataset_name")
    answers = _answers(record.get("answers", record.get("answer")))
    identity = record.get("id", record.get("index"))
    if "category" in record and "image_path" not in record:
        image: Any = decode_image(record.get("image"), where)
    else:
        image = unwrap_image(record.get("image_path", record.get("image")), where)
    return {
        "id": None if identity is None else str(identity),
        "question": record.get("question"),
        "images": [image] if image is not None else [],
        "answer": answers[0] if answers else None,
        "alternatives": answers[1:],
        "family": kind,
        "rule": "contains_formula" if dataset in _FORMULAS or kind in _FORMULAS else "contains",
    }


def _answers(value: Any) -> list[str]:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            value = [value]
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    return [str(answer) for answer in values]


FORMAT = Format(
    "ocrbench",
    "OCRBench",
    [
        columns("dataset", "question", "question_type", "answer", "image"),
        columns("dataset_name", "question", "answers", "image_path"),
        columns("index", "image", "question", "answer", "category"),
    ],
    fields,
)
