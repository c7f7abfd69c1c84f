"""Writes trajectories as records in the format of `docs/trajectories.md`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from cv_lightning.types import ToolCall, Trajectory, Turn, ViewedImage
from cv_lightning.viewer.page import page
from cv_lightning.viewer.pictures import store
from cv_lightning.viewer.records import FILE, FoundRecords, Record, read

#: Version of the records; a record without a version counts as 1.
SCHEMA = 2


def describe(
    trajectory: Trajectory, name: Callable[[Image.Image], str], credits: Sequence[Mapping[str, float]] | None = None
) -> Record:
    """Convert a trajectory to JSON, without its reward and its place in a step, which the caller may add.

    Args:
        trajectory: The trajectory.
        name: Stores an image and returns its name.
        credits: The reward of each turn, by reward term.
    """
    sample = trajectory.sample
    return {
        "schema": SCHEMA,
        "id": sample.id,
        "family": sample.family,
        "source": sample.source,
        "question": sample.question,
        "transforms": list(sample.transforms),
        "answer": trajectory.answer,
        "stop_reason": trajectory.stop_reason.value if trajectory.stop_reason else None,
        "images": [_image(viewed, name(viewed.image)) for viewed in trajectory.images],
        "turns": [_turn(turn, credits[index] if credits else None) for index, turn in enumerate(trajectory.turns)],
    }


def _image(viewed: ViewedImage, file: str) -> dict[str, Any]:
    width, height = viewed.image.size
    return {
        "file": file,
        "turn": viewed.turn,
        "width": width,
        "height": height,
        "root": viewed.root,
        "orientation": viewed.orientation,
        "frame": list(dataclasses.astuple(viewed.frame)) if viewed.frame is not None else None,
    }


def _turn(turn: Turn, credit: Mapping[str, float] | None) -> dict[str, Any]:
    call, seen = turn.reply.call, turn.observation
    return {
        "text": turn.text,
        "call": _call(call) if call else None,
        "image_index": call.image_index if call else None,
        "fault": turn.reply.fault,
        "seconds": turn.wall_s or None,
        **({"versions": _spans(turn.versions)} if turn.versions else {}),
        "credit": credit,
        "observation": None
        if seen is None
        else {
            "status": seen.status,
            "text": seen.text,
            "tools": list(seen.tools),
            "lane": seen.lane,
            "seconds": seen.wall_s,
            **({"exactness": seen.exactness, "library": seen.library} if seen.exactness else {}),
        },
    }


def _spans(versions: Sequence[int]) -> list[list[int]]:
    return [[version, len([*of_one])] for version, of_one in groupby(versions)]


def _call(call: ToolCall) -> dict[str, Any]:
    described = {"name": call.name, "code": call.code, "description": call.description}
    return described if call.model is None else described | {"arguments": dict(call.model.arguments)}


def image_name(image: Image.Image) -> str:
    """The name of an image, from its content: equal pixels have equal names."""
    digest = hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()[:16]
    return f"images/{digest}.png"


def save_image(image: Image.Image, folder: Path) -> str:
    """Save an image in `folder`, only once even if several trajectories have it; returns its path inside `folder`."""
    name = image_name(image)
    if not (folder / name).exists():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    return name


def write_records(records: Sequence[Mapping[str, Any]], folder: Path, title: str) -> Path:
    """Write records and their page, `index.html`, replacing existing ones; returns the page.

    Readers never see a partially written file of records.

    Args:
        records: The records, whose images are already in `folder`.
        folder: Created if it does not exist.
        title: Title of the page.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{FILE}.new"
    # Escaped to ASCII, because a lone surrogate from a byte-level tokenizer has no UTF-8 form.
    new.write_text("".join(json.dumps(record, allow_nan=False) + "\n" for record in records), encoding="utf-8")
    new.replace(folder / FILE)
    found = read([folder / FILE]) if records else FoundRecords()
    target = folder / "index.html"
    target.write_text(page(found.records, store(found.images.items()), title), encoding="utf-8")
    return target
