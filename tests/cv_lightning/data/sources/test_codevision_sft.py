"""The published conversations of CodeVision's SFT data."""

from __future__ import annotations

from typing import Any

import pytest

from cv_lightning.data.sources import FileSource, Rows
from cv_lightning.errors import DataError
from tests.cv_lightning.data.sources.published_rows import Write, is_image, png

CONVERSATION = {
    "conversations": [
        {"from": "system", "value": "You are a helpful assistant."},
        {"from": "human", "value": "<image>What is written?"},
        {"from": "gpt", "value": '<think>t</think>\n<tool_call>\n{"name": "code_image_tool"}\n</tool_call>'},
        {"from": "tool", "value": "<tool_response>\n<image></tool_response>"},
        {"from": "gpt", "value": "<think>now</think>\n<answer> FJ7 </answer>"},
    ],
    "images": ["a/0.png", "a/1.png"],
}


@pytest.mark.parametrize("name", ["sft.json", "sft.jsonl"])
def test_codevision_sft(name: str, write: Write) -> None:
    write("a/0.png", png(0))
    write("a/1.png", png(1))
    path = write(name, [CONVERSATION, CONVERSATION])
    assert Rows(path).format.name == "codevision_sft"
    source = FileSource(test=path, strict=True)
    assert source.size("test") == 2
    for index in range(2):
        sample = source.sample("test", index)
        assert (sample.question, sample.answer, len(sample.images)) == ("What is written?", "FJ7", 1)
        assert is_image(sample)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": ["a/0.png"]}, "images: expected 2, .*got 1"),
        ({"conversations": []}, "expected a list of turns"),
        ({"conversations": [{"role": "user"}]}, "turn 0: expected"),
        ({"conversations": CONVERSATION["conversations"][:4]}, "last turn: expected 'gpt', got 'tool'"),
        (
            {
                "conversations": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "x"}],
                "images": ["a/0.png"],
            },
            "no answer",
        ),
        ({"images": ["a/0.png", "a/1.png"], "conversations": None}, "expected a list of turns"),
    ],
)
def test_codevision_sft_faults_name_the_row(changes: Any, words: str, write: Write) -> None:
    write("a/0.png", png(0))
    path = write("sft.json", [CONVERSATION | changes])
    with pytest.raises(DataError, match=rf"sft\.json, row 0: .*{words}"):
        FileSource(test=path, format="codevision_sft", strict=True).sample("test", 0)
