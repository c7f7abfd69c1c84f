"""Workers cannot tell each other anything, outlive their call, or take what all of them share."""

from __future__ import annotations

import pytest

from sandbox import ToolRequest
from tests.sandbox.confined.kept import IMAGE, kept
from tests.sandbox.confined.test_layers import observe_all, reached
from tests.sandbox.machine import need

#: One worker sets a flag of a file description, and the other worker reads it.
NOTE = "import fcntl\nfor fd in (0, 1, 2):\n    fcntl.ioctl(fd, 0x5421, b'\\x01\\0\\0\\0')\nprint('noted')"
LOOK = "import fcntl, os\nprint('REACHED' if fcntl.fcntl(0, 3) & os.O_NONBLOCK else 'clean')"


@pytest.mark.parametrize(
    ("without", "is_told"),
    [(("seccomp", "null"), True), (("seccomp",), False), (("null",), False), ((), False)],
    ids=["neither", "own null device", "filter", "both"],
)
def test_no_file_description_is_shared(without: tuple[str, ...], is_told: bool) -> None:
    need()
    _, seen = observe_all([NOTE, LOOK], without)
    assert reached(seen) == is_told, seen


def test_a_stopped_episode_goes_on_with_its_variables() -> None:
    lane = kept()
    try:
        for _ in range(3):
            (seen,) = lane.run([ToolRequest("n = globals().get('n', 0) + 1\nprint(n)", [IMAGE], episode="a")])
        assert seen.text.strip() == "3"
    finally:
        lane.close()
