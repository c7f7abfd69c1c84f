"""The zygote's program finds our modules when it starts, and nothing else from the trainer."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from sandbox.confined import launch

#: Runs in place of the zygote and reports what it has, over its only socket.
TELL = """
import os
control = __import__("socket").socket(fileno=int(descriptor))
import sandbox.confined.wire
import numpy
told = {
    "settings": settings,
    "environment": dict(os.environ),
    "arguments": sys.argv,
    "folder": os.getcwd(),
    "is_leader": os.getsid(0) == os.getpid(),
    "standard": [os.path.realpath(f"/proc/self/fd/{n}") for n in range(3)],
    "open": [int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")],
    "flags": [sys.flags.no_user_site, sys.flags.safe_path, sys.flags.dont_write_bytecode, sys.flags.utf8_mode],
}
control.send(json.dumps(told).encode())
"""


def test_it_starts_with_an_empty_environment_and_one_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    boot, _, _ = launch._BOOT.partition("from sandbox.confined.zygote")
    monkeypatch.setattr(launch, "_BOOT", boot + TELL)
    monkeypatch.setenv("OPENAI_API_KEY", "a secret of the test")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, Path(__file__).open("rb") as file:
        os.set_inheritable(file.fileno(), True)
        process = launch.start(theirs.fileno(), '{"a": 1}')
        ours.settimeout(60)
        told = json.loads(ours.recv(1 << 16))
        assert process.wait(60) == 0
    assert told["settings"] == '{"a": 1}'
    assert told["environment"].keys() <= {
        *("PYTHONHASHSEED", "LC_ALL", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
        *("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_LIBRARY_PATH"),
    }
    assert told["environment"]["OMP_NUM_THREADS"] == "1"
    assert told["arguments"] == ["-c"]
    assert (told["folder"], told["is_leader"]) == ("/", True)
    assert told["standard"] == ["/dev/null"] * 3
    assert len(told["open"]) == 4, "the socket is all that it has besides"
    assert all(told["flags"])
