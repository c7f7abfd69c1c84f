"""Any model behind an OpenAI-compatible server: retries, a rate limit, a disk cache, and what it cost.

Nothing here imports torch. The API key is read from an environment variable when a request is sent; it stands in no
message, no fingerprint and no cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cv_lightning.endpoint.http_json import RequestError, check_url, read_key, request_json
from cv_lightning.endpoint.reply_cache import ReplyCache
from cv_lightning.errors import ConfigError, CVLightningError

#: The first wait before a request is sent again; it doubles from one to the next.
_FIRST_WAIT_S = 0.5


class EndpointError(CVLightningError):
    """A model that cannot be asked: what it said, and what helps."""


@dataclass
class Usage:
    """What was asked and what it cost.

    Attributes:
        requests: Requests that were answered by the server.
        from_cache: Requests that were answered from disk, free of charge.
        retries: Requests that had to be sent again.
        input_tokens: Tokens of the prompts, images included, as the server counts them.
        output_tokens: Tokens of the replies.
        cost: In the currency of the prices.
    """

    requests: int = 0
    from_cache: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class ChatReply:
    """What a model said.

    Attributes:
        text: Its words, "" where it only called tools.
        calls: (id, name of the function, arguments as JSON text) of the tools that it calls.
        finish_reason: "stop", "length", "tool_calls", "content_filter" or another word of the server.
    """

    text: str
    calls: tuple[tuple[str, str, str], ...] = ()
    finish_reason: str = "stop"


@dataclass
class Endpoint:
    """A model behind an OpenAI-compatible server. It may be used from many threads; a copy counts for itself.

    Attributes:
        url: Base address, e.g. "https://api.openai.com/v1".
        model: Name of the model; None takes the only one, or the first, that the server lists.
        api_key_variable: Environment variable that holds the key, if the server wants one.
        timeout_s: Seconds to wait for one reply.
        attempts: Requests before one counts as failed; time-outs, cut connections, rubbish, 429 and 5xx are repeated.
        max_wait_s: Longest wait between two attempts; a server that asks for more (Retry-After) gets this.
        requests_per_minute: Rate limit; None: none but the server's own.
        input_price: Price of a million input tokens.
        output_price: Price of a million output tokens.
        max_cost: No request is sent once this was spent.
        cache: Folder of replies, so that nothing is paid for twice; None keeps none.
        extra: More keys of the request ("reasoning_effort"); null takes a key out ("temperature").

    Raises:
        ConfigError: A value that cannot be.
    """

    url: str
    model: str | None = None
    api_key_variable: str | None = "OPENAI_API_KEY"
    timeout_s: float = 120.0
    attempts: int = 5
    max_wait_s: float = 60.0
    requests_per_minute: float | None = None
    input_price: float = 0.0
    output_price: float = 0.0
    max_cost: float | None = None
    cache: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_url(self.url, "the endpoint's url")
        rate, limit = self.requests_per_minute, self.max_cost
        if self.attempts < 1 or self.timeout_s <= 0 or self.max_wait_s < 0 or (rate is not None and rate <= 0):
            raise ConfigError(
                "Endpoint: expected attempts >= 1, timeout_s > 0, max_wait_s >= 0 and requests_per_minute > 0 but got "
                f"{self.attempts}, {self.timeout_s}, {self.max_wait_s}, {rate}"
            )
        if min(self.input_price, self.output_price) < 0 or (limit is not None and limit <= 0):
            raise ConfigError(
                "Endpoint: expected prices >= 0 and max_cost > 0 but got "
                f"{self.input_price}, {self.output_price}, {limit}"
            )
        if limit is not None and not self.input_price and not self.output_price:
            raise ConfigError("Endpoint: max_cost needs input_price and output_price, per million tokens.")
        self.usage = Usage()
        self._lock = threading.Lock()
        self._next_slot = 0.0  # when the next request may be sent, by time.monotonic()
        self._name = self.model
        self._cache = ReplyCache(Path(self.cache)) if self.cache is not None else None

    def __reduce__(self) -> tuple[type[Endpoint], tuple[Any, ...]]:
        return Endpoint, tuple(getattr(self, each.name) for each in fields(self))

    # ---- what is asked -----------------------------------------------------------------------------------------------

    def model_name(self) -> str:
        """The model's name; the server is asked where the config does not say.

        Raises:
            EndpointError: The server does not tell.
        """
        if self._name is None:
            try:
                reply = self._repeated("/models", None)
                self._name = str(reply["data"][0]["id"])
            except RequestError as error:
                raise EndpointError(f"{self.url}: {error}. Is the server running, and the address right?") from error
            except (LookupError, TypeError) as error:
                raise EndpointError(f"{self.url}/models lists no model. Give the endpoint's `model`.") from error
        return self._name

    def identity(self) -> dict[str, Any]:
        """What decides the replies besides the messages."""
        return {"url": self.url, "model": self.model_name(), "extra": self.extra}

    def chat(self, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> ChatReply:
        """Ask for the next turn.

        Args:
            messages: The conversation in OpenAI's form.
            settings: Other keys of the request: temperature, max_tokens, tools, ...

        Raises:
            EndpointError: The server refuses what no repeating mends (a wrong key, an unknown model, a quota), or the
                budget is spent: no other request will go better.
            RequestError: This request was refused, or failed as often as it may.
        """
        merged = {"model": self.model_name(), "messages": list(messages), **settings, **self.extra}
        body = {key: value for key, value in merged.items() if value is not None}
        digest = hashlib.sha256(json.dumps([self.url, body], sort_keys=True).encode()).hexdigest()
        content = self._cache.get(digest) if self._cache is not None else None
        if content is not None:
            with contextlib.suppress(RequestError):  # what was written by another version is asked again
                reply = read_reply(content)
                with self._lock:
                    self.usage.from_cache += 1
                return reply
        content = self._repeated("/chat/completions", body)
        if self._cache is not None:
            self._cache.put(digest, content)
        return read_reply(content)

    # ---- how it is sent ----------------------------------------------------------------------------------------------

    def _repeated(self, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        wait_s = _FIRST_WAIT_S
        for attempt in range(self.attempts):
            self._check_budget()
            self._wait_for_slot()
            try:
                key = read_key(self.api_key_variable)
                content = request_json(self.url.rstrip("/") + path, body, self.timeout_s, key)
                if body is not None:
                    self._count(content)
                    read_reply(content)
                return content
            except RequestError as error:
                self._raise_if_hopeless(error)
                self._hold_back(error)
                if not error.is_passing or attempt == self.attempts - 1:
                    raise
                with self._lock:
                    self.usage.retries += 1
                if error.retry_after_s is None:
                    # Spread, so that what failed together does not come back together.
                    time.sleep(min(self.max_wait_s, wait_s) * random.uniform(0.5, 1.0))  # noqa: S311
                wait_s *= 2
        raise AssertionError("attempts is at least 1")

    def _raise_if_hopeless(self, error: RequestError) -> None:
        """Raise where no other request will go better."""
        if error.status in (401, 403):
            remedy = f"Set {self.api_key_variable} to a key that this server knows."
        elif error.status == 404:
            remedy = f"Check its url, and that it has the model {self._name!r}."
        elif error.code == "insufficient_quota":
            remedy = "Its quota is used up."
        elif error.status is not None and 300 <= error.status < 400:
            remedy = "It sends requests elsewhere: give that address as the endpoint's url."
        else:
            return
        raise EndpointError(f"{self.url}: {error}. {remedy}") from error

    def _check_budget(self) -> None:
        if self.max_cost is not None and self.usage.cost >= self.max_cost:
            raise EndpointError(
                f"{self.url}: {self.usage.cost:.2f} were spent, and max_cost is {self.max_cost:g}. "
                "Raise it and run the same command again: it goes on from there."
            )

    def _wait_for_slot(self) -> None:
        """Take the next place in the row of requests, and wait for it."""
        while True:
            with self._lock:
                now = time.monotonic()
                if self._next_slot <= now:
                    self._next_slot = now + (60.0 / self.requests_per_minute if self.requests_per_minute else 0.0)
                    return
                pause_s = self._next_slot - now
            time.sleep(pause_s)

    def _hold_back(self, error: RequestError) -> None:
        """Where the server says how long to wait (429), all threads do."""
        if error.retry_after_s is not None:
            with self._lock:
                until = time.monotonic() + min(error.retry_after_s, self.max_wait_s)
                self._next_slot = max(self._next_slot, until)

    def _count(self, content: Mapping[str, Any]) -> None:
        given = content.get("usage")
        counts = given if isinstance(given, dict) else {}
        n_input, n_output = (_count_of(counts, name) for name in ("prompt_tokens", "completion_tokens"))
        with self._lock:
            self.usage.requests += 1
            self.usage.input_tokens += n_input
            self.usage.output_tokens += n_output
            self.usage.cost += (n_input * self.input_price + n_output * self.output_price) / 1e6

    def counts(self) -> dict[str, float]:
        """`usage` as numbers by name."""
        return {name: float(value) for name, value in asdict(self.usage).items()}


def read_reply(content: Mapping[str, Any]) -> ChatReply:
    """The reply of a chat completion; raises `RequestError` for what is none."""
    try:
        choice = content["choices"][0]
        message = choice["message"]
        text = message.get("content") or message.get("refusal") or ""
        if isinstance(text, list):  # some servers answer in parts
            text = "".join(part.get("text") or "" for part in text)
        calls = [
            (str(call.get("id") or ""), str(call["function"]["name"]), _arguments(call["function"]["arguments"]))
            for call in message.get("tool_calls") or ()
        ]
        if not isinstance(text, str):
            raise TypeError("content is no text")
    except (LookupError, TypeError, AttributeError) as error:
        excerpt = json.dumps(content)[:200]
        raise RequestError(f"the reply is no chat completion: {excerpt}") from error
    return ChatReply(text, tuple(calls), str(choice.get("finish_reason") or "stop"))


def _count_of(counts: Mapping[str, Any], name: str) -> int:
    count = counts.get(name)
    return count if isinstance(count, int) and count > 0 else 0


def _arguments(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)
