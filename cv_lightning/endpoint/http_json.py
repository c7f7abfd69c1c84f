"""One JSON request to a server, with everything that can go wrong told apart."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from cv_lightning.errors import ConfigError

#: Longer replies are rubbish: a chat completion is kilobytes.
MAX_REPLY_BYTES = 32 << 20

#: Of a server's own words, as many as a message can hold.
_EXCERPT_CHARS = 300

_CHUNK_BYTES = 1 << 16

#: Answers to a request that may be given differently a moment later.
_PASSING = frozenset({408, 409, 425, 429}) | frozenset(range(500, 600))


class RequestError(Exception):
    """A request that brought no JSON object.

    Attributes:
        status: The HTTP status, None where there was none.
        code: The server's own code or type of the error ("context_length_exceeded"), "" where it gave none.
        is_passing: Whether the same request may go well later.
        retry_after_s: How long the server asks to wait.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        code: str = "",
        is_passing: bool = True,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.is_passing = is_passing
        self.retry_after_s = retry_after_s


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *arguments: Any, **keywords: Any) -> None:
        """Follow nothing; the redirect comes out as an HTTP error."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def check_url(url: str, name: str) -> None:
    """Raise `ConfigError` for an address that is not http or https; `name` is what the user calls it."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"Expected {name} to start with http:// or https:// but got {url!r}")


def read_key(variable: str | None) -> str | None:
    """The API key in an environment variable, None where there is none; it is named in no message.

    Raises:
        ConfigError: It holds characters that no HTTP header may hold.
    """
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"The API key in {variable} holds characters that no key has. Set the variable again.")
    return key or None


def request_json(url: str, body: Mapping[str, Any] | None, timeout_s: float, key: str | None = None) -> dict[str, Any]:
    """Send `body` by POST (None: GET) and return the JSON object of the reply.

    Args:
        url: Where to, http or https.
        body: What to send.
        timeout_s: Seconds for all of it: a server that drips its reply is given up as well.
        key: Bearer token.

    Raises:
        RequestError: The server cannot be reached, is too slow, refuses, or its reply is no JSON object.
    """
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    deadline = time.monotonic() + timeout_s
    try:
        request = urllib.request.Request(url, data, headers)  # noqa: S310 - callers check the scheme
        with _OPENER.open(request, timeout=timeout_s) as response:
            text = _read(response, deadline)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error, key) from None
    except TimeoutError as error:
        raise RequestError(f"no reply within {timeout_s:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        # The reason of a URLError says what happened; the rest of it is noise.
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            raise RequestError(f"no connection within {timeout_s:g} s") from error
        raise RequestError(_without(f"the connection failed ({type(reason).__name__}: {reason})", key)) from None
    return _parse(text)


def _read(response: Any, deadline: float) -> bytes:
    chunks: list[bytes] = []
    n_bytes = 0
    while chunk := response.read1(_CHUNK_BYTES):
        chunks.append(chunk)
        n_bytes += len(chunk)
        if n_bytes > MAX_REPLY_BYTES:
            raise RequestError(f"the reply is longer than {MAX_REPLY_BYTES >> 20} MB")
        if time.monotonic() > deadline:
            raise TimeoutError
    expected = response.headers.get("Content-Length")
    if expected is not None and expected.isdigit() and n_bytes < int(expected):
        raise RequestError(f"the connection was cut after {n_bytes} of {expected} bytes")
    return b"".join(chunks)


def _parse(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise RequestError(f"the reply is no JSON object: {_excerpt(text)}")
    return content


def _refusal(error: urllib.error.HTTPError, key: str | None) -> RequestError:
    """What an HTTP error says, in the form of OpenAI's error objects or in any other."""
    try:
        text = error.read(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException):
        text = b""
    code, message = "", _excerpt(text)
    try:
        content = json.loads(text)
        fault = content.get("error", content) if isinstance(content, dict) else content
        if isinstance(fault, dict):
            code = str(fault.get("code") or fault.get("type") or "")
            message = str(fault.get("message") or message)[:_EXCERPT_CHARS]
    except (ValueError, RecursionError):
        pass
    # A quota that is used up is told by 429 as well, but no waiting helps.
    is_passing = error.code in _PASSING and code != "insufficient_quota"
    return RequestError(
        _without(f"HTTP {error.code}: {message or error.reason}", key),
        error.code,
        code,
        is_passing,
        _retry_after(error.headers.get("Retry-After")),
    )


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait: the header holds them, or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _excerpt(text: bytes) -> str:
    return " ".join(text[:_EXCERPT_CHARS].decode("utf-8", "replace").split())


def _without(message: str, key: str | None) -> str:
    return message.replace(key, "***") if key else message
