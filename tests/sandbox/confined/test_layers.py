"""Control runs: an action that a layer stops succeeds as soon as that layer is off, so it is this layer that stops it.

Layers overlap on purpose, so each row names the layers that are off in both runs; the two runs differ only in the layer
in question. The stand-ins are harmless: they touch only files, listeners and descriptors of the test.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from sandbox import Limits, Observation, ToolRequest
from sandbox.confined import client
from sandbox.confined.slots import Slot
from sandbox.lanes.confined import ConfinedLane
from tests.sandbox.machine import best_level, need, noise

IMAGE = noise(24, 16)
LIMITS = Limits(wall_s=5, memory_mb=128)
SECRET = "a-secret-of-the-test"


@dataclass(frozen=True)
class Control:
    """A stand-in that prints REACHED if it succeeds, and the layers that are off besides the layer in question."""

    layer: str
    others: tuple[str, ...]
    code: str
    takes_root: bool = False


READ = "print('REACHED' if open('@FILE@').read() == '@SECRET@' else 'else')"
#: The host is in bytes, because the codec of host names would have to be read from a file.
CONNECT = "import socket\nsocket.socket().connect((b'127.0.0.1', @PORT@))\nprint('REACHED')"
#: These ask only for what any Linux gives, so another architecture or a missing interface cannot make them fail.
SOCKET = "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()\nprint('REACHED')"
EXECUTABLE = "import mmap\nmmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)\nprint('REACHED')"
MEMORY_FILE = "import os\nos.close(os.memfd_create('x'))\nprint('REACHED')"
#: More than code and images may have together under LIMITS.
ALLOCATE = "a = np.empty(int(1.2 * 950 * 2**20), np.uint8)\nprint('REACHED')"
#: More than code may have, but less than code and images may have together.
ALLOCATE_PRIVATE = "a = np.empty(int(1.5 * 128 * 2**20), np.uint8)\nprint('REACHED')"
WRITE_FILE = "import os\nfd = os.open('@FOLDER@/made', os.O_CREAT | os.O_WRONLY)\nos.write(fd, b'x')\nprint('REACHED')"
PARENT = "import os\nprint('REACHED' if os.path.exists(f'/proc/@TRAINER@') else 'else')"
#: A worker can seek in its own image files, but not in the zygote's sockets (29 is ESPIPE).
INHERITED = (
    "import os\nfor fd in range(4, 4096):\n    try:\n        os.lseek(fd, 0, 1)\n"
    "    except OSError as error:\n        if error.errno == 29: print('REACHED')"
)

CONTROLS = [
    Control("seccomp", (), SOCKET),
    Control("seccomp", (), EXECUTABLE),
    Control("seccomp", (), MEMORY_FILE),
    Control("landlock", ("seccomp", "namespaces"), READ),
    Control("landlock", ("seccomp", "namespaces", "rlimits"), WRITE_FILE),
    Control("namespaces", ("seccomp", "landlock"), READ),
    Control("namespaces", ("seccomp", "landlock"), CONNECT),
    Control("namespaces", ("seccomp", "landlock"), PARENT),
    Control("rlimits", (), ALLOCATE),
    Control("data", (), ALLOCATE_PRIVATE),
    Control("rlimits", ("seccomp", "landlock", "namespaces"), WRITE_FILE),
    Control("uid", ("seccomp", "landlock", "namespaces"), READ.replace("@FILE@", "@ROOT_FILE@"), takes_root=True),
    Control("descriptors", (), INHERITED),
]


class Place:
    """The files and the listener that the stand-ins try to reach."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sbx_control_"))
        self.folder.chmod(0o777)
        for name, mode in (("file", 0o644), ("root_file", 0o600)):
            (self.folder / name).write_text(SECRET)
            (self.folder / name).chmod(mode)
        self.listener = socket.create_server(("127.0.0.1", 0))

    def fill(self, code: str) -> str:
        """The code with its placeholders filled in."""
        places = {
            "@FILE@": str(self.folder / "file"),
            "@ROOT_FILE@": str(self.folder / "root_file"),
            "@FOLDER@": str(self.folder),
            "@SECRET@": SECRET,
            "@PORT@": str(self.listener.getsockname()[1]),
            "@TRAINER@": str(os.getpid()),
        }
        for name, value in places.items():
            code = code.replace(name, value)
        return code


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.listener.close()
    for path in made.folder.iterdir():
        path.unlink()
    made.folder.rmdir()


def observe(code: str, without: tuple[str, ...]) -> Observation:
    return observe_all([code], without)[0]


def observe_all(codes: Sequence[str], without: tuple[str, ...]) -> list[Observation]:
    """Observations of the codes, which run in workers of one zygote."""
    with warnings.catch_warnings(), patch.object(client.Zygote, "require"):  # else the lane is refused, as it should be
        warnings.simplefilter("ignore", RuntimeWarning)  # it warns that there is no confinement
        lane = ConfinedLane(1, LIMITS, "process", "call", without=without)
    try:
        return lane.run([ToolRequest(code, [IMAGE]) for code in codes])
    finally:
        lane.close()


