"""V* (arXiv 2312.14135): `test_questions.jsonl` with its image folders, or the same columns in Parquet.

`image` (a path, or an image), `text` (question, lettered options and instructions), `label` (the letter), `category`,
`question_id`. A JSON file beside each image holds the boxes of the objects in the question, `bbox` = `[[x, y, w, h]]`;
the sample's box is the smallest box around them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cv_lightning.data.sources.formats import Format, columns, unwrap_image
from cv_lightning.data.sources.records import Record

_OPTION = re.compile(r"^\(([A-H])\)\s*(.+?)\s*$", re.MULTILINE)


def fields(record: Record, where: str, folder: Path) -> dict[str, Any]:
    """The fields of a row."""
    text, label = str(record.get("text") or ""), record.get("label")
    option = dict(_OPTION.findall(text)).get(str(label))
    image = unwrap_image(record.get("image"), where)
    return {
        "id": None if record.get("question_id") is None else str(record["question_id"]),
        "question": text,
        "images": [] if image is None else [image],
        "answer": label,
        "alternatives": [] if option is None else [option],
        "box": _box(folder / image) if isinstance(image, str) else None,
        "family": record.get("category"),
        "rule": "choice",
    }


def _box(image: Path) -> list[float] | None:
    """The smallest box around the objects of an image; None without a JSON file."""
    try:
        boxes = json.loads(image.with_suffix(".json").read_text(encoding="utf-8"))["bbox"]
        edges = [(x, y, x + width, y + height) for x, y, width, height in boxes]
        lefts, tops, rights, bottoms = zip(*edges, strict=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [min(lefts), min(tops), max(rights), max(bottoms)]


FORMAT = Format("vstar", "V* bench", [columns("image", "text", "label", "question_id")], fields)
