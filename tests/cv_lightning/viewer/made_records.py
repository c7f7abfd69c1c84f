"""Records of trajectories, written into the folder of a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def a_record(**changes: Any) -> dict[str, Any]:
    turns = [
        {
            "text": "<think>Upside down.</think>\n<tool_call>...</tool_call>",
            "call": {"code": "result = image.rotate(180)  # turn", "description": ""},
            "image_index": 0,
            "fault": None,
            "credit": {"accuracy": 0.0, "mandatory": 1.0},
            "observation": {"status": "ok", "text": "", "tools": ["rotate_180"], "lane": "kornia"}
            | {"exactness": "close", "library": "kornia 0.9.1"},
        },
        {
            "text": "<think>Upright.</think>\n<answer>F7G</answer>",
            "call": None,
            "fault": None,
            "credit": {"accuracy": 1.0, "mandatory": 0.0},
            "observation": None,
        },
    ]
    images = [
        {"file": "images/a.png", "turn": -1, "width": 60, "height": 40, "root": 0, "frame": [1, 0, 0, 0, 1, 0]},
        {"file": "images/b.png", "turn": 0, "width": 60, "height": 40, "root": 0, "frame": [-1, 0, 60, 0, -1, 40]},
    ]
    record = {"schema": 2, "kind": "best", "step": 3, "group": 0, "rollout": 0, "id": "p-1", "family": "plates"}
    record |= {"question": "Read the text.", "truth": "F7G", "answer": "F7G", "is_right": True, "reward": 2.0}
    record |= {"terms": {"accuracy": 1.0, "mandatory": 1.0}, "transforms": ["rotate_180"], "box": [0, 0, 10, 20]}
    return record | {"stop_reason": "answered", "emergent": [], "images": images, "turns": turns} | changes


def written(folder: Path, *records: dict[str, Any], extra: str = "") -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40), "white").save(folder / "images" / "a.png")
    Image.new("RGB", (60, 40), "gray").save(folder / "images" / "b.png")
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "trajectories.jsonl").write_text(lines + extra, encoding="utf-8")
    return folder
