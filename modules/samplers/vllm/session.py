"""Samples turns through an engine, each at its own pace, and handles the engine's failures."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cv_lightning.errors import ConfigError, EngineError
from cv_lightning.rollout import Completion, OnTokens, Sampling
from cv_lightning.types import TokenSequence, ViewedImage
from modules.policy.policy import Policy
from modules.samplers.vllm.client import Away, EngineClient, Failed, Forgotten, Hung, StreamReader
from modules.samplers.vllm.engine import Engine, Place
from modules.samplers.vllm.wire import MAX_TEMPERATURE, BrokenReply, bias, collapsed, sampling_parameters


@dataclass(frozen=True)
class _Turn:
    """One turn to be sampled."""

    ids: list[int]
    images: list[ViewedImage]
    parameters: dict[str, Any]
    reader: StreamReader | None = None


@dataclass
class _Conversation:
    """The state of one conversation in a session."""

    context: TokenSequence  # kept alive, so that no other context gets its id
    number: int
    place: int
    n_turns: int = 0


class EngineSession:
    """Samples the turns of conversations; `sample` is called for many of them at once.

    A conversation stays with its server. Conversations that begin with the same prompt share a server, which computes
    the prompt once.

    Args:
        engine: The servers.
        sampling: How tokens are sampled.
        image_id: The placeholder of images.
        end_id: The token that ends a turn.
        on_tokens: Receives tokens while turns are sampled, and may cut a turn.
        banned: Tokens that are never sampled.
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
        self._client: EngineClient | None = None

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
        reader = None if self._on_tokens is None else StreamReader(self._on_tokens, self._end_id)
        return await self._ask(replace(self._turn(context, n_left, seed), reader=reader), conversation)

    async def close(self) -> None:
        """Cancel pending requests and close the connections."""
        for task in self._introduced.values():
            task.cancel()
        if self._client is not None:
            await self._client.close()
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
        await asyncio.sleep(0)  # lets the other conversations with this prompt be counted
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
            except Forgotten:
                place.known -= {self._engine.images.name(viewed) for viewed in turn.images}
                continue
            except Away as error:
                if isinstance(error, Hung):
                    self._engine.complain(place)
                    n_failed += 1
                    deadline = max(deadline, time.monotonic() + patience.away_s / 2)  # the hang itself took time
                last = str(error)
                conversation.place = (conversation.place + 1) % len(self._engine.places)
            except (Failed, BrokenReply) as error:
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
        }
        if names:
            body["content_parts"] = [
                {"type": "image_url", "uuid": name}
                | ({} if name in place.known else {"url": await self._engine.images.url(viewed)})
                for name, viewed in zip(names, turn.images, strict=True)
            ]
        if self._client is None:
            self._client = EngineClient(self._engine.patience.turn_s)
        reply = await self._client.generate(place.url, body, turn.ids, turn.reader)
        place.known.update(names)
        if reply.weights is None:
            return Completion(reply.ids, reply.logprobs, reply.is_finished)
        versions = self._engine.weights.versions(reply, asked)
        if versions is None:
            raise Away(f"expected weights {asked.label!r}, got {sorted({label for label, _, _ in reply.weights})}")
        return Completion(reply.ids, reply.logprobs, reply.is_finished, versions)


class Speaker:
    """Samples in a rollout: the conversation is the policy's, the tokens come from the engine."""

    def __init__(self, policy: Policy, engine: Engine) -> None:
        self.conversation = policy.conversation
        self._policy = policy
        self._engine = engine

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> EngineSession:
        """Start sampling; raises `ConfigError` for a temperature that vLLM refuses."""
        if sampling.temperature > MAX_TEMPERATURE:
            raise ConfigError(
                f"rollout.temperature: expected at most {MAX_TEMPERATURE:g}, which is vLLM's limit, got "
                f"{sampling.temperature:g}."
            )
        return EngineSession(
            self._engine,
            sampling,
            image_id=int(self._policy.core.config.image_token_id),
            end_id=self.conversation.end_of_turn_id,
            banned=self._policy.is_banned_V.nonzero().flatten().tolist(),
            max_context_tokens=self.conversation.max_context_tokens,
            on_tokens=on_tokens,
        )


def _seed(seed: int, conversation: int, turn: int) -> int:
    """A separate seed for each turn, the same in every run."""
    digest = hashlib.blake2b(json.dumps([seed, conversation, turn]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