def reached(observation: Observation) -> bool:
    """Whether the code printed REACHED on a line of its own: an error also shows the line of code that names it."""
    return "REACHED" in observation.text.splitlines()


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.layer)
def test_it_is_the_layer_that_holds(control: Control, place: Place) -> None:
    need("full" if control.layer == "namespaces" else "confined")
    if control.takes_root and os.geteuid() != 0:
        pytest.skip("only root has files that nobody cannot read")
    code = place.fill(control.code)
    with_layer, without_layer = (observe(code, others) for others in (control.others, (*control.others, control.layer)))
    assert not reached(with_layer), with_layer
    assert reached(without_layer), without_layer
    (place.folder / "made").unlink(missing_ok=True)


def test_all_layers_together_hold_every_stand_in(place: Place) -> None:
    need(best_level())
    lane = ConfinedLane(2, LIMITS, "syscall", "call")
    try:
        requests = [ToolRequest(place.fill(control.code), [IMAGE]) for control in CONTROLS]
        for control, observation in zip(CONTROLS, lane.run(requests), strict=True):
            assert not reached(observation), (control, observation)
    finally:
        lane.close()


SLOW = "import time\nstart = time.perf_counter()\nwhile time.perf_counter() - start < 0.8: pass\nprint('REACHED')"


@pytest.mark.parametrize(("wall_s", "status"), [(0.3, "timeout"), (60, "ok")])
def test_it_is_the_timer_that_ends_what_runs_on(wall_s: float, status: str) -> None:
    need()
    lane = ConfinedLane(1, Limits(wall_s=wall_s), "syscall", "call")
    try:
        (observation,) = lane.run([ToolRequest(SLOW, [IMAGE])])
        assert observation.status == status
        assert reached(observation) == (status == "ok")
    finally:
        lane.close()


#: Answers the next request before it arrives; the text of the forged reply is REACHED.
EARLY = (
    "import os\nfrom sandbox.confined import wire\n"
    "os.write(3, wire.REPLY.pack(wire.REPLY_MAGIC, @NONCE@, wire.TEXT_ONLY, 0, 0, 7, 0) + b'own')\n"
    "os.write(3, wire.REPLY.pack(wire.REPLY_MAGIC, @NONCE@, wire.TEXT_ONLY, 0, 0, 7, 0) + b'REACHED')\n"
    "while True: pass"
)


@pytest.mark.parametrize(
    ("knows_nonce", "may_say_more", "is_forged"),
    [(False, False, False), (True, False, False), (False, True, False), (True, True, True)],
)
def test_it_is_nonce_and_silence_that_hold_early_replies(
    knows_nonce: bool, may_say_more: bool, is_forged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    need()
    first = 7
    nonces = iter([first, first if knows_nonce else 123456789] * 2)
    monkeypatch.setattr(client.secrets, "randbits", lambda bits: next(nonces))
    monkeypatch.setattr(client.Zygote, "pause", lambda zygote, worker: None)  # a worker that is stopped says nothing
    if may_say_more:
        monkeypatch.setattr(client.Zygote, "is_quiet", lambda zygote, worker: True)
    code = EARLY.replace("@NONCE@", str(first)).replace("b'own'", "b'the own'")
    lane = ConfinedLane(1, LIMITS, "syscall", "episode")
    try:
        (own,) = lane.run([ToolRequest(code, [IMAGE], episode="a")])
        assert own.text == "the own"
        said, _, _ = select.select([lane._pool._kept["a"].channel], [], [], 60)
        assert said, "it said no more"
        (forged,) = lane.run([ToolRequest("print('honest')", [IMAGE], episode="a")])
        assert (forged.text == "REACHED") == is_forged, forged
    finally:
        lane.close()


@pytest.mark.parametrize(("is_input", "can_write"), [(True, False), (False, True)])
def test_it_is_the_seal_that_keeps_inputs(is_input: bool, can_write: bool) -> None:
    need()
    slot = Slot(4096, is_input=is_input)
    try:
        for change in (lambda: mmap.mmap(slot.descriptor, 4096)[:1], lambda: os.pwrite(slot.descriptor, b"x", 0)):
            if can_write:
                change()
            else:
                with pytest.raises(PermissionError):
                    change()
        slot.memory[:1] = b"y"
        with pytest.raises(PermissionError):
            os.ftruncate(slot.descriptor, 0)
    finally:
        slot.memory.release()
        slot.close()


def test_a_file_that_is_used_again_holds_nothing_of_before() -> None:
    need()
    slot = Slot(1 << 20, is_input=False)
    slot.reserve(8192)
    slot.memory[:8192] = b"x" * 8192
    assert slot.blank()
    assert bytes(slot.memory) == bytes(1 << 20)
    slot.memory[1 << 19] = 1
    slot.reserve(100)
    assert not slot.blank(), "something was written where no reply told of it"
    slot.close()
