"""Texts of observations hold no markup and no control characters, and stay within their limit."""

from __future__ import annotations

import site
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sandbox
from sandbox.messages import clean, describe_error, hide_paths, kind_of, not_lifted, too_large


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


def test_an_error_names_its_line_and_no_internals_of_opencv() -> None:
    code = "a = 1\n  b = image.rotate()\n"
    assert describe_error("TypeError", "no angle", 2, code) == "TypeError: no angle\n  line 2: b = image.rotate()"
    assert describe_error("KeyError", "", 1, code) == "KeyError\n  line 1: a = 1"
    assert describe_error("KeyError", "", 0, code) == "KeyError"
    assert describe_error("KeyError", "x", 3, code) == "KeyError: x"
    message = "OpenCV(4.11.0) /io/opencv/modules/imgproc/src/resize.cpp:4155: error: (-215) !ssize.empty()"
    assert describe_error("cv2.error", message, 0, "") == "cv2.error: (-215) !ssize.empty()"


class OwnError(Exception):
    pass


def test_a_kind_is_named_as_in_a_traceback() -> None:
    assert kind_of(ValueError()) == "ValueError"
    assert kind_of(OwnError()) == f"{__name__}.OwnError"
    own = type("SnippetError", (Exception,), {"__module__": "__main__"})
    assert kind_of(own()) == "SnippetError"


def test_code_that_cannot_run_is_told_where_and_what_to_write() -> None:
    assert not_lifted("a call of print", 3, "leave it out").startswith(
        "line 3: a call of print cannot run here; leave "
    )
    assert "use plain Pillow, OpenCV or NumPy calls" in not_lifted("a loop", 1)


def test_a_size_above_the_limit_is_told_with_it() -> None:
    assert (
        too_large((9000, 4000), 32.0) == "The result is too large: 9000x4000 pixels; at most 32 megapixels are allowed."
    )
    assert "at most 0.5 megapixels" in too_large((1000, 1000), 0.5)


def test_paths_of_the_installation_are_hidden() -> None:
    places = (sys.prefix, str(Path(sandbox.__file__).parent), site.getsitepackages()[0])
    for place in places:
        assert place not in hide_paths(f"File {place}/x.py and {place}")
    assert hide_paths("File image.png") == "File image.png"
