"""A client for any model behind an OpenAI-compatible server, with retries, a rate limit, a disk cache and costs.

The API key is read from an environment variable when a request is sent; no message, fingerprint or cache holds it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from cv_lightning.endpoint.adaptation import Adaptation, ToolImages
from cv_lightning.endpoint.keys import check_url
from cv_lightning.endpoint.meter import EndpointError, RequestError, RequestMeter, Usage
from cv_lightning.endpoint.reply import ChatReply, read_reply
from cv_lightning.endpoint.reply_cache import ReplyCache
from cv_lightning.errors import ConfigError

if TYPE_CHECKING:
    from cv_lightning.endpoint.openai_client import Client

#: Key of a cached reply for the changes to its request.
_ADAPTED = "cv_lightning_adapted"


@dataclass
class Endpoint:
    """A model behind an OpenAI-compatible server. Threads may share it; a copy has its own counts.

    Attributes:
        url: Base address, e.g. "https://api.openai.com/v1".
        model: Name of the model; None for the first model that the server lists.
        api_key_variable: Environment variable that holds the key, if the server requires one.
        timeout_s: Seconds to wait for one reply.
        attempts: Attempts before a request counts as failed; timeouts, cut connections, invalid replies, 429 and 5xx
            are retried.
        max_wait_s: Longest wait between two attempts, even if the server asks for more (Retry-After).
        requests_per_minute: Rate limit, in addition to the server's own.
        input_price: Price of a million input tokens.
        output_price: Price of a million output tokens.
        max_cost: No request is sent after this amount was spent.
        cache: Folder of replies, so that nothing is paid for twice; None for no cache.
        extra: More keys of the request ("reasoning_effort"); null removes a key ("temperature").
        tool_images: Place of the images of tool results: "user", a user turn after the tool's turn; "bridge", a user
            turn after an extra assistant turn; "tool", the tool's turn. If the server refuses the place, another one is
            tried.

    Raises:
        ConfigError: A value is out of range.
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
    tool_images: ToolImages = "user"

    def __post_init__(self) -> None:
        check_url(self.url, "endpoint.url")
        rate, limit = self.requests_per_minute, self.max_cost
        if self.attempts < 1 or self.timeout_s <= 0 or self.max_wait_s < 0 or (rate is not None and rate <= 0):
            raise ConfigError(
                "Endpoint: expected attempts >= 1, timeout_s > 0, max_wait_s >= 0 and requests_per_minute > 0, got "
                f"{self.attempts}, {self.timeout_s}, {self.max_wait_s}, {rate}"
            )
        if min(self.input_price, self.output_price) < 0 or (limit is not None and limit <= 0):
            raise ConfigError(
                f"Endpoint: expected prices >= 0 and max_cost > 0, got {self.input_price}, {self.output_price}, {limit}"
            )
        if limit is not None and not self.input_price and not self.output_price:
            raise ConfigError("Endpoint: max_cost needs input_price or output_price, per million tokens.")
        if self.tool_images not in get_args(ToolImages):
            known = ", ".join(get_args(ToolImages))
            raise ConfigError(f"Endpoint: tool_images: expected one of {known}, got {self.tool_images!r}")
        self._meter = RequestMeter(rate, (self.input_price, self.output_price), limit)
        self._lock = threading.Lock()
        self._client: tuple[int, Client] | None = None  # per process, because a fork must not share connections
        self._adaptation = Adaptation(self.tool_images)
        self._name = self.model
        self._cache = ReplyCache(Path(self.cache)) if self.cache is not None else None

    def __reduce__(self) -> tuple[type[Endpoint], tuple[Any, ...]]:
        return Endpoint, tuple(getattr(self, each.name) for each in fields(self))

    @property
    def usage(self) -> Usage:
        """The requests so far, and their cost."""
        return self._meter.usage

    def model_name(self) -> str:
        """The model's name; if the config gives none, the server is asked.

        Raises:
            EndpointError: The server gives no name either.
        """
        if self._name is None:
            try:
                name = self._fetch("/models")["data"][0]["id"]
            except RequestError as error:
                raise EndpointError(f"{self.url}: {error}. Is the server running, and is the address right?") from error
            except (LookupError, TypeError) as error:
                raise EndpointError(f"{self.url}/models lists no model. Give the endpoint's `model`.") from error
            if not isinstance(name, str):
                raise EndpointError(f"{self.url}/models lists a model without a name. Give the endpoint's `model`.")
            self._name = name
        return self._name

    def identity(self) -> dict[str, Any]:
        """Everything besides the messages that determines the replies."""
        place = {} if self.tool_images == "user" else {"tool_images": self.tool_images}
        return {"url": self.url, "model": self.model_name(), "extra": self.extra, **place}

    def chat(self, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> ChatReply:
        """Ask for the next turn. If the server refuses the form of a request, the request is adapted and sent again.

        Args:
            messages: The conversation in OpenAI's form; images of tool results are in the tool's turns.
            settings: Other keys of the request: temperature, max_tokens, tools, ...

        Raises:
            EndpointError: No request will succeed: a wrong key, an unknown model, an exhausted quota, `max_cost` spent.
            RequestError: This request was refused, or failed `attempts` times.
        """
        merged = {"model": self.model_name(), "messages": list(messages), **settings, **self.extra}
        body = {key: value for key, value in merged.items() if value is not None}
        place = [] if self.tool_images == "user" else [self.tool_images]
        digest = hashlib.sha256(json.dumps([self.url, body, *place], sort_keys=True).encode()).hexdigest()
        cached = self._cache.get(digest) if self._cache is not None else None
        if cached is not None:
            try:
                reply = read_reply(cached, tuple(cached.get(_ADAPTED, ())))
            except (ValueError, TypeError):
                pass  # another version wrote it: send the request again
            else:
                self._meter.count_cached()
                return reply
        content, adapted = self._ask(body)
        if self._cache is not None:
            self._cache.put(digest, content | ({_ADAPTED: adapted} if adapted else {}))
        return read_reply(content, adapted)

    def _ask(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The answer to a request, and the changes to the request that it took."""
        adaptation = self._adaptation
        while True:
            try:
                content = self._fetch("/chat/completions", adaptation.apply(body))
            except RequestError as error:
                changed = adaptation.after(error, body)
                if changed is None:
                    raise
                adaptation = changed
            else:
                break
        notes = adaptation.notes(body)
        with self._lock:
            new = [note for note in notes if note not in self._adaptation.notes(body)]
            self._adaptation = self._adaptation.join(adaptation)
        for note in new:
            warnings.warn(f"{self.url} refused a request. From now on: {note}.", UserWarning, stacklevel=3)
        return content, notes

    def _fetch(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        with self._lock:
            if self._client is None or self._client[0] != os.getpid():
                from cv_lightning.endpoint.openai_client import Client

                self._client = os.getpid(), Client(self, self._meter, read_reply)
            client = self._client[1]
        return client.fetch(path, body)

    def counts(self) -> dict[str, float]:
        """`usage` as numbers by name."""
        return {name: float(value) for name, value in asdict(self.usage).items()}
