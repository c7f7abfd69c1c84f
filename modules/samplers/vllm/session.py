"""Samples turns through an engine, each at its own pace; what an engine can do wrong ends here."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from cv_lightning.errors import EngineError
from cv_lightning.rollout import Completion, OnTokens, Sampling
from cv_lightning.types import TokenSequence, ViewedImage
from modules.samplers.vllm.images import EncodedImages
from modules.samplers.vllm.server import words_of
from modules.samplers.vllm.weight_log import WeightLog
from modules.samplers.vllm.wire import Aborted, BrokenReply, bias, collapsed, read_reply, sampling_parameters

GENERATE = "/inference/v1/generate"
#: Words of a server that was asked about an image it has forgotten.
_FORGOTTEN = "data is not provided"


@dataclass(frozen=True)
class Patience:
    """How long an engine may be wrong or away.

    Attributes:
        turn_s: Longest time for one turn, its wait in the queue included; then the engine counts as hung.
        away_s: Longest time in which it is unreachable, paused or has other weights, such as while it is restarted.
        attempts: Requests of one turn that may fail with an error or a broken reply.
    """

    turn_s: float = 600.0
    away_s: float = 900.0
    attempts: int = 4


@dataclass
class Place:
    """A server as its clients see it.

    Attributes:
        url: Its address.
        known: Names of the images that it has.
        n_conversations: Conversations that were sent to it.
    """

    url: str
    known: set[str] = field(default_factory=set)
    n_conversations: int = 0


@dataclass
class Engine:
    """What the sessions of one process share.

    Attributes:
        places: The servers.
        weights: Which weights they have.
        images: The images that they get.
        patience: How long they may be wrong or away.
        complain: Called with the place that did not answer in time.
        fault: Why no server will come back; None while there is hope.
    """

    places: list[Place]
    weights: WeightLog
    images: EncodedImages
    patience: Patience
    complain: Callable[[Place], None] = lambda place: None
    fault: EngineError | None = None


class _Away(Exception):
    """The server cannot answer now; waiting or another server may help."""


class _Hung(_Away):
    """The server did not answer in time."""


class _Failed(Exception):
    """The server answered with an error."""


class _Forgotten(Exception):
    """The server no longer has an image."""


@dataclass(frozen=True)
class _Turn:
    """One turn to be sampled."""

    ids: list[int]
    images: list[ViewedImage]
    parameters: dict[str, Any]


@dataclass
class _Conversation:
    """What a session knows of one conversation."""

    context: TokenSequence  # held, so that its identity is not given to another
    number: int
    place: int
    n_turns: int = 0


class EngineSession:
    """Samples the turns of conversations; `sample` is called for many of them at once.

    A conversation stays with its server, and so do all that begin with the same prompt: the server computes it once.

    Args:
        engine: The servers.
        sampling: How tokens are drawn.
        image_id: The placeholder of images.
        end_id: The token that ends a turn.
        on_tokens: Reads along, and may end a turn before its end; a turn is shown when all of it is there.
        banned: Tokens that are never drawn.
        max_context_tokens: Longest conversation.
    """

    def __init__(
        self,
        engine: Engine,
        sampling: Sampling,
        *,
        image_id: int,
        end_id: int,
        banned: Sequence[int],
        max_context_tokens: int,
        on_tokens: OnTokens | None = None,
    ) -> None:
        self._engine = engine
        self._sampling = sampling
        self._image_id, self._end_id, self._bias = image_id, end_id, bias(banned)
        self._max_context_tokens = max_context_tokens
        self._on_tokens = on_tokens
        self._conversations: dict[int, _Conversation] = {}
        self._place_of_prompt: dict[tuple[int, ...], int] = {}
        self._sharers: dict[tuple[int, ...], int] = {}
        self._introduced: dict[tuple[int, ...], asyncio.Task[None]] = {}
        self._client: httpx2.AsyncClient | None = None

    async def sample(self, context: TokenSequence) -> Completion:
        """Sample one turn.

        Raises:
            EngineError: No server can answer; the message says why.
        """
        n_left = min(self._sampling.max_new_tokens, self._max_context_tokens - len(context))
        if n_left <= 0:
            return Completion([], [], False)
        conversation = await self._begin(context)
        seed = _seed(self._sampling.seed, conversation.number, conversation.n_turns)
        conversation.n_turns += 1
        turn = self._turn(context, n_left, seed)
        return self._read_along(await self._ask(turn, conversation))

    def _read_along(self, completion: Completion) -> Completion:
        """Show a turn to whoever reads along, who may cut it."""
        if self._on_tokens is None:
            return completion
        for n, token in enumerate(completion.ids, start=1):
            if not self._on_tokens([token]) and n < len(completion.ids):
                versions = completion.versions
                return Completion(completion.ids[:n], completion.logprobs[:n], False, versions and versions[:n])
        return completion

    async def close(self) -> None:
        """Give up what was asked, and close the connections."""
        for task in self._introduced.values():
            task.cancel()
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    # ---- where a conversation is ---------------------------------------------------------------------------------

    async def _begin(self, context: TokenSequence) -> _Conversation:
        """The conversation of a context, which gets a server with its first turn."""
        known = self._conversations.get(id(context))
        if known is not None:
            return known
        prompt = tuple(context.ids)
        place = self._place_of_prompt.setdefault(prompt, self._least_busy())
        self._engine.places[place].n_conversations += 1
        conversation = self._conversations[id(context)] = _Conversation(context, len(self._conversations), place)
        self._sharers[prompt] = self._sharers.get(prompt, 0) + 1
        await asyncio.sleep(0)  # the others that begin with this prompt are counted
        if self._sharers[prompt] > 1 and context.images:
            if prompt not in self._introduced:
                self._introduced[prompt] = asyncio.create_task(self._introduce(context, conversation))
            await asyncio.shield(self._introduced[prompt])
        return conversation

    def _least_busy(self) -> int:
        loads = [place.n_conversations for place in self._engine.places]
        return loads.index(min(loads))

    async def _introduce(self, context: TokenSequence, conversation: _Conversation) -> None:
        """Let a server read a prompt and its images once, before several conversations continue it."""
        await self._ask(self._turn(context, 1, 0), conversation)

    def _turn(self, context: TokenSequence, max_tokens: int, seed: int) -> _Turn:
        parameters = sampling_parameters(self._sampling.temperature, seed, max_tokens, self._end_id, self._bias)
        return _Turn([*context.ids], [*context.images], parameters)

    # ---- asking --------------------------------------------------------------------------------------------------

    async def _ask(self, turn: _Turn, conversation: _Conversation) -> Completion:
        """Ask until there is a reply; a turn is kept whole or not at all, so nothing is lost or counted twice."""
        patience = self._engine.patience
        n_failed, attempt, last = 0, 0, ""
        deadline = time.monotonic() + patience.away_s
        while True:
            attempt += 1
            place = self._engine.places[conversation.place]
            try:
                return await self._request(turn, place)
            except _Forgotten:
                place.known -= {self._engine.images.name(viewed) for viewed in turn.images}
                continue
            except _Away as error:
                if isinstance(error, _Hung):
                    self._engine.complain(place)
                    deadline = max(deadline, time.monotonic() + patience.away_s / 2)  # hanging took its time already
                last = str(error)
                conversation.place = (conversation.place + 1) % len(self._engine.places)
            except (_Failed, BrokenReply) as error:
                n_failed, last = n_failed + 1, str(error)
            if self._engine.fault is not None:
                raise self._engine.fault
            if n_failed >= patience.attempts:
                raise EngineError(
                    f"{place.url}: {last} ({n_failed} attempts). Look into the engine's log for the cause."
                )
            if time.monotonic() > deadline:
                raise EngineError(
                    f"{place.url}: {last}, for {patience.away_s:g} s. Start the engine again; its log says why."
                )
            await asyncio.sleep(min(2.0, 0.1 * 2 ** min(attempt, 10)))

    async def _request(self, turn: _Turn, place: Place) -> Completion:
        """Ask once."""
        asked = self._engine.weights.current()
        names = [self._engine.images.name(viewed) for viewed in turn.images]
        body: dict[str, Any] = {
            "model": asked.model,
            "token_ids": collapsed(turn.ids, self._image_id, len(turn.images)),
            "sampling_params": turn.parameters,
            "return_token_ids": True,
        }
        if names:
            body["content_parts"] = [
                {"type": "image_url", "uuid": name}
                | ({} if name in place.known else {"url": await self._engine.images.url(viewed)})
                for name, viewed in zip(names, turn.images, strict=True)
            ]
        try:
            reply = read_reply(await self._post(place, body), turn.ids)
        except Aborted as error:
            raise _Away(str(error)) from error
        versions = self._engine.weights.versions(reply, asked)
        if versions is None:
            raise _Away(f"expected weights {asked.label!r}, got {sorted({label for label, _, _ in reply.weights})}")
        place.known.update(names)
        return Completion(reply.ids, reply.logprobs, reply.is_finished, versions)

    async def _post(self, place: Place, body: dict[str, Any]) -> bytes:
        """Send a request; faults of the way and of the server become ours."""
        if self._client is None:
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
            self._client = httpx2.AsyncClient(timeout=None, limits=limits, trust_env=False)
        try:
            async with asyncio.timeout(self._engine.patience.turn_s):
                response = await self._client.post(place.url + GENERATE, json=body)
        except TimeoutError:
            raise _Hung(f"no reply within {self._engine.patience.turn_s:g} s") from None
        except httpx2.TransportError as error:
            raise _Away(f"cannot be reached ({type(error).__name__}: {error})") from error
        if response.status_code == 200:
            return response.content
        said = f"HTTP {response.status_code}: {words_of(response.content)}"
        if response.status_code == 400 and _FORGOTTEN in said:
            raise _Forgotten
        if response.status_code in (404, 502, 503):  # 404: it was restarted and has not got the adapter yet
            raise _Away(said)
        if response.status_code >= 500:
            raise _Failed(said)
        raise EngineError(f"{place.url}: {said}. The engine refuses the request itself; {_remedy(said)}")


def _remedy(said: str) -> str:
    if "max_model_len" in said or "maximum" in said or "longer than" in said:
        return "start it with --max-model-len of at least policy.max_context_tokens."
    return "compare its options with those in docs/engines.md."


def _seed(seed: int, conversation: int, turn: int) -> int:
    """A seed of its own for each turn, the same in each run."""
    digest = hashlib.blake2b(json.dumps([seed, conversation, turn]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
