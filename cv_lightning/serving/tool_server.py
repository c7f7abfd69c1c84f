"""`serve --mcp`: the code tool for any client of the Model Context Protocol, over stdio or HTTP.

All input from a client is treated as hostile: code runs confined, images are bounded before they are decoded, and files
are read only below one folder.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import functools
import hmac
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from cv_lightning.errors import DataError
from cv_lightning.rollout import Executor
from cv_lightning.serving.request import BadRequest, RequestImages, decode_data_url
from cv_lightning.serving.web_server import ServerLimits, WebServer, error_object
from cv_lightning.tools.code import CODE_SCHEMA, CODE_TOOLS
from cv_lightning.types import CODE_TOOL
from cv_lightning.viewer.recording import save_image
from sandbox import Observation, ToolRequest


class CodeTool:
    """The code tool as a function of JSON arguments. It keeps no state between calls.

    Args:
        executor: Runs the code.
        folder: Images may be named by their path below it, and results are saved there; None allows data URLs only.
        megabytes: Largest size of an image file.
    """

    def __init__(self, executor: Executor, folder: Path | None = None, megabytes: int = 32) -> None:
        self._executor = executor
        self._folder = None if folder is None else folder.resolve()
        self._megabytes = megabytes

    @property
    def description(self) -> types.Tool:
        """The tool for clients: the policies' tool plus `images`, because the server holds no client's images."""
        function = copy.deepcopy(CODE_SCHEMA["function"])
        ways = "a data URL" if self._folder is None else f"a path below {self._folder}, or a data URL"
        images = {"type": "array", "items": {"type": "string"}, "minItems": 1, "description": f"Each is {ways}."}
        schema = function["parameters"]
        schema["properties"] = {"images": images, **schema["properties"]}
        schema["properties"]["image_index"]["description"] = "0-based, over images"
        schema["required"] = ["images", *schema["required"]]
        return types.Tool(name=CODE_TOOL, description=function["description"], input_schema=schema)

    def call(self, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        """Run a call; an invalid call gives a result that says what is wrong."""
        reply = CODE_TOOLS.read_own(name, arguments, units=())
        if reply.call is None:
            return _refusal(reply.fault or "")
        try:
            images = self._images(arguments.get("images"))
        except (DataError, ValueError, OSError) as error:
            return _refusal(f"images: {error}")
        (seen,) = self._executor.execute([ToolRequest(reply.call.code, images, reply.call.image_index)])
        return types.CallToolResult(content=self._content(seen), is_error=seen.status != "ok")

    def _images(self, given: Any) -> list[Image.Image]:
        if not isinstance(given, list) or not given:
            raise ValueError("expected a list of at least one path or data URL")
        images = RequestImages()
        return [images.add(self._encoded(one)) for one in given]

    def _encoded(self, source: Any) -> bytes:
        if self._folder is None or not isinstance(source, str) or source.startswith("data:"):
            return decode_data_url(source)
        path = (self._folder / source).resolve()
        # The path is untrusted: all paths outside get the same answer, whether or not they exist.
        if not path.is_relative_to(self._folder) or not path.is_file():
            raise ValueError(f"expected the path of a file below {self._folder}, or a data URL")
        with path.open("rb") as file:
            encoded = file.read((self._megabytes << 20) + 1)
        if len(encoded) > self._megabytes << 20:
            raise ValueError(f"the file is larger than {self._megabytes} MB")
        return encoded

    def _content(self, seen: Observation) -> list[types.ContentBlock]:
        texts = [seen.text] if seen.text else []
        if seen.image is None:
            return [types.TextContent(type="text", text="\n".join(texts) or seen.status)]
        buffer = BytesIO()
        seen.image.save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        texts.append(f"The result has {seen.image.width} x {seen.image.height} pixels.")
        if self._folder is not None:
            try:
                texts.append(f"Its path is {self._folder / save_image(seen.image, self._folder)}")
            except OSError as error:
                texts.append(f"It could not be saved ({error.strerror}).")
        image = types.ImageContent(type="image", data=data, mime_type="image/png")
        return [image, types.TextContent(type="text", text="\n".join(texts))]


def _refusal(reason: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=reason)], is_error=True)


def new_server(tool: CodeTool) -> Server[Any]:
    """Make an MCP server for the tool."""

    async def list_tools(context: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[tool.description])

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        call = functools.partial(tool.call, params.name, params.arguments or {})
        return await run_in_threadpool(call)

    return Server("cv_lightning", on_list_tools=list_tools, on_call_tool=call_tool)


def serve_stdio(tool: CodeTool) -> None:
    """Serve the process at the other end of standard input and output until it disconnects."""

    async def serve() -> None:
        server = new_server(tool)
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    asyncio.run(serve())


class ToolWebServer(WebServer):
    """Serves the tool by streamable HTTP at /mcp.

    A server at a loopback address answers only requests that name it as their host, and none from other web pages.

    Args:
        tool: The tool.
        host: Address to listen at.
        port: 0 for a free port; see `port`.
        key: Bearer token that clients must send; None for no token.
        limits: Limits of a client.
        on_stop: Called before the server waits for running calls.

    Raises:
        OSError: The address is in use, or not allowed.
    """

    def __init__(
        self,
        tool: CodeTool,
        host: str = "127.0.0.1",
        port: int = 8000,
        key: str | None = None,
        limits: ServerLimits | None = None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        limits = limits or ServerLimits()
        app = new_server(tool).streamable_http_app(
            host=host, stateless_http=True, json_response=True, max_request_body_size=limits.request_megabytes << 20
        )
        super().__init__(_Keyed(app, key), host, port, limits, on_stop, has_lifespan=True)


class _Keyed:
    """Passes on only the requests that have the key."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app = app
        self._expected = None if key is None else f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._expected is not None:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                refusal = BadRequest("The API key is missing or wrong.", code="invalid_api_key", status=401)
                await JSONResponse(error_object(refusal), 401)(scope, receive, send)
                return
        await self._app(scope, receive, send)
