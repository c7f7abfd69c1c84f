"""The rights that the sandbox asks each version of Landlock to deny."""

from __future__ import annotations

import struct

import pytest

from sandbox.confined.landlock import ruleset


@pytest.mark.parametrize(
    ("interface", "fields"),
    [
        (1, (0x1FFF,)),  # up to MAKE_SYM
        (2, (0x3FFF,)),  # REFER
        (3, (0x7FFF,)),  # TRUNCATE
        (4, (0x7FFF, 0b11)),  # BIND_TCP, CONNECT_TCP
        (5, (0xFFFF, 0b11)),  # IOCTL_DEV
        (6, (0xFFFF, 0b11, 0b11)),  # ABSTRACT_UNIX_SOCKET, SIGNAL
        (7, (0xFFFF, 0b11, 0b11)),
    ],
)
def test_every_right_that_a_version_knows_is_denied(interface: int, fields: tuple[int, ...]) -> None:
    """Values from include/uapi/linux/landlock.h. A kernel refuses a field or a bit that it does not know."""
    assert ruleset(interface) == struct.pack(f"<{len(fields)}Q", *fields)
