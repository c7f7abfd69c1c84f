"""ChartQAPro (arXiv 2504.05506), in the hub's Parquet.

`Question`, `Answer` and `Year` are lists with an entry per turn of a conversation, `Question Type` and `Paragraph` are
texts, `image` holds encoded bytes. As in the authors' script, the question is the last turn with the earlier turns
before it, and `Year` says which numbers must be exact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cv_lightning.data.sources.formats import Format, columns, unwrap_image
from cv_lightning.data.sources.records import Record


def fields(record: Record, where: str, folder: Path) -> dict[str, Any]:
    """The fields of a row."""
    questions, answers = _texts(record.get("Question")), _texts(record.get("Answer"))
    years = _texts(record.get("Year"))
    kind = str(record.get("Question Type") or "")
    if kind == "Conversational":
        years = years[-1:]
    image = record.get("image")
    return {
        "question": _question(str(record.get("Paragraph") or "").strip(), questions, answers),
        "images": [] if image is None else [unwrap_image(image, where)],
        "answer": answers[-1].strip(".").strip("\n") if answers else None,
        "family": kind,
        "rule": "chartqapro:" + ",".join("year" if year.upper() == "YES" else "" for year in years),
    }


def _question(paragraph: str, questions: list[str], answers: list[str]) -> str:
    if not questions:
        return ""
    before = [f"{question}\n{answer}" for question, answer in zip(questions[:-1], answers, strict=False)]
    return "\n".join(text for text in (paragraph, *before, questions[-1]) if text)


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    return [str(text) for text in values]


FORMAT = Format("chartqapro", "ChartQAPro", [columns("Question", "Answer", "Question Type", "image")], fields)
