"""Extends the `openai` client by one deadline for a whole reply, a check of every reply, and shared waiting.

The client itself retries timeouts, cut connections, 408, 409, 429 and 5xx. Importing it takes a second, so only
`Endpoint` imports it, and only when it first sends a request.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx2
import openai

from cv_lightning.endpoint.keys import read_key
from cv_lightning.endpoint.meter import EndpointError, RequestError, RequestMeter
from cv_lightning.endpoint.reply import read_json, read_object

if TYPE_CHECKING:
    from cv_lightning.endpoint.client import Endpoint

#: A longer reply is invalid: a chat completion has kilobytes.
MAX_REPLY_BYTES = 32 << 20

#: Number of characters of a server's message that our error quotes.
_EXCERPT_CHARS = 300


class Client(openai.OpenAI):
    """Sends JSON and receives JSON objects.

    Args:
        endpoint: Address, retries and time limits.
        meter: Delays and counts the requests.
        check: Raises `ValueError` for a JSON object that is no chat completion; the request is then retried.
    """

    def __init__(self, endpoint: Endpoint, meter: RequestMeter, check: Callable[[Mapping[str, Any]], object]) -> None:
        super().__init__(
            base_url=endpoint.url,
            api_key="-",  # each request gets its own key, so that a changed environment variable takes effect
            max_retries=endpoint.attempts - 1,
            timeout=endpoint.timeout_s,
            http_client=_Http(endpoint, meter, check),
        )
        self._endpoint = endpoint
        self._meter = meter

    def fetch(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """POST `body` (None: GET) and return the reply.

        Raises:
            RequestError: The request was refused, or failed in all attempts.
            EndpointError: The server refuses every such request, or `max_cost` is spent.
        """
        key = read_key(self._endpoint.api_key_variable)
        options: Any = {"headers": {"Authorization": f"Bearer {key}" if key else openai.Omit()}}
        try:
            if body is None:
                response = self.get(path, cast_to=httpx2.Response, options=options)
            else:
                # Lone surrogates, which models and code may write, cannot be encoded in UTF-8.
                text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
                response = self.post(path, cast_to=httpx2.Response, content=text, options=options)
        except openai.APIStatusError as error:
            raise _refusal(error, self._endpoint, key) from None
        except openai.APITimeoutError as error:
            raise RequestError(f"no reply within {self._endpoint.timeout_s:g} s") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__
            raise RequestError(_without(f"the request failed ({type(cause).__name__}: {cause})", key)) from None
        return _object(response.content)

    def _calculate_retry_timeout(self, *arguments: Any, **keywords: Any) -> float:
        self._meter.count_retry()
        return min(self._endpoint.max_wait_s, super()._calculate_retry_timeout(*arguments, **keywords))


class _Http(openai.DefaultHttpxClient):
    """Sends one request within its deadline, when the meter allows it."""

    def __init__(self, endpoint: Endpoint, meter: RequestMeter, check: Callable[[Mapping[str, Any]], object]) -> None:
        super().__init__(follow_redirects=False)  # a redirect would carry the key to another host
        self._endpoint = endpoint
        self._meter = meter
        self._check = check

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request and read its whole reply."""
        self._meter.wait()
        deadline = time.monotonic() + self._endpoint.timeout_s
        streamed = super().send(request, **(options | {"stream": True}))
        try:
            content = _read(streamed, deadline)
        finally:
            streamed.close()
        response = httpx2.Response(streamed.status_code, headers=streamed.headers, content=content, request=request)
        if response.is_success:
            self._take(response)
        else:
            self._note_refusal(response)
        return response

    def _take(self, response: httpx2.Response) -> None:
        """Count a reply; a reply that is no completion counts as a cut connection and is retried."""
        try:
            content = _object(response.content)
            if response.request.method == "POST":
                self._meter.count(content)
                self._check(content)
        except ValueError as error:
            raise httpx2.RemoteProtocolError(str(error), request=response.request) from error

    def _note_refusal(self, response: httpx2.Response) -> None:
        """Shorten the wait that a server asks for, make other threads wait, and prevent retries that cannot succeed."""
        wait_s = retry_after(response.headers.get("retry-after"))
        if wait_s is not None:
            wait_s = min(wait_s, self._endpoint.max_wait_s)
            self._meter.hold_back(wait_s)
            response.headers["retry-after"] = str(wait_s)
        if _fault(response.text)[0] == "insufficient_quota":
            response.headers["x-should-retry"] = "false"  # also sent with 429, but no waiting helps


def _read(response: httpx2.Response, deadline: float) -> bytes:
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > MAX_REPLY_BYTES:
            raise httpx2.RemoteProtocolError(f"the reply is longer than {MAX_REPLY_BYTES >> 20} MB")
        if time.monotonic() > deadline:
            raise httpx2.ReadTimeout("the reply took too long")
    return bytes(content)


def _object(text: bytes) -> dict[str, Any]:
    try:
        return read_object(text)
    except ValueError as error:
        excerpt = " ".join(text[:_EXCERPT_CHARS].decode("utf-8", "replace").split())
        raise ValueError(f"{error}: {excerpt}") from error


def _fault(text: str) -> tuple[str, str, str]:
    """Code, parameter and message of a refusal, in the form of OpenAI's error objects or in another form."""
    try:
        content = read_json(text)
    except ValueError:
        content = None
    if isinstance(content, list) and content:  # Gemini
        content = content[0]
    fault = content.get("error", content) if isinstance(content, dict) else None
    message = " ".join(text.split())
    if not isinstance(fault, dict):
        return "", "", message[:_EXCERPT_CHARS]
    code, parameter = str(fault.get("code") or fault.get("type") or ""), str(fault.get("param") or "")
    return code, parameter, str(fault.get("message") or message)[:_EXCERPT_CHARS]


def _refusal(error: openai.APIStatusError, endpoint: Endpoint, key: str | None) -> RequestError | EndpointError:
    """The error of a refused request: `RequestError` if only this request fails, `EndpointError` if all fail."""
    status = error.status_code
    code, parameter, message = _fault(error.response.text)
    said = _without(f"HTTP {status}: {message or error.response.reason_phrase}", key)
    remedy = None
    if status in (401, 403):
        variable = endpoint.api_key_variable
        remedy = (
            "Name the environment variable that holds a key in the endpoint's api_key_variable."
            if variable is None
            else f"Set {variable} to a key that this server knows."
        )
    elif status == 404:
        model = "a model" if endpoint.model is None else f"the model {endpoint.model!r}"
        remedy = f"Check the url, and that the server has {model}."
    elif code == "insufficient_quota":
        remedy = "Its quota is used up."
    elif 300 <= status < 400:
        remedy = "The server redirects requests. Set the endpoint's url to the new address."
    if remedy is not None:
        return EndpointError(f"{endpoint.url}: {said}. {remedy}")
    is_passing = status in (408, 409, 429) or status >= 500
    return RequestError(said, status, code, is_passing, parameter)


def retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a header that contains seconds or a date; None if it contains neither."""
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


def _without(message: str, key: str | None) -> str:
    return message.replace(key, "***") if key else message
