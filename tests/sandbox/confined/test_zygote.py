"""The zygote confines its workers whoever starts it, and neither it nor its workers outlive the trainer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sandbox.attack_site import descendants
from tests.sandbox.machine import need

ORPHANS = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from PIL import Image
from sandbox import Limits, ToolExecutor, ToolRequest
executor = ToolExecutor(lane="confined", workers=2, limits=Limits(wall_s=60))
executor.execute([ToolRequest("result = image", [Image.new("RGB", (4, 4))])])
print(executor._code.lane._pool._workers._process.pid, flush=True)
{end}
"""


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "os._exit(3)",
        "os.kill(os.getpid(), 9)",
        "1 / 0",
        "executor.execute([ToolRequest('while True: pass', [Image.new('RGB', (4, 4))])])",
    ],
)
def test_no_orphan_however_the_trainer_ends(end: str) -> None:
    need()
    script = ORPHANS.format(root=str(Path(__file__).parents[3]), end=end)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    zygote = int(process.stdout.readline())
    family = {zygote, *descendants(zygote)}
    if "while True" in end:
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    process.wait(30)
    process.stdout.close()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in family):
        time.sleep(0.02)
    assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []


AS_USER = """
import json, sys
sys.path.insert(0, {root!r})
from PIL import Image
from sandbox import Limits, ToolExecutor, ToolRequest
executor = ToolExecutor(lane="confined", workers=1, limits=Limits(wall_s=9))
codes = ["result = image.rotate(90, expand=True)", "open('/etc/passwd')", "import os\\nprint(os.getuid())"]
seen = executor.execute([ToolRequest(code, [Image.new("RGB", (4, 2))]) for code in codes])
executor.close()
print(json.dumps([[o.status, o.level, o.text] for o in seen]))
"""


def outcome_of(script: str, *, as_nobody: bool) -> list[list[str]]:
    script = script.format(root=str(Path(__file__).parents[3]))
    command = [sys.executable, "-B", "-c", *([AS_NOBODY, script] if as_nobody else [script])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd="/")
    assert done.returncode == 0, done.stderr
    seen: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return seen


AS_NOBODY = """
import ctypes, os, sys
# Become nobody, with the one right to pass through folders: the interpreter may lie in one that is closed to others.
libc, bit = ctypes.CDLL(None), 1 << 2
libc.prctl(8, 1, 0, 0, 0)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
assert libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)) == 0
assert libc.prctl(47, 2, 2, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-B", "-c", sys.argv[1]])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_not_as_root() -> None:
    need()
    seen = outcome_of(AS_USER, as_nobody=True)
    assert [status for status, _, _ in seen] == ["ok", "error", "ok"]
    assert seen[0][1] in ("confined", "full")
    assert seen[2][2] == "65534"


AS_DOCKER = """
import ctypes, sys
sys.path.insert(0, {root!r})
from sandbox.confined import layers, seccomp
from sandbox.confined.syscalls import KILLED, this_architecture
# Docker's default profile, for what matters here: no namespaces, mounts, keys, bpf, perf, userfaultfd, io_uring ...
architecture = this_architecture()
program = [(0x20, 0, 0, 0)]
for name, numbers in KILLED.items():
    if name not in ("ptrace", "process_vm_readv", "process_vm_writev"):
        program += [(0x15, 0, 1, numbers[architecture.column]), (0x06, 0, 0, seccomp.DENY)]
# ... and no capability beyond its fourteen.
bits = {{0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}} if {is_root} else {{2}}
mask = sum(1 << bit for bit in bits)
kept = (ctypes.c_uint32 * 6)(mask, mask, 0 if {is_root} else mask, 0, 0, 0)
assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), kept) == 0
layers.no_new_privileges()
seccomp.load(seccomp.pack([*program, (0x06, 0, 0, seccomp.ALLOW)]), architecture)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop to Docker's capabilities")
@pytest.mark.parametrize("is_root", [True, False], ids=["root", "nobody"])
def test_in_unprivileged_docker(is_root: bool) -> None:
    need("confined")
    seen = outcome_of(AS_DOCKER.replace("{is_root}", str(is_root)) + AS_USER, as_nobody=not is_root)
    assert [status for status, _, _ in seen] == ["ok", "error", "ok"]
    assert {level for _, level, _ in seen} == {"confined"}
    assert seen[2][2] == "65534"
