"""A server whose policy samples texts of a test; tokens, server and executor are real."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from openai import OpenAI

from cv_lightning.conversation import Conversation
from cv_lightning.rollout import Completion, OnTokens, Sampling
from cv_lightning.serving.answers import Answering
from cv_lightning.serving.policy_backend import PolicyBackend
from cv_lightning.serving.server import ChatServer
from cv_lightning.types import TokenSequence


class Spoken:
    """A policy that samples `say(context, seed)`, one token per letter; token n has log-probability -n."""

    def __init__(self, conversation: Conversation, say: Callable[[TokenSequence, int], str]) -> None:
        self.conversation = conversation
        self.say = say
        self.contexts: list[list[int]] = []

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> _Session:
        return _Session(self, sampling, on_tokens)


class _Session:
    def __init__(self, policy: Spoken, sampling: Sampling, on_tokens: OnTokens | None) -> None:
        self._policy, self._sampling, self._on_tokens = policy, sampling, on_tokens

    def sample(self, contexts: Sequence[TokenSequence]) -> list[Completion]:
        policy, rows, written = self._policy, [], [[] for _ in contexts]
        policy.contexts += [[*context.ids] for context in contexts]
        for row, context in enumerate(contexts):
            letters = policy.say(context, self._sampling.seed + row)
            ids = [i for letter in letters for i in policy.conversation.tokenizer.encode(letter)]
            rows.append([*ids, policy.conversation.end_of_turn_id][: self._sampling.max_new_tokens])
        for step in range(max(map(len, rows))):
            tokens = [row[step] if step < len(row) else None for row in rows]
            for ids, token in zip(written, tokens, strict=True):
                ids += [] if token is None else [token]
            if self._on_tokens is not None and not self._on_tokens(tokens):
                break
        end_id = policy.conversation.end_of_turn_id
        return [Completion(ids, [-float(n) for n in range(len(ids))], ids[-1] == end_id) for ids in written]


@contextlib.contextmanager
def serving(policy: Any, answering: Answering | None = None, **settings: Any) -> Iterator[tuple[OpenAI, str]]:
    """A real client of a server of the policy, and the server's address."""
    backend = PolicyBackend(policy, "spoken", **settings)
    server = ChatServer(backend, port=0, on_stop=backend.close, answering=answering)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.port}/v1"
    try:
        with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as client:
            yield client, url
    finally:
        server.stop()
        thread.join(60)
