"""The reader of turns on mutated replies: it never raises an exception, and only written code runs."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cv_lightning.conversation import format_answer, format_call, parse_reply
from cv_lightning.tools.reply_text import join_calls, split_calls, stable_text, whole_object
from cv_lightning.types import CODE_TOOL, ToolCall

#: Code that is only quoted in reasoning.
QUOTED = "quoted = 1"

TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>"]
SIGNS = ["```", '"', "\\", "{", "}", "[", "]", ",", ":", "\n", "\t", "\x00", "\ud800", "null", "x"]
PIECES = [*TAGS, *SIGNS, '"code"', '"arguments": ', '{"name": "code_image_tool"']
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=12), max_size=5).map("".join)


@st.composite
def replies(draw: st.DrawFn) -> tuple[str, int]:
    """A turn in an accepted spelling, and the length of its reasoning if this quotes a call, else 0."""
    code, words = draw(texts), draw(texts)
    arguments = {"code": code, "description": words, "image_index": draw(st.sampled_from([0, "1", 2.0, -1]))}
    kind = draw(st.sampled_from(["call", "fence", "raw", "text", "two", "quoted", "prompt", "answer"]))
    if kind == "answer":
        return format_answer("Read.", words), 0
    call = format_call("", ToolCall(code, words)).partition("\n")[2]
    if kind == "fence":
        call = f"<tool_call>```json\n{json.dumps({'name': CODE_TOOL, 'arguments': arguments})}\n```</tool_call>{words}"
    elif kind == "raw":
        call = call.replace("\\n", "\n").replace("\\t", "\t")
    elif kind == "text":
        payload = json.dumps({"name": CODE_TOOL, "arguments": json.dumps(arguments)}, ensure_ascii=False)
        call = f"<tool_call>{payload},}}</tool_call>"
    elif kind == "two":
        call += format_call("", ToolCall("result = image")).partition("\n")[2]
    elif kind in ("quoted", "prompt"):
        quoted = format_call("", ToolCall(QUOTED)).partition("\n")[2]
        reasoning = f"{'<think>' if kind == 'quoted' else ''}or {quoted}? No.</think>"
        return reasoning + call, len(reasoning)
    return f"<think>{words.replace('<', '')}</think>{call}", 0


#: (place as a share of the text, number of removed characters, inserted text).
Mutation = tuple[float, int, str]
mutations = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 6), st.sampled_from(["", *PIECES]) | st.text(max_size=3)), max_size=4
)


def strings(text: str, depth: int = 2) -> Iterator[str]:
    """Every part of a text that JSON reads as a string, from any start, also inside strings (arguments as text)."""
    decoder = json.JSONDecoder(strict=False)
    for start, character in enumerate(text):
        if character == '"':
            try:
                found, _ = decoder.raw_decode(text, start)
            except ValueError:
                continue
            yield found
            if depth > 1:
                yield from strings(found, depth - 1)


def check(text: str, n_reasoning: int, changes: Sequence[Mutation]) -> None:
    is_quoted = n_reasoning > 0
    for place, n_lost, put in changes:
        at = int(place * len(text))
        text = text[:at] + put + text[at + n_lost :]
        is_quoted &= at >= n_reasoning
    reply = parse_reply(text)
    assert sum(part is not None for part in (reply.call, reply.answer, reply.fault)) == 1, text
    if reply.call is not None:
        assert any(reply.call.code == written for written in strings(text)), f"code that nobody wrote: {text!r}"
        assert not (is_quoted and reply.call.code == QUOTED), f"code that was only quoted: {text!r}"
    assert reply.fault is None or 0 < len(reply.fault) < 400, text


@given(replies(), mutations)
def test_a_mutated_turn_runs_only_what_was_written(reply: tuple[str, int], changes: list[Mutation]) -> None:
    check(*reply, changes)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=2_000, suppress_health_check=[*HealthCheck])
@given(replies(), st.integers(0, 2**32))
def test_a_hundred_thousand_mutated_turns(reply: tuple[str, int], seed: int) -> None:
    """Fifty mutations of each turn; drawing each mutation with Hypothesis would take an hour."""
    rng = random.Random(seed)
    for _ in range(50):
        n = rng.randint(1, 4)
        check(*reply, [(rng.random(), rng.randint(0, 6), rng.choice(["", *PIECES])) for _ in range(n)])


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ('<tool_call>{"a": "</tool_call>"} b', (11, 32)),
        ('<tool_call>\n```json\n{"a": 1,}', (20, 29)),
        ('<tool_call>{"a": "', None),
        ("<tool_call>[1]", None),
    ],
)
def test_where_the_object_of_a_call_is(text: str, span: tuple[int, int] | None) -> None:
    assert whole_object(text, len("<tool_call>")) == span


WORDS = st.text(st.sampled_from('ab \n<>/{}"tool_call'), max_size=30)


@given(WORDS, st.dictionaries(WORDS, WORDS, max_size=3))
def test_a_call_survives_the_way_to_the_client_and_back(thought: str, arguments: dict[str, str]) -> None:
    if "<think>" in thought or "</tool_call>" in json.dumps(arguments):
        return
    payload = json.dumps({"name": "code_image_tool", "arguments": arguments}, ensure_ascii=False)
    text = f"<think>{thought}</think>\n<tool_call>\n{payload}\n</tool_call>"
    content, calls = split_calls(text)
    assert [(name, json.loads(given)) for name, given in calls] == [("code_image_tool", arguments)]
    assert join_calls(content, calls) == text


@pytest.mark.parametrize(
    "text",
    [
        "no call",
        "<tool_call>not json</tool_call>",
        '<tool_call>{"name": "f"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {}',
        '<think><tool_call>{"name": "f", "arguments": {}}</tool_call></think> hm',
        '<tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>x</tool_call>',
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert split_calls(text) == (text, [])


PIECES = st.lists(st.sampled_from(["a", "\n", "<", "<tool_call>", "<tool_", "\ufffd"]), max_size=12).map("".join)


@given(PIECES, st.booleans())
def test_what_was_streamed_is_never_taken_back(text: str, holds_calls: bool) -> None:
    """A replacement character at the end of the text so far is a letter with missing bytes."""
    whole = text.replace("\ufffd", "\u00e9")
    for call in ("", '<tool_call>{"name": "f", "arguments": {}}</tool_call>'):
        content = split_calls(whole + call)[0] if holds_calls else whole + call
        for end in range(len(whole) + 1):
            assert content.startswith(stable_text(whole[:end], holds_calls))
            assert content.startswith(stable_text(whole[:end] + "\ufffd", holds_calls))
