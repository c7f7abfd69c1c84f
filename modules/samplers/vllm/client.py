"""Asks a server for one turn, once, and raises a named exception for each kind of failure."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from functools import cache
from typing import Any

import httpx2

from cv_lightning.errors import EngineError
from cv_lightning.rollout import OnTokens
from modules.samplers.vllm.server import words_of
from modules.samplers.vllm.wire import Aborted, EngineReply, StreamedReply, read_reply

GENERATE = "/inference/v1/generate"
#: Part of the message of a server that no longer has an image.
_FORGOTTEN = "data is not provided"


class Away(Exception):
    """The server cannot answer now; waiting or another server may help."""


class Hung(Away):
    """The server did not answer in time."""


class Failed(Exception):
    """The server answered with an error."""


class Forgotten(Exception):
    """The server no longer has an image."""


class StreamReader:
    """Shows a turn token by token; a turn that is retried continues where it broke off.

    Args:
        on_tokens: Receives the tokens, as one row, and may cut the turn.
        end_id: The token that ends a turn.
    """

    def __init__(self, on_tokens: OnTokens, end_id: int) -> None:
        self._on_tokens = on_tokens
        self._end_id = end_id
        self._shown: list[int] = []

    async def read(self, response: httpx2.Response, expected_ids: Sequence[int]) -> EngineReply:
        """Read a streamed reply while it is written.

        Raises:
            EngineError: A retried turn differs from the tokens that were shown, or the reply is to another prompt.
            Aborted: See `read_reply`.
            BrokenReply: See `read_reply`.
        """
        reply = StreamedReply(expected_ids)
        async for line in response.aiter_lines():
            if reply.add(line) and not self._show(reply.ids):
                return reply.cut(len(self._shown), self._end_id)
        return reply.whole()

    def _show(self, ids: Sequence[int]) -> bool:
        if self._shown[: len(ids)] != ids[: len(self._shown)]:
            raise EngineError("The engine broke off a turn halfway and then wrote a different one. Ask again.")
        for token in ids[len(self._shown) :]:
            self._shown.append(token)
            if not self._on_tokens([token]):
                return False
        return True


class EngineClient:
    """The connections of one event loop.

    Args:
        turn_s: Longest time for one turn.
    """

    def __init__(self, turn_s: float) -> None:
        self._turn_s = turn_s
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx2.AsyncClient(verify=_ssl_context(), timeout=None, limits=limits, trust_env=False)

    async def generate(
        self, url: str, body: dict[str, Any], expected_ids: Sequence[int], reader: StreamReader | None = None
    ) -> EngineReply:
        """Ask for a turn.

        Args:
            url: The server.
            body: The request.
            expected_ids: The ids of the prompt, placeholders expanded.
            reader: Shows the turn while it is sampled.

        Raises:
            Away: The server cannot be reached, is paused, or gave up the turn.
            Hung: It does not answer within `turn_s`.
            Failed: It answered with an error.
            Forgotten: It no longer has an image that the request names.
            BrokenReply: See `read_reply`.
            EngineError: It refuses the request, or read another prompt.
        """
        body = body | {"return_token_ids": True, "stream": reader is not None}
        try:
            async with asyncio.timeout(self._turn_s), self._http.stream("POST", url + GENERATE, json=body) as response:
                if response.status_code == 200 and reader is not None:
                    return await reader.read(response, expected_ids)
                content = await response.aread()
            if response.status_code == 200:
                return read_reply(content, expected_ids)
        except TimeoutError:
            raise Hung(f"no reply within {self._turn_s:g} s") from None
        except httpx2.TransportError as error:
            raise Away(f"cannot be reached ({type(error).__name__}: {error})") from error
        except Aborted as error:
            raise Away(str(error)) from error
        raise _refusal(url, response.status_code, words_of(content))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


@cache
def _ssl_context() -> ssl.SSLContext:
    return httpx2.create_ssl_context(trust_env=False)  # reading the certificates takes longer than a short turn


def _refusal(url: str, status: int, words: str) -> Exception:
    said = f"HTTP {status}: {words}"
    if status == 400 and _FORGOTTEN in words:
        return Forgotten(said)
    if status in (404, 502, 503):  # 404: it was restarted and does not have the adapter yet
        return Away(said)
    if status >= 500:
        return Failed(said)
    return EngineError(f"{url}: {said}. The engine refuses the request. {_remedy(said)}")


def _remedy(said: str) -> str:
    if "max_model_len" in said or "maximum" in said or "longer than" in said:
        return "Start it with --max-model-len of at least policy.max_context_tokens."
    return "Compare its options with those in docs/engines.md."
