"""The routes by which a trainer manages a server; each call waits for its answer."""

from __future__ import annotations

import json
from typing import Any

import httpx2

from cv_lightning.endpoint.reply import read_json

#: Timeouts in seconds of calls that wait for turns, weights or memory, and of other calls: a server whose engine dies
#: during a call may never answer.
_LONG_S, _SHORT_S = 600.0, 60.0
_LONG_CALLS = {
    *("/pause", "/init_weight_transfer_engine", "/update_weights", "/finish_weight_update", "/sleep", "/wake_up"),
    *("/start_weight_update", "/v1/load_lora_adapter"),
}

#: Maximum characters of a server's message that an error quotes.
_EXCERPT_CHARS = 400


class ServerFault(Exception):
    """A call to a server failed.

    Attributes:
        status: The HTTP status; None if the server could not be reached.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """One `vllm serve`.

    Args:
        url: Its address, such as "http://127.0.0.1:8123".
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._http = httpx2.Client(timeout=_SHORT_S, trust_env=False)

    def post(self, path: str, body: Any = None, **parameters: str) -> Any:
        """Send JSON; returns JSON or text, and raises `ServerFault` unless the status is 200."""
        timeout_s = _LONG_S if path in _LONG_CALLS else _SHORT_S
        return self._send("POST", path, json=body, params=parameters, timeout=timeout_s)

    def get(self, path: str, timeout_s: float | None = None, **parameters: str) -> Any:
        """Read JSON; raises `ServerFault` unless the answer is 200."""
        times = {} if timeout_s is None else {"timeout": timeout_s}
        return self._send("GET", path, params=parameters, **times)

    def is_healthy(self, timeout_s: float = 5.0) -> bool:
        """Whether it answers and its engine is alive."""
        try:
            self.get("/health", timeout_s)
        except ServerFault:
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._http.request(method, self.url + path, **options)
        except httpx2.TransportError as error:
            raise ServerFault(f"{self.url}{path}: cannot be reached ({type(error).__name__}: {error})") from error
        if response.status_code != 200:
            said = words_of(response.content)
            raise ServerFault(f"{self.url}{path}: HTTP {response.status_code}: {said}", response.status_code)
        if "json" not in response.headers.get("content-type", ""):
            return response.text
        try:
            return json.loads(response.content)
        except ValueError as error:
            raise ServerFault(f"{self.url}{path}: the answer is not JSON: {words_of(response.content)}", 200) from error


def words_of(content: bytes) -> str:
    """The message of a server's refusal, in any format."""
    text = content.decode("utf-8", "replace")
    try:
        said = read_json(text)
    except ValueError:
        said = None
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    return " ".join(str(said or text).split())[:_EXCERPT_CHARS]
