"""Landlock (Linux 5.13 and later): from here on, this process and its children reach no file.

With version 4 of the interface (Linux 6.7) and later, they reach no TCP port either.
"""

from __future__ import annotations

import ctypes
import os
import struct

#: System call numbers, the same on x86_64 and aarch64.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION_FLAG = 1
#: Number of file access rights that each version of the interface knows.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}


def version() -> int:
    """Version of the kernel's Landlock interface, 0 if it has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)))


def ruleset(interface: int) -> bytes:
    """`struct landlock_ruleset_attr` that handles, hence denies, every right of the interface."""
    files = (1 << _FILE_RIGHTS[min(interface, max(_FILE_RIGHTS))]) - 1
    network = 0b11 if interface >= 4 else 0
    scoped = 0b11 if interface >= 6 else 0
    fields = [files, network, scoped][: 1 if interface < 4 else 2 if interface < 6 else 3]
    return struct.pack(f"<{len(fields)}Q", *fields)


def restrict() -> int:
    """Deny this process every right that Landlock handles; `no_new_privs` must be set. Returns the interface's version.

    Raises:
        OSError: The kernel has no Landlock or refuses.
    """
    interface = version()
    libc = ctypes.CDLL(None, use_errno=True)
    if interface == 0:
        raise OSError(ctypes.get_errno(), "the kernel has no Landlock")
    attributes = ruleset(interface)
    descriptor = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    try:
        if libc.syscall(_RESTRICT_SELF, descriptor, 0) != 0:
            raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    finally:
        os.close(descriptor)
    return interface
