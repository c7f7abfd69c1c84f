"""Requests and replies of the engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cv_lightning.errors import EngineError
from modules.samplers.vllm.wire import (
    Aborted,
    BrokenReply,
    EngineReply,
    StreamedReply,
    bias,
    collapsed,
    read_reply,
    sampling_parameters,
)
from tests.modules.samplers.vllm.fake import RECORDED

PAD = 9


def recorded(**changes: Any) -> dict[str, Any]:
    reply: dict[str, Any] = json.loads(json.dumps(RECORDED["POST /inference/v1/generate"]))
    reply["choices"][0] |= changes
    return reply


def test_runs_of_placeholders_become_one_each() -> None:
    assert collapsed([1, PAD, PAD, PAD, 2, PAD, 3], PAD, 2) == [1, PAD, 2, PAD, 3]
    assert collapsed([1, 2], PAD, 0) == [1, 2]


def test_another_number_of_images_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(EngineError, match="for each of 2 images, got 1"):
        collapsed([1, PAD, PAD, 2], PAD, 2)


def test_parameters_of_a_turn() -> None:
    drawn = sampling_parameters(0.7, 5, 20, 3, bias([1, 8]))
    assert drawn["logit_bias"] == {"1": -100.0, "8": -100.0}
    assert (drawn["seed"], drawn["max_tokens"], drawn["stop_token_ids"], drawn["logprobs"]) == (5, 20, [3], 0)
    greedy = sampling_parameters(0.0, 5, 20, 3, {})
    assert greedy["temperature"] == 0
    assert "seed" not in greedy
    assert "logit_bias" not in greedy


def test_a_recorded_reply_is_read() -> None:
    reply = recorded()
    (choice,) = reply["choices"]
    read = read_reply(json.dumps(reply).encode(), reply["prompt_token_ids"])
    assert read.ids == choice["token_ids"]
    assert read.logprobs == [entry["logprob"] for entry in choice["logprobs"]["content"]]
    assert read.is_finished == (choice["finish_reason"] == "stop")
    assert read.weights == ((choice["weight_versions"][0]["version"], 0, len(read.ids)),)


def test_recorded_chunks_are_the_reply_that_they_make() -> None:
    chunks = RECORDED["POST /inference/v1/generate, streamed"]
    prompt = recorded()["prompt_token_ids"]
    reply = StreamedReply(prompt)
    assert [reply.add(f"data: {json.dumps(chunk)}") for chunk in chunks] == [True] * 3
    assert not reply.add("")
    assert not reply.add("data: [DONE]")
    read = reply.whole()
    assert read == read_reply(json.dumps(recorded()).encode(), prompt)
    assert reply.cut(2, read.ids[1]) == EngineReply(read.ids[:2], read.logprobs[:2], True, None)
    with pytest.raises(EngineError, match="prompt_token_ids"):
        StreamedReply([1]).add(json.dumps(chunks[0]))


@pytest.mark.parametrize("n_chunks", [0, 1, 2])
def test_a_stream_that_ends_early_is_no_reply(n_chunks: int) -> None:
    reply = StreamedReply(recorded()["prompt_token_ids"])
    for chunk in RECORDED["POST /inference/v1/generate, streamed"][:n_chunks]:
        reply.add(json.dumps(chunk))
    with pytest.raises(BrokenReply):
        reply.whole()


def test_an_error_in_a_stream_is_no_reply() -> None:
    with pytest.raises(BrokenReply, match="EngineDead"):
        StreamedReply([1]).add('data: {"error": {"message": "EngineDeadError", "code": 500}}')


def test_a_reply_about_another_prompt_names_the_remedy() -> None:
    reply = recorded()
    with pytest.raises(EngineError, match=r"prompt_token_ids: expected the 2 ids.*min_pixels"):
        read_reply(json.dumps(reply).encode(), [1, 2])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"choices": []}',
        json.dumps(recorded()).encode()[:200],
        json.dumps(recorded(logprobs=None)).encode(),
        json.dumps(recorded(token_ids=[1])).encode(),
        json.dumps(recorded(finish_reason="error")).encode(),
    ],
    ids=["empty", "list", "no choice", "cut", "no logprobs", "other ids", "error"],
)
def test_what_is_no_reply_is_asked_for_again(content: bytes) -> None:
    with pytest.raises(BrokenReply):
        read_reply(content, recorded()["prompt_token_ids"])


def test_an_aborted_turn_is_told_from_one_that_ended() -> None:
    reply = recorded(finish_reason="abort")
    with pytest.raises(Aborted):
        read_reply(json.dumps(reply).encode(), reply["prompt_token_ids"])
