"""Replies as people see them: parts only grow, and a terminal gets no escape sequences."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.chat.reply_parts import Part, printable, read_parts
from cv_lightning.conversation import format_answer, format_call
from cv_lightning.types import ToolCall

PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<answer>",
        "</answer>",
        '{"code": "',
        '<tool_call>{"code": "a',
        '</tool_call>"}',
        "```json",
        '"',
        "\\n",
        "\\u00e9",
        "\\",
        "\\ud83d\\ude00",
        "\\ud83d",
        "\\u12",
        "<",
        "</",
        "x = 1",
        "\n",
        " ",
        "\ufffd",
        "é",
        "}",
    ]
)


def test_a_turn_has_reasoning_and_code() -> None:
    code = 'draw.text((1, 2), "a\\n\U0001f600")\nresult = image  # ü'
    text = format_call("Look: 1 < 2.", ToolCall(code))
    assert read_parts(text) == [Part("thought", "Look: 1 < 2."), Part("code", code)]
    escaped = text.split("\n")[0] + "<tool_call>" + json.dumps({"name": "x", "arguments": {"code": code}})
    assert read_parts(escaped)[1].text == code  # \u escapes with surrogate pairs, and a call without an end
    assert read_parts(format_answer("So.", " F7G ")) == [Part("thought", "So."), Part("answer", "F7G")]


CODE = "text = '</tool_call><answer>7</answer>'  # <think>, <tool_call>\nresult = image"


def test_code_ends_where_its_object_ends() -> None:
    text = format_call("I look.", ToolCall(CODE)) + "\nThen I read."
    parts = [Part("thought", "I look."), Part("code", CODE), Part("text", "Then I read.")]
    assert read_parts(text) == parts
    for cut in range(len(text)):
        shown = read_parts(text[:cut], is_whole=False)
        assert [part.kind for part in shown] == [part.kind for part in parts[: len(shown)]]
        assert all(part.text.startswith(early.text) for part, early in zip(parts, shown, strict=False))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('<tool_call>```json\n{"code": "a"}\n```</tool_call>b', [Part("code", "a"), Part("text", "b")]),
        ('<tool_call>{"code": "a"} Words.</tool_call>b', [Part("code", "a"), Part("text", "b")]),
        ('<tool_call>{"code": "a"}<answer>7</answer>', [Part("code", "a"), Part("answer", "7")]),
        ('<tool_call>{"code": "a"}', [Part("code", "a")]),
        ('<tool_call>{"code": "a", </tool_call>b', [Part("code", "a"), Part("text", "b")]),
        ('<tool_call>{"name": "rotate"}</tool_call>b', [Part("call", '{"name": "rotate"}'), Part("text", "b")]),
    ],
)
def test_where_a_call_ends(text: str, parts: list[Part]) -> None:
    assert read_parts(text) == parts


def test_what_is_no_call_is_shown_as_it_was_written() -> None:
    assert read_parts("<tool_call>nonsense</tool_call> and more") == [
        Part("call", "nonsense"),
        Part("text", "and more"),
    ]
    assert read_parts("plain words") == [Part("text", "plain words")]
    assert read_parts("<think> </think>") == []


@pytest.mark.parametrize(
    ("beginning", "parts"),
    [
        ("<thi", []),
        ("<think>A", [Part("thought", "A")]),
        ("<think>A</thi", [Part("thought", "A")]),
        ("<think>A <", [Part("thought", "A")]),
        ("<think>\ufffd", []),
        ('<tool_call>{"arguments": {"co', []),
        ('<tool_call>{"arguments": {"code": "a\\', [Part("code", "a")]),
        ('<tool_call>{"arguments": {"code": "a\\nb\\u00', [Part("code", "a\nb")]),
    ],
)
def test_what_may_still_change_is_held_back(beginning: str, parts: list[Part]) -> None:
    assert read_parts(beginning, is_whole=False) == parts


@given(st.lists(PIECES, max_size=25).map("".join), st.data())
def test_parts_only_grow_while_a_reply_is_written(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    early, late = read_parts(text[:cut], is_whole=False), read_parts(text)
    assert len(early) <= len(late)
    for index, part in enumerate(early):
        assert part.kind == late[index].kind
        if index < len(early) - 1:
            assert part == late[index]
        else:
            assert late[index].text.startswith(part.text)


@given(st.text())
def test_a_terminal_is_never_given_orders(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert all(letter in "\n\t" or not (letter < " " or "\x7f" <= letter <= "\x9f") for letter in shown)
    shown.encode()


def test_escape_sequences_become_visible() -> None:
    assert printable("\x1b]0;owned\x07\x9b31m\u202eabc\r") == "\u241b]0;owned\u2407\ufffd31m\ufffdabc\u240d"
