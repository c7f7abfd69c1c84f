"""`serve --mcp`: the code tool, called by a real MCP client in process, by stdio and by HTTP."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import threading
from collections.abc import Coroutine, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from PIL import Image

from cv_lightning.serving.tool_server import CodeTool, ToolWebServer, new_server
from sandbox import ToolExecutor
from tests.cv_lightning.scripted import photo

T = TypeVar("T")
ROOT = Path(__file__).parents[3]
TURN = "result = image.rotate(90, expand=True)"


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor(workers=1) as executor:
        yield executor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    photo().save(tmp_path / "shared" / "photo.png")
    photo(seed=1).save(tmp_path / "secret.png")
    return tmp_path / "shared"


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 120))


def call(tool: CodeTool, **arguments: Any) -> Any:
    async def work() -> Any:
        async with Client(new_server(tool)) as client:
            return await client.call_tool("code_image_tool", arguments)

    return run(work())


def image_of(result: Any) -> Image.Image:
    (block,) = [block for block in result.content if block.type == "image"]
    return Image.open(BytesIO(base64.b64decode(block.data)))


def text_of(result: Any) -> str:
    return "\n".join(block.text for block in result.content if block.type == "text")


def data_url(image: Image.Image, **options: Any) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG", **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def test_a_call_by_path_and_one_on_its_result(executor: ToolExecutor, folder: Path) -> None:
    tool = CodeTool(executor, folder)
    first = call(tool, images=["photo.png"], code=TURN)
    assert not first.is_error
    assert image_of(first).tobytes() == photo().transpose(Image.Transpose.ROTATE_90).tobytes()
    assert "40 x 60 pixels" in text_of(first)
    path = text_of(first).partition("Its path is ")[2]
    assert Path(path).is_relative_to(folder)
    second = call(tool, images=[str(folder / "photo.png"), path], code="result = image.rotate(180)", image_index=1)
    assert image_of(second).tobytes() == photo().transpose(Image.Transpose.ROTATE_270).tobytes()


def test_data_urls_are_upright_and_nothing_is_saved_without_a_folder(executor: ToolExecutor) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    result = call(CodeTool(executor), images=[data_url(photo(), exif=exif)], code="result = image.rotate(180)")
    assert image_of(result).tobytes() == photo().transpose(Image.Transpose.ROTATE_90).tobytes()
    assert "path" not in text_of(result)


def test_the_schema_names_what_a_call_needs(executor: ToolExecutor, folder: Path) -> None:
    async def work() -> Any:
        async with Client(new_server(CodeTool(executor, folder))) as client:
            return await client.list_tools()

    (tool,) = run(work()).tools
    assert tool.name == "code_image_tool"
    assert tool.input_schema["required"] == ["images", "code"]
    assert str(folder) in tool.input_schema["properties"]["images"]["description"]


def bomb() -> str:
    """A PNG of a few kilobytes whose header asks for 110 megapixels."""
    return data_url(Image.new("1", (11_000, 10_000)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"images": ["../secret.png"]}, "below"),
        ({"images": ["link.png"]}, "below"),
        ({"images": ["/etc/passwd"]}, "below"),
        ({"images": ["pipe"]}, "below"),
        ({"images": ["/dev/zero"]}, "below"),
        ({"images": ["absent.png"]}, "below"),
        ({"images": ["a\0b"]}, "images: "),
        ({"images": ["x" * 5000]}, "images: "),
        ({"images": ["note.txt"]}, "cannot be read"),
        ({"images": ["large.png"]}, "larger than 1 MB"),
        ({"images": [3]}, "data URLs"),
        ({"images": []}, "at least one"),
        ({"images": "photo.png"}, "a list"),
        ({}, "a list"),
        ({"images": ["photo.png"] * 65}, "more than 64 images"),
        ({"images": ["data:image/png;base64,@@@"]}, "base64"),
        ({"images": ["photo.png"], "code": 3}, '"code" must be a string'),
        ({"images": ["photo.png"], "image_index": 7}, "image"),
        ({"images": ["photo.png"], "code": "result = 1 / 0"}, "division"),
        ({"images": ["photo.png"], "code": "print(open('/etc/passwd').read())\nresult = image"}, ""),
    ],
)
def test_hostile_calls_are_results_that_say_what_is_wrong(
    executor: ToolExecutor, folder: Path, arguments: dict[str, Any], words: str
) -> None:
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "note.txt").write_text("no image")
    (folder / "large.png").write_bytes(b"x" * (2 << 20))
    os.mkfifo(folder / "pipe")
    result = call(CodeTool(executor, folder, megabytes=1), **{"code": TURN, **arguments})
    assert result.is_error
    assert words in text_of(result)
    assert "root:" not in text_of(result)
    assert all(block.type == "text" for block in result.content)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_is_bounded_before_it_is_decoded(executor: ToolExecutor) -> None:
    result = call(CodeTool(executor), images=[bomb()], code=TURN)
    assert result.is_error
    assert "megapixels" in text_of(result)


def test_another_tool_is_unknown(executor: ToolExecutor) -> None:
    result = CodeTool(executor).call("rm", {})
    assert result.is_error
    assert "Unknown tool 'rm'" in text_of(result)


def test_the_command_serves_its_parent_by_stdio(folder: Path) -> None:
    arguments = ["-m", "cv_lightning", "serve", "--mcp", "--images", str(folder)]
    server = StdioServerParameters(command=sys.executable, args=arguments, cwd=str(ROOT))

    async def work() -> Any:
        async with Client(stdio_client(server)) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["code_image_tool"]
            code = "print(sum(range(5)))\nfor _ in range(2):\n    image = image.rotate(90, expand=True)\nresult = image"
            return await client.call_tool("code_image_tool", {"images": ["photo.png"], "code": code})

    result = run(work())
    assert text_of(result).startswith("10")
    assert image_of(result).tobytes() == photo().transpose(Image.Transpose.ROTATE_180).tobytes()


@pytest.fixture
def address(executor: ToolExecutor) -> Iterator[str]:
    server = ToolWebServer(CodeTool(executor), port=0, key="secret")
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}/mcp"
    server.stop()
    thread.join(30)
    assert not thread.is_alive()


def test_the_tool_over_http(address: str) -> None:
    async def work() -> Any:
        async with (
            httpx2.AsyncClient(headers={"Authorization": "Bearer secret"}) as http,
            Client(streamable_http_client(address, http_client=http)) as client,
        ):
            arguments = {"images": [data_url(photo())], "code": TURN}
            return await client.call_tool("code_image_tool", arguments)

    assert image_of(run(work())).size == (40, 60)


def test_http_asks_for_the_key_and_for_its_own_name(address: str) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"Accept": "application/json, text/event-stream", "Authorization": "Bearer secret"}
    assert httpx2.post(address, json=body, headers=headers | {"Authorization": "Bearer x"}).status_code == 401
    assert httpx2.post(address, json=body, headers=headers | {"Host": "evil.example"}).status_code == 421
    assert httpx2.post(address, json=body, headers=headers | {"Origin": "http://evil.example"}).status_code == 403
    assert httpx2.post(address, content=b"x" * (33 << 20), headers=headers).status_code == 413
