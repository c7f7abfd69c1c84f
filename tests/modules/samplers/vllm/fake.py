"""A server with the routes of vLLM that sends recorded replies, and fails on demand.

In a test it is a thread: `with FakeServer() as server`. As a program (`python fake.py serve MODEL --port 8000 ...`) it
replaces `vllm` in a fake environment. The seed determines the tokens, so a repeated request gives the same turn.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import random
import re
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

from PIL import Image

#: Bodies of the real server's replies, by request; `record.py` writes the file.
RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("recorded.json").read_text(encoding="utf-8"))

#: Faults that `generate` can have, one for each entry of `FakeServer.faults`.
FAULTS = ("killed", "hangs", "500", "503", "other_weights", "half", "other_prompt", "aborted", "refused", "rubbish")


class FakeServer:
    """A fake server of vLLM.

    Args:
        image_id: Token id of the placeholder of images.
        token_size: Side of the square that one image token covers, in pixels.
        port: Port to listen on; 0 takes a free one.
        changes: `missing` (routes to leave out) and overrides of `model`, `max_model_len` and `settings`.
    """

    def __init__(self, image_id: int = 0, token_size: int = 28, port: int = 0, **changes: Any) -> None:
        self.image_id, self.token_size = image_id, token_size
        self.faults: deque[str] = deque()
        self.model: str = changes.get("model", "policy")
        self.max_model_len: int = changes.get("max_model_len", 600)
        self.missing: tuple[str, ...] = changes.get("missing", ())
        self.settings: dict[str, Any] = changes.get("settings", {})
        self.together = 0  # turns wait until this many have been in flight at once
        self.version = "default"
        self.weights: dict[str, str] = {}
        self.dtypes: set[str] = set()
        self.adapters: dict[str, str] = {}
        self.images: dict[str, tuple[int, int]] = {}
        self.is_paused = False
        self.is_updating = False
        self.calls: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.n_running = 0
        self.most_running = 0
        self.hang_s = 60.0
        self.token_s = 0.0  # seconds between the tokens of a stream
        self.n_streamed = 0
        self.orders: Path | None = None  # a file `kill_ROUTE` in it kills this process when the route is requested
        self._lock = threading.Lock()
        self._ended = threading.Event()
        fake = self

        class Handler(_Handler):
            server_state = fake

        self._http = _Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> FakeServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()

    def serve(self) -> None:
        self._http.serve_forever(0.05)

    # ---- management --------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if path not in ("/health", "/inference/v1/generate"):
            self.calls.append(path)
        order = None if self.orders is None else self.orders / f"kill{path.replace('/', '_')}"
        if order is not None and order.exists():
            order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if path in self.missing:
            return 404, {"detail": "Not Found"}
        name = f"{method} {path}"
        answer = getattr(self, "_" + re.sub(r"[ /.]+", "_", name).lower(), None)
        if answer is None:
            return (200, RECORDED[name]) if name in RECORDED else (404, {"detail": "Not Found"})
        result: tuple[int, Any] = answer(query, body)
        return result

    def _get_health(self, query: Any, body: Any) -> tuple[int, Any]:
        return 200, None

    def _get_openapi_json(self, query: Any, body: Any) -> tuple[int, Any]:
        paths = {path: {} for path in RECORDED["GET /openapi.json"]["paths"] if path not in self.missing}
        return 200, {"paths": paths}

    def _get_v1_models(self, query: Any, body: Any) -> tuple[int, Any]:
        model = RECORDED["GET /v1/models"]["data"][0]
        return 200, {"object": "list", "data": [model | {"id": self.model, "max_model_len": self.max_model_len}]}

    def _get_server_info(self, query: Any, body: Any) -> tuple[int, Any]:
        config = json.loads(json.dumps(RECORDED["GET /server_info"]["vllm_config"]))
        for (part, key), value in self.settings.items():
            config[part][key] = value
        return 200, {"vllm_config": config}

    def _get_weight_info(self, query: Any, body: Any) -> tuple[int, Any]:
        return 200, {"weight_version": self.version}

    def _post_pause(self, query: Any, body: Any) -> tuple[int, Any]:
        self.is_paused = True
        while query["mode"] == "wait" and self.n_running and not self._ended.is_set():
            time.sleep(0.005)
        return 200, RECORDED["POST /pause"]

    def _post_resume(self, query: Any, body: Any) -> tuple[int, Any]:
        self.is_paused = False
        return 200, RECORDED["POST /resume"]

    def _post_start_weight_update(self, query: Any, body: Any) -> tuple[int, Any]:
        self.is_updating = True
        return 200, RECORDED["POST /start_weight_update"]

    def _post_update_weights(self, query: Any, body: Any) -> tuple[int, Any]:
        if not self.is_updating:
            return 500, RECORDED["500"]
        for path in body["update_info"].get("paths", ()):
            with Path(path).open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            header.pop("__metadata__", None)
            self.weights |= {name: str(each["shape"]) for name, each in header.items()}
            self.dtypes |= {each["dtype"] for each in header.values()}
        return 200, RECORDED["POST /update_weights"]

    def _post_finish_weight_update(self, query: Any, body: Any) -> tuple[int, Any]:
        self.is_updating = False
        self.version = body["weight_version"]
        return 200, RECORDED["POST /finish_weight_update"]

    def _post_v1_load_lora_adapter(self, query: Any, body: Any) -> tuple[int, Any]:
        if not (Path(body["lora_path"]) / "adapter_model.safetensors").exists():
            return 400, {"error": {"message": "no adapter", "type": "BadRequestError", "code": 400}}
        if body["lora_name"] in self.adapters:
            said = f"The lora adapter '{body['lora_name']}' has already been loaded."
            return 400, {"error": {"message": said, "type": "InvalidUserInput", "code": 400}}
        self.adapters[body["lora_name"]] = body["lora_path"]
        return 200, RECORDED["POST /v1/load_lora_adapter"]

    def _post_v1_unload_lora_adapter(self, query: Any, body: Any) -> tuple[int, Any]:
        self.adapters.pop(body["lora_name"], None)
        return 200, RECORDED["POST /v1/unload_lora_adapter"]

    # ---- sampling ----------------------------------------------------------------------------------------------------

    def _post_inference_v1_generate(self, query: Any, body: Any) -> tuple[int, Any]:
        with self._lock:
            self.requests.append(body)
            fault = self.faults.popleft() if self.faults and self.faults[0] in FAULTS else ""
            self.n_running += 1
            self.most_running = max(self.most_running, self.n_running)
        try:
            return self._generate(body, fault)
        finally:
            self.n_running -= 1

    def _generate(self, body: Any, fault: str) -> tuple[int, Any]:
        if fault == "hangs":
            self._ended.wait(self.hang_s)
        if fault == "killed":
            raise ConnectionAbortedError
        if fault in ("500", "503"):
            return int(fault), RECORDED[fault]
        if fault == "refused":
            return 400, RECORDED["400 too long"]
        if fault == "rubbish":
            return 200, "<html>a proxy</html>"
        if body["model"] not in (self.model, *self.adapters):
            said = json.dumps(RECORDED["404 model"]).replace("NAME", body["model"])
            return 404, json.loads(said)
        sizes = self._sizes(body.get("content_parts", ()))
        if None in sizes:
            return 400, RECORDED["400 forgotten"]
        awaits = self.together if body["sampling_params"]["max_tokens"] > 1 else 0
        while (self.is_paused or self.most_running < awaits) and not self._ended.is_set():
            time.sleep(0.005)
        return 200, self._reply(body, sizes, fault)

    def _sizes(self, parts: Any) -> list[Any]:
        """Sizes of the images; None for an unknown image."""
        for part in parts:
            if "url" in part:
                image = Image.open(io.BytesIO(base64.b64decode(part["url"].partition("base64,")[2])))
                self.images[part["uuid"]] = image.size
        return [self.images.get(part["uuid"]) for part in parts]

    def _reply(self, body: Any, sizes: list[tuple[int, int]], fault: str) -> Any:
        places = iter(sizes)
        prompt: list[int] = []
        for token in body["token_ids"]:
            if token == self.image_id and sizes:
                width, height = next(places)
                prompt += [token] * (width // self.token_size * (height // self.token_size))
            else:
                prompt.append(token)
        parameters = body["sampling_params"]
        ids = sampled(parameters, prompt)
        ended = ids[-1] in parameters["stop_token_ids"]
        reply = json.loads(json.dumps(RECORDED["POST /inference/v1/generate"]))
        (choice,) = reply["choices"]
        (entry,) = choice["logprobs"]["content"][:1]
        choice["token_ids"] = ids
        choice["logprobs"]["content"] = [entry | {"token_id": token, "logprob": -token / 1024} for token in ids]
        choice["finish_reason"] = "abort" if fault == "aborted" else "stop" if ended else "length"
        choice["stop_reason"] = ids[-1] if ended else None
        version = "default" if fault == "other_weights" else self.version
        choice["weight_versions"] = [{"version": version, "start": 0, "end": len(ids)}]
        reply["prompt_token_ids"] = prompt[:-1] if fault == "other_prompt" else prompt
        reply["model"] = body["model"]
        if body.get("stream"):
            return self._chunks(reply, fault)
        return reply if fault != "half" else json.dumps(reply)[: len(json.dumps(reply)) // 2].encode()

    def _chunks(self, reply: Any, fault: str) -> Iterator[bytes]:
        """The reply token by token, with a delay after each; the last chunk has the finish reason."""
        recorded = json.loads(json.dumps(RECORDED["POST /inference/v1/generate, streamed"]))
        (choice,) = reply["choices"]
        for n, token in enumerate(choice["token_ids"], start=1):
            is_last = n == len(choice["token_ids"])
            chunk = recorded[0 if n == 1 else -1 if is_last else 1]
            (of_chunk,) = chunk["choices"]
            of_chunk["token_ids"] = [token]
            of_chunk["logprobs"]["content"] = choice["logprobs"]["content"][n - 1 : n]
            if n == 1:
                chunk["prompt_token_ids"] = reply["prompt_token_ids"]
            if is_last:
                of_chunk |= {key: choice[key] for key in ("finish_reason", "stop_reason", "weight_versions")}
            if fault == "half" and n > len(choice["token_ids"]) // 2:
                return
            yield f"data: {json.dumps(chunk)}\n\n".encode()
            self.n_streamed += 1
            self._ended.wait(self.token_s)
        yield b"data: [DONE]\n\n"


def sampled(parameters: dict[str, Any], prompt: list[int]) -> list[int]:
    """The tokens of a turn, which its seed determines."""
    generator = random.Random(parameters.get("seed", len(prompt)))
    ids = [generator.randrange(5, 60) for _ in range(generator.randrange(1, 9))] + parameters["stop_token_ids"]
    return ids[: parameters["max_tokens"]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: the faults are intended."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: FakeServer

    def do_GET(self) -> None:
        self._do("GET")

    def do_POST(self) -> None:
        self._do("POST")

    def _do(self, method: str) -> None:
        url = urlparse(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        try:
            status, body = self.server_state.answer(method, url.path, query, json.loads(content) if content else None)
        except ConnectionAbortedError:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        if isinstance(body, Iterator):
            self._stream(body)
            return
        is_text = body is None or isinstance(body, str)
        data = body if isinstance(body, bytes) else ((body or "") if is_text else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if is_text else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, pieces: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""


def main(words: list[str]) -> None:
    """Run `serve MODEL --port PORT ...`, as `vllm` does in a fake environment."""
    options = dict(pairwise(words))
    config = json.loads((Path(words[1]) / "config.json").read_text(encoding="utf-8"))
    vision = config["vision_config"]
    size = vision["patch_size"] * vision["spatial_merge_size"]
    orders = Path(words[1]).parent
    if (orders / "does_not_start").exists():
        sys.exit("RuntimeError: Error: no device")
    server = FakeServer(
        config["image_token_id"], size, int(options["--port"]), max_model_len=int(options["--max-model-len"])
    )
    server.orders = orders
    print(f"fake server at {server.url}", flush=True)
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
