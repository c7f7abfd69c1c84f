"""Writes kept episodes in the formats of arXiv 2512.03746: CodeVision-SFT's ShareGPT rows, CodeVision-RL's Parquet."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cv_lightning.construction.plan import EpisodePlan
from cv_lightning.conversation import escape_markup
from cv_lightning.errors import DataError
from cv_lightning.types import IMAGE, Trajectory

#: Rows per Parquet row group; a reader decodes a row group at once.
_ROWS_OF_A_GROUP = 100

#: The value of `data_source` in RL rows.
DATA_SOURCE = "cv_lightning"

_BOX = pa.list_(pa.float64())
_TEXTS = pa.list_(pa.string())
#: The published columns and the provenance.
RL_SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "ability": pa.string(),
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": _TEXTS}),
        "extra_info": pa.struct(
            {
                "answer": pa.string(),
                "bbox": _BOX,
                "dataset_name": pa.string(),
                "index": pa.int64(),
                "question": pa.string(),
                "split": pa.string(),
                "transform": _TEXTS,
            }
        ),
        "provenance": pa.string(),
    }
)


def episode_record(
    plan: EpisodePlan, trajectory: Trajectory, provenance: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """The row of an SFT episode; its images are written below `folder`.

    Raises:
        DataError: An image cannot be written.
    """
    sample = plan.sample
    conversations = [{"from": "human", "value": _with_places(sample.question, len(sample.images))}]
    for turn in trajectory.turns:
        conversations.append({"from": "gpt", "value": turn.text})
        if turn.observation is not None:
            shown = "" if turn.observation.image is None else IMAGE
            said = escape_markup(turn.observation.text)
            conversations.append({"from": "tool", "value": f"<tool_response>\n{shown}{said}\n</tool_response>"})
    images = [view.image for view in trajectory.images]
    return {
        "id": f"built-{provenance['seed']}-{plan.index}",
        "conversations": conversations,
        "images": write_images(images, plan.index, folder),
        "trained": [turn.is_trained for turn in trajectory.turns],
        **_metadata(plan),
        "provenance": {**plan.metadata(), **provenance, "sha256": _digest(conversations, images)},
    }


def question_record(plan: EpisodePlan, provenance: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The content of an RL row; its images stay files below `folder` until the Parquet file is written."""
    sample = plan.sample
    return {
        "question": sample.question,
        "answer": sample.answer,
        "images": write_images(sample.images, plan.index, folder),
        **_metadata(plan),
        "provenance": {
            **plan.metadata(),
            **provenance,
            "sha256": _digest([sample.question, sample.answer], sample.images),
        },
    }


def _with_places(question: str, n_images: int) -> str:
    """A question with a place for every image."""
    return IMAGE * (n_images - question.count(IMAGE)) + question


def _metadata(plan: EpisodePlan) -> dict[str, Any]:
    sample = plan.sample
    return {
        "transforms": list(sample.transforms),
        "box": None if sample.box is None else [float(edge) for edge in sample.box],
        "family": sample.family,
        "alternatives": list(sample.alternatives),
        "rule": sample.rule,
    }


def _digest(texts: Any, images: Sequence[Image.Image]) -> str:
    digest = hashlib.sha256(json.dumps(texts).encode())
    for image in images:
        digest.update(json.dumps(image.size).encode() + image.tobytes())
    return digest.hexdigest()


def write_images(images: Sequence[Image.Image], index: int, folder: Path) -> list[str]:
    """Write RGB images as PNG below `folder`, each complete or not at all, and return their paths relative to it.

    Args:
        images: The images of a row.
        index: The row's place in the build; a subfolder holds the images of a thousand rows.
        folder: The folder of the build.

    Raises:
        DataError: The disk is full or cannot be written.
    """
    names = [f"images/{index // 1000:04d}/{index}_{number}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        with whole(folder / name) as part:
            image.save(part, format="PNG")
    return names


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` afterwards; raises `DataError` if it cannot be written."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> DataError:
    """The error for a full disk or a path that cannot be written."""
    remedy = "Make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Correct the path"
    return DataError(
        f"{path}: cannot be written ({error.strerror or error}). Finished rows are safe. {remedy}, then run the same "
        "command again to continue."
    )


def write_rows(records: Iterator[Mapping[str, Any]], path: Path) -> None:
    """Write SFT rows as JSON Lines, the complete file or nothing; raises `DataError` if it cannot be written."""
    with whole(path) as part, part.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def write_questions(records: Iterator[Mapping[str, Any]], path: Path, split: str) -> None:
    """Write RL rows as Parquet in the published schema, the complete file or nothing.

    Args:
        records: Records from `question_record`; their images are read from the folder of `path`.
        path: The file.
        split: The value of `extra_info.split`.

    Raises:
        DataError: The file cannot be written, or an image is missing.
    """
    rows = (_question_row(record, path.parent, split) for record in records)
    with whole(path) as part, pq.ParquetWriter(part, RL_SCHEMA) as writer:
        while group := list(islice(rows, _ROWS_OF_A_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, RL_SCHEMA))


def _question_row(record: Mapping[str, Any], folder: Path, split: str) -> dict[str, Any]:
    images = [{"bytes": (folder / name).read_bytes(), "path": name} for name in record["images"]]
    question = record["question"]
    return {
        "data_source": DATA_SOURCE,
        "prompt": [{"role": "user", "content": _with_places(f"\n{question}", len(images))}],
        "images": images,
        "ability": "vision",
        "reward_model": {"style": "rule", "ground_truth": [record["answer"], *record["alternatives"]]},
        "extra_info": {
            "answer": record["answer"],
            "bbox": record["box"] or [],
            "dataset_name": record["family"],
            "index": record["provenance"]["index"],
            "question": question,
            "split": split,
            "transform": record["transforms"],
        },
        "provenance": json.dumps(record["provenance"]),
    }
