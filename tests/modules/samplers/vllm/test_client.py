"""One request per turn: a session decides by the type of a fault, and a reader sees each new token once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from cv_lightning.errors import EngineError
from modules.samplers.vllm.client import Away, EngineClient, Failed, Forgotten, Hung, StreamReader
from modules.samplers.vllm.wire import EngineReply

URL = "http://server"


def ask(answer: Callable[[httpx2.Request], httpx2.Response], reader: StreamReader | None = None) -> EngineReply:
    async def once() -> EngineReply:
        client = EngineClient(turn_s=5.0)
        await client.close()
        client._http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
        try:
            return await client.generate(URL, {"token_ids": [1, 2]}, [1, 2], reader)
        finally:
            await client.close()

    return asyncio.run(once())


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (400, "multimodal data is not provided", Forgotten),
        (404, "no adapter run-1", Away),
        (502, "bad gateway", Away),
        (503, "paused", Away),
        (500, "data is not provided", Failed),
        (504, "late", Failed),
        (400, "bad logit_bias", EngineError),
        (401, "who are you", EngineError),
    ],
)
def test_a_refusal_is_what_its_status_and_words_say(status: int, words: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"HTTP {status}: {words}") as caught:
        ask(lambda request: httpx2.Response(status, json={"message": words}))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("words", "remedy"),
    [("longer than the maximum", "--max-model-len"), ("max_model_len is 9", "--max-model-len"), ("no", "docs/engines")],
)
def test_a_request_that_is_refused_names_the_remedy(words: str, remedy: str) -> None:
    with pytest.raises(EngineError, match=f"{URL}: HTTP 422: {words}.*{remedy}"):
        ask(lambda request: httpx2.Response(422, json={"message": words}))


def test_one_that_cannot_be_reached_is_away_and_one_that_is_late_hangs() -> None:
    def gone(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("nobody listens", request=request)

    def late(request: httpx2.Request) -> httpx2.Response:
        raise TimeoutError

    with pytest.raises(Away, match=r"cannot be reached \(ConnectError: nobody listens\)"):
        ask(gone)
    with pytest.raises(Hung, match="no reply within 5 s"):
        ask(late)


def test_the_request_asks_for_token_ids_and_streams_for_a_reader() -> None:
    asked: list[dict[str, Any]] = []

    def refuse(request: httpx2.Request) -> httpx2.Response:
        asked.append(json.loads(request.content))
        return httpx2.Response(503)

    for reader in (None, StreamReader(lambda row: True, 9)):
        with pytest.raises(Away):
            ask(refuse, reader)
    common = {"token_ids": [1, 2], "return_token_ids": True}
    assert asked == [common | {"stream": False}, common | {"stream": True}]


def test_a_reader_is_shown_what_is_new_and_cuts_the_turn() -> None:
    shown: list[int] = []
    reader = StreamReader(lambda row: shown.extend(row) or len(shown) < 4, end_id=9)  # type: ignore[func-returns-value, arg-type]
    assert reader._show([5, 6])
    assert reader._show([5]), "asked again, it begins again"
    assert reader._show([5, 6, 7])
    assert not reader._show([5, 6, 7, 8, 4])
    assert shown == [5, 6, 7, 8]
    with pytest.raises(EngineError, match="broke off a turn"):
        reader._show([5, 1])
