"""Counts and limits the requests of an endpoint, and sums their cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cv_lightning.errors import CVLightningError

#: How servers report that a conversation is too long: OpenAI by a code, vLLM and others in words.
_TOO_LONG = ("context_length_exceeded", "context length", "context_length", "maximum context", "too many tokens")

#: No request has more tokens than this: a higher count is invalid.
_MAX_TOKENS = 1 << 40


class EndpointError(CVLightningError):
    """No other request to this endpoint will succeed; the message says why, and how to fix it."""


class RequestError(Exception):
    """One request failed; another may succeed.

    Attributes:
        status: The HTTP status; None if there was none.
        code: The server's own code or type of the error ("context_length_exceeded"); "" if it gave none.
        param: Name of the parameter that the server refuses; "" if it gave none.
        is_passing: Whether the same request may succeed later.
    """

    def __init__(
        self, message: str, status: int | None = None, code: str = "", is_passing: bool = True, param: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.is_passing = is_passing

    @property
    def is_too_long(self) -> bool:
        """Whether the conversation does not fit in the model's context."""
        words = f"{self.code} {self}".lower()
        return self.status in (400, 413, 422) and any(sign in words for sign in _TOO_LONG)


@dataclass
class Usage:
    """Requests and their cost.

    Attributes:
        requests: Number of requests that the server answered.
        from_cache: Number of requests answered from disk, free of charge.
        retries: Number of requests that were sent again.
        input_tokens: Tokens of the prompts, including images, as the server counts them.
        output_tokens: Tokens of the replies.
        cost: Cost in the currency of the prices.
    """

    requests: int = 0
    from_cache: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


class RequestMeter:
    """Counts, delays and stops the requests of one endpoint; safe to share between threads.

    Args:
        requests_per_minute: Rate limit; None for no limit.
        prices: Prices of a million input tokens and of a million output tokens.
        max_cost: No request is sent after this amount was spent; None for no limit.
    """

    def __init__(self, requests_per_minute: float | None, prices: tuple[float, float], max_cost: float | None) -> None:
        self.usage = Usage()
        self._gap_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._prices = prices
        self._max_cost = max_cost
        self._lock = threading.Lock()
        self._next_slot = 0.0  # time at which the next request may be sent, by time.monotonic()

    def wait(self) -> None:
        """Wait until the next request may be sent; raises `EndpointError` if `max_cost` is spent."""
        while True:
            if self._max_cost is not None and self.usage.cost >= self._max_cost:
                raise EndpointError(
                    f"max_cost: {self.usage.cost:.2f} of {self._max_cost:g} is spent. Raise it, then run the same "
                    "command again to continue."
                )
            with self._lock:
                now = time.monotonic()
                if self._next_slot <= now:
                    self._next_slot = now + self._gap_s
                    return
                pause_s = self._next_slot - now
            time.sleep(pause_s)

    def hold_back(self, seconds: float) -> None:
        """Let no thread send a request for this long."""
        with self._lock:
            self._next_slot = max(self._next_slot, time.monotonic() + seconds)

    def count_retry(self) -> None:
        """Count a request that is sent again."""
        with self._lock:
            self.usage.retries += 1

    def count_cached(self) -> None:
        """Count a request that the disk cache answered."""
        with self._lock:
            self.usage.from_cache += 1

    def count(self, content: Mapping[str, Any]) -> None:
        """Count a reply; usage in a form other than OpenAI's counts as zero tokens."""
        given = content.get("usage")
        n_input, n_output = (_tokens(given, name) for name in ("prompt_tokens", "completion_tokens"))
        with self._lock:
            self.usage.requests += 1
            self.usage.input_tokens += n_input
            self.usage.output_tokens += n_output
            self.usage.cost += (n_input * self._prices[0] + n_output * self._prices[1]) / 1e6


def _tokens(usage: Any, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and 0 < count < _MAX_TOKENS else 0
