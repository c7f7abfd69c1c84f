"""The worker of `sandbox.lanes.plain_process`: as `worker`, with pipes in place of shared memory, for any system."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

#: Before every message: its bytes.
HEAD = struct.Struct("<Q")

_BOOT = """
import json, sys, types
paths, home, memory_mb = sys.argv[1:]
sys.path[:] = json.loads(paths)
package = types.ModuleType("sandbox")
package.__path__ = [home]
sys.modules["sandbox"] = package
del sys.argv[1:], sys.orig_argv[:]
from sandbox.confined.plain_worker import main
main(int(memory_mb))
"""


def command(memory_mb: int) -> list[str]:
    """How to start a worker."""
    paths = json.dumps([path for path in sys.path if path and Path(path).is_absolute()])
    home = str(Path(__file__).resolve().parents[1])
    return [sys.executable, "-s", "-P", "-B", "-X", "utf8", "-c", _BOOT, paths, home, str(memory_mb)]


def environment() -> dict[str, str]:
    """What a worker needs of this environment, and what makes its results repeat."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    system = ("SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    kept = {name: os.environ[name] for name in system if name in os.environ}
    return {"PYTHONHASHSEED": "0", **single, **kept}


def main(memory_mb: int) -> None:
    """Answer requests on the standard pipes, which the code itself does not get, until they close."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("r+b") as nothing:
        for descriptor in (0, 1, 2):
            os.dup2(nothing.fileno(), descriptor)
    from sandbox.confined import wire, worker

    worker.warm()
    _limit(memory_mb)
    os.environ.clear()
    names: dict[str, Any] = {}
    replies.write(wire.HELLO)
    replies.flush()
    with contextlib.suppress(EOFError):
        while True:
            _answer(requests, replies, names)


def _answer(requests: BinaryIO, replies: BinaryIO, names: dict[str, Any]) -> None:
    from PIL import Image

    from sandbox.confined import wire, worker

    message = _read(requests, HEAD.unpack(_read(requests, HEAD.size))[0])
    _, nonce, n_images, chosen, n_code, text_chars, capacity, _, _ = wire.REQUEST.unpack_from(message)
    sizes = [wire.PLACE.unpack_from(message, wire.REQUEST.size + wire.PLACE.size * i)[:2] for i in range(n_images)]
    start = wire.REQUEST.size + wire.PLACE.size * n_images
    code, start = message[start : start + n_code].decode("utf-8", "replace"), start + n_code
    images = []
    for size in sizes:
        images.append(wire.view(message[start : start + 4 * size[0] * size[1]], size))
        start += 4 * size[0] * size[1]
    request = worker.Request(nonce, code, images, chosen, text_chars, capacity)
    outcome, image, text, claim = worker.run(request, names)
    worker.forget_call(names)
    reply = wire.pack_reply(nonce, outcome, (0, 0) if image is None else image.size, text, claim)
    pixels = b"" if image is None else Image.Image.tobytes(image, "raw", "RGBX")
    for part in (HEAD.pack(len(reply)), reply, pixels):
        replies.write(part)
    replies.flush()


def _read(pipe: BinaryIO, length: int) -> bytes:
    data = pipe.read(length)
    if len(data) != length:
        raise EOFError
    return data


def _limit(memory_mb: int) -> None:
    """Cap the memory beyond what is in use now, where the system can."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    with contextlib.suppress(OSError, ValueError):
        most = used + (memory_mb + 700) * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
