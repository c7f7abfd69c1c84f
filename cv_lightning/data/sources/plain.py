"""This project's own rows: objects with the fields of `rows.sample_from_row`, and images beside the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cv_lightning.data.sources.formats import Format, columns, unwrap_image, unwrap_images
from cv_lightning.data.sources.records import Record


def fields(record: Record, where: str, folder: Path) -> dict[str, Any]:
    """The unchanged record, except that images may be any cells that `unwrap_image` reads."""
    images = record.get("images")
    is_one = isinstance(images, str | bytes) and not str(images[:1]).startswith("[")
    return {**record, "images": unwrap_image(images, where) if is_one and images else unwrap_images(images, where)}


FORMAT = Format("plain", "plain rows (question, images, answer, ...)", [columns("question", "answer")], fields)
