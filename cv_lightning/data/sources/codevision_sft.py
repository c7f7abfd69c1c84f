"""CodeVision-SFT: ShareGPT conversations, `{"conversations": [{"from": .., "value": ..}], "images": [..]}`.

The first human turn asks; its `<image>` placeholders take the first images, those of the tool turns the rest. The
answer stands between the answer tags of the last turn. A row that was built here also says what was done to its image
(`transforms`), where the answer lies (`box`), its `id` and `family`; the published rows do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cv_lightning.data.sources.formats import Format, columns, unwrap_image
from cv_lightning.data.sources.records import Record
from cv_lightning.errors import DataError
from cv_lightning.tools.reply_text import read_turn

IMAGE = "<image>"


def turns_of(record: Record, where: str) -> list[tuple[str, str]]:
    """The turns as (from, value).

    Raises:
        DataError: They are not ShareGPT's.
    """
    turns = record.get("conversations")
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise DataError(f"{where}: conversations: expected a list of turns but got {type(turns).__name__}.")
    pairs = []
    for number, turn in enumerate(turns):
        if (
            not isinstance(turn, Mapping)
            or not isinstance(turn.get("from"), str)
            or not isinstance(turn.get("value"), str)
        ):
            raise DataError(f'{where}: turn {number}: expected {{"from": .., "value": ..}}, both texts.')
        pairs.append((turn["from"], turn["value"]))
    return pairs


def fields(record: Record, where: str, folder: Path) -> dict[str, Any]:
    """The question, its images and the answer of a conversation."""
    turns = turns_of(record, where)
    question = next((value for author, value in turns if author == "human"), "")
    answers = read_turn(turns[-1][1]).answers
    images = record.get("images") or []
    n_images = sum(value.count(IMAGE) for _, value in turns)
    if n_images != len(images):
        raise DataError(f"{where}: {n_images} {IMAGE} placeholders but {len(images)} images. Give one image for each.")
    if turns[-1][0] != "gpt":
        raise DataError(
            f"{where}: the last turn is from {turns[-1][0]!r}, not from 'gpt'. Remove what follows the answer."
        )
    kept = {
        name: record[name] for name in ("id", "transforms", "box", "family", "alternatives", "rule") if name in record
    }
    return {
        "question": question.replace(IMAGE, "").strip(),
        "images": [unwrap_image(image, where) for image in images[: question.count(IMAGE)]],
        "answer": answers[-1].strip() if answers else None,
        **kept,
    }


FORMAT = Format("codevision_sft", "CodeVision-SFT (ShareGPT)", [columns("conversations", "images")], fields)
