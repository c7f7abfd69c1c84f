"""The common part of our web servers: uvicorn with limits for clients, bodies, errors in OpenAI's form, streams."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from cv_lightning.serving.request import BadRequest

T = TypeVar("T")

#: Seconds that a stopping server waits for unfinished replies.
_GRACE_S = 5


@dataclass(frozen=True)
class ServerLimits:
    """Limits of a client.

    Attributes:
        request_megabytes: Largest body of a request.
        connections: Number of simultaneous connections; further ones are refused.
        read_s: Seconds to wait for a client that neither sends nor reads.
    """

    request_megabytes: int = 32
    connections: int = 128
    read_s: float = 60.0


class WebServer:
    """Serves an app; listens as soon as it is constructed.

    Args:
        app: An app made by `new_app`, or one with its own error handling.
        host: Address to listen at.
        port: 0 for a free port; see `port`.
        limits: Limits of a client.
        on_stop: Called, in a thread, before the server waits for unfinished replies.
        has_lifespan: Whether the app must be started and ended.

    Raises:
        OSError: The address is in use, or not allowed.
        OverflowError: The port number is invalid.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        limits: ServerLimits,
        on_stop: Callable[[], None] = lambda: None,
        has_lifespan: bool = False,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=128)
        # Connections inherit it; asyncio sets it only for its own sockets. Without it, a reply takes 40 ms longer.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.host, self.port = self._socket.getsockname()[:2]
        config = uvicorn.Config(
            app,
            http=partial(_LimitedProtocol, limits=limits),  # type: ignore[arg-type] # called as the class is
            ws="none",
            lifespan="on" if has_lifespan else "off",
            log_config=None,
            log_level="error",  # invalid HTTP is the client's fault
            access_log=False,
            server_header=False,
            timeout_keep_alive=math.ceil(limits.read_s),
            timeout_graceful_shutdown=_GRACE_S,
        )
        self._server = _Server(config, on_stop)

    def serve(self) -> None:
        """Serve until `stop`; in the main thread also until SIGINT, which then raises `KeyboardInterrupt`."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def serve_until_interrupted(self) -> None:
        """Serve until Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            self.serve()
        print("stopped", file=sys.stderr)

    def stop(self) -> None:
        """End `serve` from another thread."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await run_in_threadpool(self._on_stop)
        await super().shutdown(sockets)


class _LimitedProtocol(H11Protocol):
    """Adds two limits that uvicorn leaves to a proxy: on the number of connections, and on the silence of a client."""

    def __init__(self, *arguments: Any, limits: ServerLimits, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._limits = limits
        self._silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(transport)
        self._watch(True)
        if len(self.connections) > self._limits.connections:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch(False)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch(self.cycle is None or self.cycle.more_body or self.cycle.response_complete)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch(False)

    def _watch(self, is_awaited: bool) -> None:
        """Close the connection if the server waits for the client and the client does nothing for too long."""
        if self._silence is not None:
            self._silence.cancel()
        self._silence = self.loop.call_later(self._limits.read_s, self.transport.abort) if is_awaited else None


def new_app(limits: ServerLimits) -> FastAPI:
    """Make an app without routes; its errors have OpenAI's form."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.limits = limits

    @app.exception_handler(BadRequest)
    async def refuse(request: Request, error: BadRequest) -> Response:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else None
        return JSONResponse(error_object(error), error.status, headers)

    @app.exception_handler(HTTPException)
    async def find_nothing(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        message = f"{request.method} {request.url.path[:100]!r}: {error.detail}."
        return JSONResponse(error_object(BadRequest(message, None, code, error.status_code)), error.status_code)

    @app.exception_handler(ClientDisconnect)
    async def forget(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # no client is left to read it

    @app.exception_handler(Exception)
    async def apologise(request: Request, error: Exception) -> Response:
        """Answer without details; uvicorn logs the traceback."""
        mistake = BadRequest("The server made a mistake; its log says more.", code="internal", status=500)
        return JSONResponse(error_object(mistake), 500)

    return app


def error_object(error: BadRequest) -> dict[str, Any]:
    """An error in OpenAI's form."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


async def read_body(request: Request) -> bytes:
    """The JSON text of a request.

    Raises:
        BadRequest: The body is too long, of unknown length, or of another type.
        ClientDisconnect: The body was cut off.
    """
    length = request.headers.get("content-length")
    if length is None:
        raise BadRequest("Content-Length is missing.", code="length_required", status=411)
    limit = request.app.state.limits.request_megabytes
    if int(length) > limit << 20:  # uvicorn reads and drops the rest, so the client gets this answer
        raise BadRequest(f"The request is larger than {limit} MB.", code="request_too_large", status=413)
    # A page in a browser can send other content types to this address without asking for permission.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise BadRequest("Content-Type must be application/json.", code="unsupported_media_type", status=415)
    return await request.body()


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await the work; if the client disconnects first, cancel the work and raise `ClientDisconnect`."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Stream(StreamingResponse):
    """A streamed reply.

    Args:
        content: The pieces of the reply.
        media_type: Type of the pieces.
        on_end: Called at the end of the stream, or as soon as the client disconnects.
    """

    def __init__(self, content: AsyncGenerator[str, None], media_type: str, on_end: Callable[[], None]) -> None:
        super().__init__(content, headers={"Content-Type": media_type, "Cache-Control": "no-cache"})
        self._content = content
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()
            await self._content.aclose()
