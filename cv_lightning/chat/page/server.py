"""The page over HTTP, for this machine only.

A browser lends its user's reach to every page it shows, so being bound to the loopback address is not enough: a request
must name this server as its host (a name that was rebound to 127.0.0.1 does not), must not come from another page, and
nothing is written without a JSON type, which other pages cannot send unasked.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from io import BytesIO
from typing import Any

from PIL import Image

from cv_lightning.chat.page.rooms import Answer, Rooms
from cv_lightning.data.rows import open_image
from cv_lightning.errors import DataError
from cv_lightning.pages.shell import asset, render
from cv_lightning.serving.http_handler import JsonHandler, LimitedServer, ServerLimits
from cv_lightning.serving.request import BadRequest

#: Seconds between two looks at an answer: words come smoothly, and not a message for each token.
_BEAT_S = 0.05

#: How often a connection that waits is told so, and asked whether its client is still there.
_POLL_S = 0.5

_DATA_URL = re.compile(r"data:image/[a-zA-Z0-9.+-]+;base64,", re.ASCII)

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


class PageServer(LimitedServer):
    """Serves the page of `rooms` at 127.0.0.1.

    Args:
        rooms: The conversations.
        title: What answers, in words.
        port: 0 takes a free one; see `server_port`.
        limits: What a client may use.

    Raises:
        OSError: The port is taken, or not allowed.
    """

    def __init__(self, rooms: Rooms, title: str, port: int, limits: ServerLimits | None = None) -> None:
        self.rooms = rooms
        megapixels = f"{rooms.limits.image_megapixels:g}"
        self.page = render("chat/page/chat.html", title=title, megapixels=megapixels).encode()
        super().__init__(PageHandler, "127.0.0.1", port, limits)
        names = ("127.0.0.1", "localhost")
        self.hosts = {f"{name}:{self.server_port}" for name in names} | (
            set(names) if self.server_port == 80 else set()
        )


class PageHandler(JsonHandler):
    """Answers the requests of one connection."""

    server: PageServer

    def route(self, method: str) -> None:
        """Answer /, its scripts and styles, /api/ask and /api/stop."""
        path = self.path.partition("?")[0]
        self._check_origin(is_call=path.startswith("/api/"))
        calls = {"/api/ask": self._ask, "/api/stop": self._stop}
        if path in calls:
            if method != "POST":
                raise BadRequest(f"{path} wants POST.", code="method_not_allowed", status=405)
            calls[path](self._read())
            return
        content = self._static(path) if method == "GET" else None
        if content is None:
            self.close_connection = True  # there may be a body that nobody reads
            raise BadRequest(f"There is no {path[:100]!r} here.", code="not_found", status=404)
        self.send_body(200, *content, {})

    def end_headers(self) -> None:
        """Every reply tells the browser what it must not do with it."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def _static(self, path: str) -> tuple[str, bytes] | None:
        if path == "/":
            return "text/html; charset=utf-8", self.server.page
        if path == "/style.css":
            return "text/css; charset=utf-8", asset("pages/style.css").encode()
        if path == "/chat.js":
            return "text/javascript; charset=utf-8", (asset("viewer/render.js") + asset("chat/page/chat.js")).encode()
        return None

    def _check_origin(self, is_call: bool) -> None:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            self.close_connection = True
            raise BadRequest("The Host header names another server.", code="wrong_host", status=403)
        origin = self.headers.get("Origin")
        is_foreign = origin is not None and origin.lower() != f"http://{hosts[0].lower()}"
        site = self.headers.get("Sec-Fetch-Site", "same-origin")
        if is_foreign or (is_call and site not in ("same-origin", "none")):
            self.close_connection = True
            raise BadRequest("Other pages may not ask here.", code="wrong_origin", status=403)

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.read_body())
        except (ValueError, RecursionError) as error:
            raise BadRequest("The request is not valid JSON.", code="invalid_json") from error
        if not isinstance(content, dict):
            raise BadRequest("Expected a JSON object.")
        return content

    def _stop(self, content: dict[str, Any]) -> None:
        self.server.rooms.stop(_text(content, "conversation"))
        self.send_json(200, {})

    def _ask(self, content: dict[str, Any]) -> None:
        rooms = self.server.rooms
        room_id = None if content.get("conversation") is None else _text(content, "conversation")
        question = _text(content, "question").encode("utf-8", "replace").decode().strip()
        if not question:
            raise BadRequest("The question is empty.", "question")
        if len(question) > rooms.limits.question_chars:
            raise BadRequest(f"The question has more than {rooms.limits.question_chars} characters.", "question")
        image = content.get("image")
        images = [] if image is None else [_image(image, rooms.limits.image_megapixels)]
        if room_id is None and not images:
            raise BadRequest("The first question needs an image.", "image")
        answer = rooms.ask(room_id, question, images)
        try:
            self._stream(answer)
        except BaseException:
            answer.stop()  # nobody reads on
            raise

    def _stream(self, answer: Answer) -> None:
        """A line of JSON whenever there is something new, until the answer has ended."""
        self.begin_stream("application/x-ndjson")
        self._send({"conversation": answer.room.id})
        version, n_turns = 0, -1
        known: set[str] = set()
        state = "waiting"
        while state in ("waiting", "writing"):
            self.check_client()
            fresh = answer.news(version, _POLL_S)
            if fresh is None:
                if state == "waiting":
                    self._send({"state": state, "ahead": self.server.rooms.ahead(answer)})
                continue
            version, news = fresh
            state = news["state"]
            record = news.pop("record")
            if record is not None and len(record["turns"]) != n_turns:
                n_turns = len(record["turns"])
                new = {image["file"] for image in record["images"]} - known
                known |= new
                news |= {"record": record, "images": {name: answer.room.images.get(name) for name in new}}
            self._send(news)
            time.sleep(_BEAT_S)

    def _send(self, content: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(content).encode() + b"\n")
        self.wfile.flush()


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"{name}: expected a text.", name)
    return value


def _image(url: Any, megapixels: float) -> Image.Image:
    match = _DATA_URL.match(url) if isinstance(url, str) else None
    if match is None:
        raise BadRequest("That is no image. Choose a PNG, JPEG or WebP file.", "image", "invalid_image")
    try:
        encoded = base64.b64decode(url[match.end() :], validate=True)
        if (size := _size_of(encoded)) is not None and size[0] * size[1] > megapixels * 1e6:
            raise _too_large(megapixels)  # before it is decoded: connections do that at the same time
        image = open_image(encoded, "image")
    except (binascii.Error, ValueError) as error:
        raise BadRequest("The image arrived broken: it is no base64.", "image", "invalid_image") from error
    except DataError as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise _too_large(megapixels) from error
        raise BadRequest(
            "That is no image, or it is broken. Choose a PNG, JPEG or WebP file.", "image", "invalid_image"
        ) from error
    if image.width * image.height > megapixels * 1e6:
        raise _too_large(megapixels)
    return image


def _size_of(encoded: bytes) -> tuple[int, int] | None:
    """Width and height as the header says; None where it cannot be read."""
    try:
        with Image.open(BytesIO(encoded)) as image:
            return image.size
    except Exception:  # noqa: BLE001 - decoding says what is wrong with it
        return None


def _too_large(megapixels: float) -> BadRequest:
    return BadRequest(f"The image has more than {megapixels:g} megapixels. Reduce it.", "image", "image_too_large", 413)
