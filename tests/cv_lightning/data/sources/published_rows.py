"""Small files in the published schemas, and the images in them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from cv_lightning.types import Sample


def png(seed: int = 0, width: int = 40, height: int = 30) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def is_image(sample: Sample, seed: int = 0, place: int = 0) -> bool:
    expected = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return np.array_equal(np.asarray(sample.images[place]), expected)


Write = Callable[[str, Any], str]


CODEVISION = {
    "prompt": [{"role": "user", "content": "<image>\nWhat does the sign say?"}],
    "images": [{"bytes": png(), "path": None}],
    "data_source": "codevision",
    "ability": "vqa",
    "reward_model": {"ground_truth": "EXIT", "style": "model"},
    "extra_info": {
        "answer": "EXIT",
        "bbox": [4, 5, 12, 9],
        "dataset_name": "textvqa",
        "index": 17,
        "question": "What does the sign say?",
        "split": "train",
        "transform": ["crop", "rotate_90"],
    },
}


def ocrbench_rows() -> dict[str, Any]:
    hub = {
        "dataset": "IIIT5K",
        "question": "what is written in the image?",
        "question_type": "Regular Text Recognition",
        "answer": ["CENTRE", "centre"],
        "image": {"bytes": png(), "path": "0.png"},
    }
    file = {
        "dataset_name": "IIIT5K",
        "id": 3,
        "question": "what is written in the image?",
        "answers": ["CENTRE", "centre"],
        "type": "Regular Text Recognition",
        "image_path": "images/0.png",
    }
    table = {
        "index": 3,
        "image": text64(png()),
        "question": "what is written in the image?",
        "answer": "['CENTRE', 'centre']",
        "category": "Regular Text Recognition",
    }
    return {"test.parquet": hub, "OCRBench.json": file, "OCRBench.tsv": table}


#: Rows as the authors' scripts read them; the prompts resemble the published prompts.
TIRBENCH = [
    {
        "id": 0,
        "task": "instrument",
        "image_1": "data/instrument/0.png",
        "image_2": None,
        "prompt": "What is the reading? Provide one decimal place (e.g., 1.1).",
        "answer": 2.5,
        "meta_data": None,
    },
    {
        "id": 1,
        "task": "spot_difference",
        "image_1": "data/spot_difference/1_a.png",
        "image_2": "data/spot_difference/1_b.png",
        "prompt": "Which numbered regions differ?",
        "answer": [2, 5, 9],
        "meta_data": None,
    },
    {
        "id": 2,
        "task": "jigsaw",
        "image_1": "data/jigsaw/2.png",
        "image_2": None,
        "prompt": "In what order should the pieces be arranged?",
        "answer": "3, 1, 4, 2",
        "meta_data": {"difficulty": 2},
    },
    {
        "id": 3,
        "task": "ocr",
        "image_1": "data/ocr/60.jpg",
        "image_2": None,
        "prompt": "What is written?",
        "answer": "wrong in the file",
        "meta_data": None,
    },
    {
        "id": 4,
        "task": "maze",
        "image_1": "data/maze/4.png",
        "image_2": None,
        "prompt": "Which of the options leads out? A. RRD B. DDR",
        "answer": "B",
        "meta_data": None,
    },
]


VTCBENCH = [
    {
        "index": "1",
        "id": "attention_focusing_1",
        "category": "attention",
        "image": "images/attention_focusing/attention_focusing_1.jpg",
        "question": "Please locate the sign, whose text is mirrored, and answer what it says.",
        "answer": "光陽",
        "A": "",
        "B": "",
        "C": "",
        "D": "",
    },
    {
        "index": "127",
        "id": "chart_4",
        "category": "chart",
        "image": "images/chart/chart_4.jpg",
        "question": "What is the proportion for Europe?",
        "answer": "D",
        "A": "23",
        "B": "21",
        "C": "27",
        "D": "25",
    },
]
