"""TIR-Bench (arXiv 2511.01833): `TIR-Bench.json` of `Agents-X/TIR-Bench`, beside it the unpacked `data.zip`.

An array of `{"id", "task", "prompt", "image_1", "image_2", "answer", "meta_data"}`; the images are paths, the second
may be null, `answer` is a text, a number or a list. The columns are those that the authors' scripts and two public
readers of the file use; the file itself could not be looked up. Images come before the words here, after them there.
The grading is `grading.tirbench`, with the two answers of the task "ocr" that the authors' script corrects.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from cv_lightning.data.sources.formats import Format, columns, unwrap_image
from cv_lightning.data.sources.records import Record

#: File names of the task "ocr" -> the answer that the authors' `calculate_score.py` puts in place of the file's.
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
