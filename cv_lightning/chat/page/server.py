"""The page over HTTP, for this machine only.

A browser lets every page that it shows send requests with its user's reach, so binding to the loopback address is not
enough. A request must name this server as its host (a name that was rebound to 127.0.0.1 does not) and must not come
from another page. Nothing is written without a JSON type, which other pages cannot send without permission.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Response
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cv_lightning.chat.page.rooms import Rooms, RunningAnswer
from cv_lightning.data.rows import open_image
from cv_lightning.errors import DataError
from cv_lightning.pages.shell import asset, render
from cv_lightning.serving.request import BadRequest, count_pixels, decode_data_url, refusal_of
from cv_lightning.serving.web_server import ServerLimits, Stream, WebServer, error_object, new_app, read_body

#: Seconds between two lines of an answer: smooth, but not one line per token.
_BEAT_S = 0.05

#: Seconds between two lines while a question waits.
_POLL_S = 0.5

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class _Question(BaseModel):
    model_config = ConfigDict(strict=True)

    question: str
    conversation: str | None = None
    image: Any = None


class _StopRequest(BaseModel):
    model_config = ConfigDict(strict=True)

    conversation: str


class PageServer(WebServer):
    """Serves the page of `rooms` at 127.0.0.1.

    Args:
        rooms: The conversations; closed when the server stops.
        title: Title of the page.
        port: 0 for a free port; see `port`.
        limits: Limits of a client.

    Raises:
        OSError: The port is in use, or not allowed.
    """

    def __init__(self, rooms: Rooms, title: str, port: int, limits: ServerLimits | None = None) -> None:
        self._rooms = rooms
        page = render("chat/page/chat.html", title=title, megapixels=f"{rooms.limits.image_megapixels:g}")
        script = asset("viewer/render.js") + asset("chat/page/chat.js")
        limits = limits or ServerLimits()
        app = new_app(limits)
        app.add_middleware(_OwnPageOnly)
        files = {"/": ("text/html", page), "/style.css": ("text/css", asset("pages/style.css"))}
        for path, (kind, text) in {**files, "/chat.js": ("text/javascript", script)}.items():
            app.add_api_route(path, _file(text, kind), response_model=None)
        app.add_api_route("/api/ask", self._ask, methods=["POST"], response_model=None)
        app.add_api_route("/api/stop", self._stop, methods=["POST"])
        super().__init__(app, "127.0.0.1", port, limits, on_stop=rooms.close)

    async def _stop(self, body: Annotated[bytes, Depends(read_body)]) -> dict[str, str]:
        try:
            self._rooms.stop(_StopRequest.model_validate_json(body).conversation)
        except ValidationError as error:
            raise refusal_of(error) from error
        return {}

    async def _ask(self, body: Annotated[bytes, Depends(read_body)]) -> Response:
        answer = await run_in_threadpool(self._begin, body)
        return Stream(self._lines(answer), "application/x-ndjson", on_end=answer.stop)

    def _begin(self, body: bytes) -> RunningAnswer:
        limits = self._rooms.limits
        try:
            asked = _Question.model_validate_json(body)
        except ValidationError as error:
            raise refusal_of(error) from error
        question = asked.question.strip()
        if not question:
            raise BadRequest("The question is empty.", "question")
        if len(question) > limits.question_chars:
            raise BadRequest(f"The question has more than {limits.question_chars} characters.", "question")
        images = [] if asked.image is None else [_image(asked.image, limits.image_megapixels)]
        if asked.conversation is None and not images:
            raise BadRequest("The first question needs an image.", "image")
        return self._rooms.ask(asked.conversation, question, images)

    async def _lines(self, answer: RunningAnswer) -> AsyncGenerator[str, None]:
        """Yield a line of JSON whenever there is something new, until the answer has ended."""
        yield _line({"conversation": answer.room.id})
        version, n_turns = 0, -1
        known: set[str] = set()
        state = "waiting"
        while state in ("waiting", "writing"):
            fresh = await run_in_threadpool(answer.news, version, _POLL_S)
            if fresh is None:
                if state == "waiting":
                    yield _line({"state": state, "ahead": self._rooms.ahead(answer)})
                continue
            version, news = fresh
            state = news["state"]
            record = news.pop("record")
            if record is not None and len(record["turns"]) != n_turns:
                n_turns = len(record["turns"])
                new = {image["file"] for image in record["images"]} - known
                known |= new
                news |= {"record": record, "images": {name: answer.room.images.get(name) for name in new}}
            yield _line(news)
            await asyncio.sleep(_BEAT_S)


def _file(text: str, kind: str) -> Callable[[], Awaitable[Response]]:
    reply = Response(text, media_type=kind)

    async def send() -> Response:
        return reply

    return send


class _OwnPageOnly:
    """Refuses requests from other pages, and sends restrictive headers to the browser."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = _refusal(Headers(scope=scope), scope["server"][1], is_call=scope["path"].startswith("/api/"))
        app = self._app if refusal is None else JSONResponse(error_object(refusal), refusal.status)
        await app(scope, receive, send_guarded)


def _refusal(headers: Headers, port: int, is_call: bool) -> BadRequest | None:
    """The reason why a request is refused; None if it may come from the page or the user."""
    names = ("127.0.0.1", "localhost")
    hosts = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())
    host = headers.get("host", "").lower()
    if host not in hosts:
        return BadRequest("The Host header names another server.", code="wrong_host", status=403)
    is_foreign = headers.get("origin", f"http://{host}").lower() != f"http://{host}"
    if is_foreign or (is_call and headers.get("sec-fetch-site", "none") not in ("same-origin", "none")):
        return BadRequest("Requests from other pages are refused.", code="wrong_origin", status=403)
    return None


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content) + "\n"


def _image(url: Any, megapixels: float) -> Image.Image:
    try:
        encoded = decode_data_url(url)
        if count_pixels(encoded) > megapixels * 1e6:
            raise BadRequest(
                f"The image has more than {megapixels:g} megapixels. Reduce it.", "image", "image_too_large", 413
            )
        return open_image(encoded, "image")
    except (ValueError, DataError) as error:
        raise BadRequest(
            "The file is not an image, or is broken. Choose a PNG, JPEG or WebP file.", "image", "invalid_image"
        ) from error
