"""TIR-Bench (arXiv 2511.01833): `TIR-Bench.json` of `Agents-X/TIR-Bench`, with the unpacked `data.zip` beside it.

An array of `{"id", "task", "prompt", "image_1", "image_2", "answer", "meta_data"}`; the images are paths, the second
may be null, `answer` is a text, a number or a list. The columns are taken from the authors' scripts and from two public
readers of the file; the file itself could not be checked. Here images come before the text; in the authors' scripts
they come after it. The rule is `grading.tirbench`. The authors' script corrects two answers of the task "ocr", and so
does this module.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from cv_lightning.data.sources.formats import Format, columns, unwrap_image
from cv_lightning.data.sources.records import Record

#: File name of an image of the task "ocr" -> corrected answer from the authors' `calculate_score.py`.
_CORRECTED = {"60.jpg": "mobi", "62.jpg": "aires"}


def fields(record: Record, where: str, folder: Path) -> dict[str, Any]:
    """The fields of a row."""
    cells = [record.get("image_1"), record.get("image_2")]
    images = [unwrap_image(cell, where) for cell in cells if cell not in (None, "")]
    answer, task = record.get("answer"), str(record.get("task") or "")
    if task == "ocr" and images and isinstance(images[0], str):
        answer = _CORRECTED.get(PurePath(images[0]).name, answer)
    return {
        "id": None if record.get("id") is None else str(record["id"]),
        "question": record.get("prompt"),
        "images": images,
        "answer": None if answer is None else str(answer),
        "family": task,
        "rule": f"tirbench:{task}",
    }


FORMAT = Format("tirbench", "TIR-Bench", [columns("task", "prompt", "image_1", "image_2", "answer")], fields)
