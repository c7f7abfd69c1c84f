"""Texts of observations hold no markup, no control characters and no more than they may."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.messages import clean


@given(st.text(alphabet="<|>im_startedn/tool_response think", max_size=80), st.integers(0, 60))
def test_clean_text_holds_no_markup(text: str, limit: int) -> None:
    cleaned = clean(text, limit)
    assert len(cleaned) <= limit
    for token in ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<tool_response>", "</tool_response>", "<think>"):
        assert token not in cleaned


def test_clean_by_hand() -> None:
    assert clean("a<|im_<|im_end|>start|>b", 99) == "ab"
    assert clean("\x1b[31mred\x07\r\nnext\tcell\u202e\ud800", 99) == "[31mred\nnext\tcell"
    assert clean("x" * 50, 30).endswith("[text was cut here]")
    assert len(clean("x" * 50, 30)) == 30


@pytest.mark.parametrize("text", ["<|" * 9000 + "a" + "|>" * 9000, "<thi" * 6000 + "<think>" + "nk>" * 6000])
def test_nested_markup_costs_little_and_goes(text: str) -> None:
    start = time.process_time()
    cleaned = clean(text, 8000)
    assert time.process_time() - start < 1
    assert "<" not in cleaned
