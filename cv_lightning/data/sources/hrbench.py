"""HR-Bench 4K and 8K (arXiv 2408.15556), TSV or Parquet, and other multiple-choice TSVs of VLMEvalKit.

`index`, `question`, `answer` (a letter), `category`, the options `A` to `D`, `cycle_category` (each question comes in
four orders of its options), `image` (base64). Other files may have more options (to `H`), a `hint` before the question,
a list of images in a cell, no image at all, or, in place of the image, the `index` of the row that has the image
(`records.TableRecords`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cv_lightning.data.sources.formats import (
    LETTERS,
    Format,
    columns,
    decode_image,
    place_images,
    unwrap_images,
    with_choices,
)
from cv_lightning.data.sources.records import Record


def fields(record: Record, where: str, folder: Path) -> dict[str, Any]:
    """The fields of a row; the options follow the question."""
    options = {letter: str(record[letter]) for letter in LETTERS if record.get(letter) not in (None, "")}
    question, image, letter = record.get("question"), record.get("image"), str(record.get("answer") or "").strip()
    if question and record.get("hint"):
        question = f"Hint: {record['hint']}\n{question}"
    return {
        "id": None if record.get("index") is None else str(record["index"]),
        "question": with_choices(place_images(str(question)), options) if question else None,
        "images": _images(image, where),
        "answer": letter,
        "alternatives": [options[letter]] if letter in options else [],
        "family": record.get("category"),
        "rule": "choice",
    }


def _images(cell: Any, where: str) -> list[Any]:
    if isinstance(cell, str) and cell and not cell.lstrip().startswith("["):
        return [decode_image(cell, where)]
    return unwrap_images(cell, where)


FORMAT = Format("hrbench", "HR-Bench or multiple choice", [columns("index", "question", "answer", "A", "B")], fields)
