"""Samples for conditions, and records of their answers."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from cv_lightning.evaluation.answer_log import AnswerRecord
from cv_lightning.types import Sample

FACTS = {"policy": "<tiny>", "questions": 6, "asked_now": 4, "not_answered": 1}


def sample(seed: int = 0, **changes: Any) -> Sample:
    pixels = np.random.default_rng(seed).integers(60, 200, (24, 36, 3), dtype=np.uint8)
    fields = {"id": f"s{seed}", "question": "What?", "images": (Image.fromarray(pixels),), "answer": "x"} | changes
    return Sample(**fields)


def record(item: str, condition: str, score: float | None, **changes: Any) -> AnswerRecord:
    fields: dict[str, Any] = {
        "key": f"{item}/{condition}",
        "item": item,
        "id": item,
        "condition": condition,
        "policy": "p",
        "family": "plates",
        "truth": "x",
        "answer": "x",
        "score": score,
        "graded_by": "rule",
        "graded_for": "",
        "stop_reason": "answered",
        "turns": ["a"],
        "n_calls": 0,
        "outcomes": [],
        "tools": [],
        "is_restored": True,
        "required": [],
        "used": [],
        "crop_iou": None,
    }
    return AnswerRecord(**fields | changes)
