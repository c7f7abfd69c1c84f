"""The requests that the page's server refuses, and the answers as a page in a browser shows them."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cv_lightning.chat.page.rooms import RoomLimits, Rooms
from cv_lightning.chat.page.server import PageServer
from cv_lightning.conversation import Conversation, format_answer
from cv_lightning.serving.web_server import ServerLimits
from sandbox import ToolExecutor
from tests.cv_lightning.browser import Browser, needs_chromium
from tests.cv_lightning.scripted import ANSWER, TURN, Script, a_conversation, a_talk, photo

HOSTILE = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
SAYS_HOSTILE = format_answer(f"{HOSTILE} \u202e", HOSTILE)


def data_url(image: Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def conversation() -> Conversation:
    return a_conversation(max_context_tokens=4000)


class Site:
    """A server whose answers a test writes, and a client."""

    def __init__(self, conversation: Conversation, executor: ToolExecutor) -> None:
        self.script = Script(conversation)
        limits = RoomLimits(image_megapixels=0.5)
        self.rooms = Rooms(lambda: a_talk(self.script, executor), limits)
        self.server = PageServer(self.rooms, "Chat with <b>pol</b>", 0, ServerLimits(request_megabytes=1))
        self.port = self.server.port
        self.url = f"http://127.0.0.1:{self.port}/"
        self._serving = threading.Thread(target=self.server.serve, daemon=True)
        self._serving.start()

    def request(self, method: str, path: str, content: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        body = content if isinstance(content, bytes | None) else json.dumps(content).encode()
        sent = {"Content-Type": "application/json"} if body is not None else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as client:
            client.request(method, path, body, sent)
            reply = client.getresponse()
            return reply.status, {name.title(): value for name, value in reply.getheaders()}, reply.read()

    def refusal(self, content: Any, path: str = "/api/ask", **headers: str) -> tuple[int, str | None]:
        """Status and error code of a refused request."""
        status, _, body = self.request("POST", path, content, **headers)
        return status, json.loads(body)["error"]["code"]

    def ask(self, **content: Any) -> list[dict[str, Any]]:
        """All lines of an answer."""
        status, _, body = self.request("POST", "/api/ask", content)
        assert status == 200, body
        return [json.loads(line) for line in body.splitlines()]

    def close(self) -> None:
        self.server.stop()
        self._serving.join(60)
        assert not self._serving.is_alive()


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor(lane="pillow") as executor:
        yield executor


@pytest.fixture
def site(conversation: Conversation, executor: ToolExecutor) -> Iterator[Site]:
    site = Site(conversation, executor)
    yield site
    site.close()


QUESTION = {"question": "What?", "image": data_url(photo())}


def test_a_photo_is_upright_as_its_exif_tag_says(site: Site) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    site.script.texts = [ANSWER]
    stored = photo().resize((90, 60))
    lines = site.ask(question="What?", image=data_url(stored, exif=exif))
    (shown,) = [image for line in lines for image in line.get("images", {}).values()]
    with Image.open(io.BytesIO(base64.b64decode(shown["uri"].partition(",")[2]))) as image:
        assert image.convert("RGB").tobytes() == stored.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_an_answer_comes_in_lines_each_image_once(site: Site) -> None:
    site.script.texts = [TURN, ANSWER, ANSWER]
    lines = site.ask(**QUESTION)
    assert lines[-1]["state"] == "done"
    assert lines[-1]["message"].startswith("2 turns, ")
    records = [line["record"] for line in lines if "record" in line]
    assert records[-1]["answer"] == "64P"
    assert records[-1]["turns"][0]["observation"]["tools"] == ["rotate_270"]
    sent = [name for line in lines for name in line.get("images", {})]
    assert sorted(sent) == sorted(image["file"] for image in records[-1]["images"])
    again = site.ask(conversation=lines[0]["conversation"], question="And now?")
    assert again[-1]["state"] == "done"
    assert [line["record"]["id"] for line in again if "record" in line] == ["question-2"]


def test_the_page_allows_its_own_script_only_and_no_frame_around_it(site: Site) -> None:
    status, headers, body = site.request("GET", "/")
    assert status == 200
    assert b"Chat with &lt;b&gt;pol&lt;/b&gt;" in body
    policy = headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    for name, kind in (("style.css", "text/css"), ("chat.js", "text/javascript")):
        status, headers, body = site.request("GET", f"/{name}")
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert len(body) > 1000


@pytest.mark.parametrize("path", ["/secret", "/../style.css", "/chat_page/server.py", "/api/ask/x", "//etc/passwd"])
def test_nothing_else_is_there(site: Site, path: str) -> None:
    assert site.request("GET", path)[0] == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil:{port}"]
)
def test_a_name_that_was_bound_to_this_address_is_refused(site: Site, host: str) -> None:
    named = {"Host": host.format(port=site.port)}
    assert site.request("GET", "/", **named)[0] == 403
    assert site.refusal(QUESTION, **named) == (403, "wrong_host")
    assert not len(site.rooms)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_other_pages_may_not_ask(site: Site, headers: dict[str, str]) -> None:
    sent = {name: value.format(port=site.port) for name, value in headers.items()}
    assert site.refusal(QUESTION, **sent) == (403, "wrong_origin")
    assert site.refusal({"conversation": "x"}, "/api/stop", **sent) == (403, "wrong_origin")


def test_its_own_page_may_ask(site: Site) -> None:
    for name in ("127.0.0.1", "localhost"):
        site.script.texts = [ANSWER]
        host = f"{name}:{site.port}"
        own = {"Host": host, "Origin": f"http://{host}", "Sec_Fetch_Site": "same-origin"}
        assert site.request("POST", "/api/ask", QUESTION, **own)[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_types_that_other_pages_can_send_unasked_are_refused(site: Site, kind: str) -> None:
    assert site.refusal(QUESTION, Content_Type=kind) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", (400, "invalid_json")),
        (b"[" * 100_000, (400, "invalid_json")),
        ([], (400, "invalid_value")),
        ({}, (400, "invalid_value")),
        ({"question": "What?"}, (400, "invalid_value")),
        ({"question": 7, "image": QUESTION["image"]}, (400, "invalid_value")),
        (QUESTION | {"question": " "}, (400, "invalid_value")),
        (QUESTION | {"question": "x" * 8001}, (400, "invalid_value")),
        (QUESTION | {"conversation": 7}, (400, "invalid_value")),
        (QUESTION | {"conversation": "nobody"}, (404, "no_conversation")),
        (QUESTION | {"image": 7}, (400, "invalid_image")),
        (QUESTION | {"image": "http://evil.example/a.png"}, (400, "invalid_image")),
        (QUESTION | {"image": "file:///etc/passwd"}, (400, "invalid_image")),
        (QUESTION | {"image": "data:text/html;base64,PGI+"}, (400, "invalid_image")),
        (QUESTION | {"image": "data:image/png;base64,!!!"}, (400, "invalid_image")),
        (QUESTION | {"image": "data:image/png;base64,iVBORw0KGgo="}, (400, "invalid_image")),
        (QUESTION | {"image": data_url(photo())[:400]}, (400, "invalid_image")),
        (QUESTION | {"image": data_url(Image.new("1", (1000, 501)))}, (413, "image_too_large")),
        (QUESTION | {"image": data_url(Image.new("1", (20_000, 20_000)))}, (413, "image_too_large")),
        (QUESTION | {"question": "x" * (1 << 20)}, (413, "request_too_large")),
    ],
)
def test_what_cannot_be_asked_is_refused_with_its_reason(site: Site, content: Any, expected: tuple[int, str]) -> None:
    assert site.refusal(content) == expected
    assert not len(site.rooms)
    site.script.texts = [ANSWER]
    assert site.ask(**QUESTION)[-1]["state"] == "done", "and the next one is answered"


def test_methods_and_lengths_are_checked(site: Site) -> None:
    assert site.request("GET", "/api/ask")[0] == 405
    assert site.request("POST", "/", {})[0] == 405
    assert site.request("DELETE", "/api/ask")[0] == 405
    assert site.refusal({"conversation": "nobody"}, "/api/stop") == (404, "no_conversation")
    assert site.request("POST", "/api/ask", b"", Content_Length="many")[0] == 400


def slowly(site: Site) -> threading.Event:
    """Let answers grow by a letter every 20 ms until the returned event is set."""
    hurry = threading.Event()

    def wait(n: int) -> None:
        hurry.wait(0.02)

    site.script.before_token = wait
    return hurry


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.01)


def test_a_client_that_leaves_stops_its_answer(site: Site) -> None:
    slowly(site)
    site.script.texts = [ANSWER * 4]
    body = json.dumps(QUESTION).encode()
    head = f"POST /api/ask HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        wait_for(lambda: bool(site.script.contexts))
        [room] = site.rooms._rooms.values()
        assert room.answer is not None
    wait_for(lambda: room.answer is None)
    assert len(site.script.contexts) == 1


def test_an_answer_is_stopped_from_beside(site: Site) -> None:
    hurry = slowly(site)
    site.script.texts = [ANSWER * 4, ANSWER]
    lines: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: lines.extend(site.ask(**QUESTION)))
    asking.start()
    wait_for(lambda: bool(site.script.contexts))
    [room] = site.rooms._rooms
    assert site.refusal({"conversation": room, "question": "And now?"}) == (409, "busy")
    assert site.request("POST", "/api/stop", {"conversation": room})[0] == 200
    asking.join(20)
    assert lines[-1]["state"] == "done"
    assert lines[-1]["message"].startswith("stopped")
    hurry.set()
    assert site.ask(conversation=room, question="And now?", image=QUESTION["image"])[-1]["record"] is not None


def dropped(kind: str, event: str, holder: str, file: Path) -> str:
    """JavaScript that drops or pastes a file."""
    data = base64.b64encode(file.read_bytes()).decode()
    return f"""(() => {{
      const bytes = Uint8Array.from(atob("{data}"), (letter) => letter.charCodeAt(0)), held = new DataTransfer();
      held.items.add(new File([bytes], "{file.name}", {{ type: "image/png" }}));
      document.dispatchEvent(new {kind}Event("{event}", {{ {holder}: held, bubbles: true, cancelable: true }}));
    }})()"""


@needs_chromium
def test_a_browser_asks_by_file_drop_and_paste_stops_and_shows_hostile_text_as_text(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    photo().save(file)
    hurry = slowly(site)
    hurry.set()
    site.script.texts = [TURN, ANSWER, SAYS_HOSTILE, ANSWER * 20, ANSWER]
    status = "document.getElementById('status').textContent"
    has_image, is_idle = "!document.getElementById('preview').hidden", "!document.getElementById('send').hidden"
    with Browser(tmp_path / "profile") as browser:
        browser.open(site.url)
        browser.wait("document.body.dataset.ready")
        browser.run("document.getElementById('question').focus()")
        browser.type("What?")
        browser.run("document.getElementById('ask').requestSubmit()")
        assert browser.run(status) == "Choose an image first."

        browser.choose("#file", file)
        browser.wait(has_image)
        browser.press("Enter", 13)
        browser.wait("document.querySelectorAll('section.turn').length == 2 && " + is_idle)
        assert browser.run(status).startswith("answer: 64P (2 turns, ")
        assert browser.run("document.querySelectorAll('article img').length") == 2
        assert browser.run("document.querySelector('pre.code').textContent").startswith("result = image.rotate(270")

        browser.run(dropped("Drag", "drop", "dataTransfer", file))
        browser.wait(has_image)
        browser.type("Read this.")
        browser.press("Enter", 13)
        browser.wait("document.querySelectorAll('section.turn').length == 3 && " + is_idle)
        assert HOSTILE in browser.run("document.getElementById('talk').innerText")
        assert browser.run("document.title") == "Chat with <b>pol</b>"
        assert browser.run("document.querySelectorAll('script').length") == 1

        browser.wait("talk.top > 0 && $('talk').scrollHeight - $('talk').scrollTop - $('talk').clientHeight < 2")

        hurry.clear()
        browser.run(dropped("Clipboard", "paste", "clipboardData", file))
        browser.wait(has_image)
        browser.type("And this?")
        browser.press("Enter", 13)
        browser.wait("document.querySelector('.live:not([hidden])')")
        browser.press("Escape", 27)
        browser.wait(is_idle)
        assert "stopped" in browser.run(status)
        assert site.rooms._rooms[browser.run("talk.conversation")].answer is None
        hurry.set()

        browser.run("document.getElementById('new').click()")
        assert browser.run("document.getElementById('talk').innerText") == "Choose an image and ask about it."
        browser.call("Network.enable")
        browser.call(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )
        browser.choose("#file", file)
        browser.wait(has_image)
        browser.type("Anybody?")
        browser.press("Enter", 13)
        browser.wait(f"{status}.startsWith('The server does not answer')")
        assert browser.run("document.getElementById('question').value") == "Anybody?", "nothing is lost"
