"""What our HTTP servers share: limits for clients, JSON in and out, and an answer to every mistake."""

from __future__ import annotations

import json
import logging
import select
import socket
import sys
import threading
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cv_lightning.serving.request import BadRequest

_LOG = logging.getLogger(__name__)

#: What is read of a body that is refused, so that the client is there to read why.
_DRAINED_BYTES = 256 << 20


@dataclass(frozen=True)
class ServerLimits:
    """What a client may use.

    Attributes:
        request_megabytes: Longest body of a request.
        connections: Connections at the same time; more are turned away.
        read_s: Seconds to wait for a client that sends or reads nothing.
    """

    request_megabytes: int = 32
    connections: int = 128
    read_s: float = 60.0


class LimitedServer(ThreadingHTTPServer):
    """A thread for each connection, and not too many of them.

    Args:
        handler: Answers the requests of one connection.
        host: Address to listen at.
        port: 0 takes a free one; see `server_port`.
        limits: What a client may use.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[JsonHandler], host: str, port: int, limits: ServerLimits | None = None) -> None:
        self.limits = limits or ServerLimits()
        self._free = threading.BoundedSemaphore(self.limits.connections)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), handler)

    def serve_until_interrupted(self) -> None:
        """Serve until Ctrl-C, and give the port back."""
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
        finally:
            self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or turn it away where there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, and give its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that ended badly is the client's affair; a mistake of ours is logged."""
        _LOG.debug("connection of %s ended badly", client_address, exc_info=True)


class JsonHandler(BaseHTTPRequestHandler):
    """Answers the requests of one connection: JSON, or an error in OpenAI's form."""

    server: LimitedServer
    protocol_version = "HTTP/1.1"
    server_version = "cv_lightning"
    sys_version = ""

    @abstractmethod
    def route(self, method: str) -> None:
        """Answer a request; raises `BadRequest` for one that is refused."""

    def setup(self) -> None:
        """Wait for a client no longer than the server's limit says."""
        super().setup()
        self.connection.settimeout(self.server.limits.read_s)

    def log_message(self, format: str, *arguments: Any) -> None:
        """One line for each request, where logging is at INFO."""
        _LOG.info(format, *arguments)

    def do_GET(self) -> None:
        """Answer a GET."""
        self._answer("GET")

    def do_POST(self) -> None:
        """Answer a POST."""
        self._answer("POST")

    def _answer(self, method: str) -> None:
        try:
            self.route(method)
        except BadRequest as error:
            self.refuse(error)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception:  # noqa: BLE001 - one request must not end the server
            _LOG.exception("a request failed")
            self.refuse(BadRequest("The server made a mistake; its log says more.", code="internal", status=500))

    def read_body(self) -> bytes:
        """The JSON text of a request.

        Raises:
            BadRequest: It is too long, of unknown length, or of another type.
            ConnectionError: It was cut off.
        """
        length = self.headers.get("Content-Length")
        if length is None or not length.isascii() or not length.isdigit():
            self.close_connection = True
            raise BadRequest("Content-Length is missing.", code="length_required", status=411)
        limit = self.server.limits.request_megabytes
        if int(length) > limit << 20:
            self._drain(int(length))
            raise BadRequest(f"The request is larger than {limit} MB.", code="request_too_large", status=413)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionError("cut off")
        # A page in a browser can send other types to this address without asking anybody.
        if self.headers.get_content_type() != "application/json":
            raise BadRequest("Content-Type must be application/json.", code="unsupported_media_type", status=415)
        return body

    def _drain(self, length: int) -> None:
        self.close_connection = True
        left = min(length, _DRAINED_BYTES)
        while left > 0:
            chunk = self.rfile.read1(min(left, 1 << 20))
            if not chunk:
                break
            left -= len(chunk)

    def check_client(self) -> None:
        """Raise `ConnectionError` where the client has gone."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        if readable and not self.connection.recv(1, socket.MSG_PEEK):
            raise ConnectionError("the client has gone")

    def begin_stream(self, content_type: str) -> None:
        """Send the head of a reply that ends with the connection."""
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def send_json(self, status: int, content: Mapping[str, Any], retry_after_s: int | None = None) -> None:
        """Send a whole reply."""
        extra = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        self.send_body(status, "application/json", json.dumps(content).encode(), extra)

    def send_body(self, status: int, content_type: str, body: bytes, extra: Mapping[str, str]) -> None:
        """Send a whole reply of any type."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in extra.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, error: BadRequest) -> None:
        """Say what is wrong with a request."""
        try:
            self.send_json(error.status, error_object(error), 1 if error.status in (429, 503) else None)
        except OSError:
            self.close_connection = True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no HTTP of ours is refused in the same form."""
        self.close_connection = True
        self.refuse(BadRequest(message or explain or "bad request", code="bad_request", status=code))


def error_object(error: BadRequest) -> dict[str, Any]:
    """An error in OpenAI's form."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}
