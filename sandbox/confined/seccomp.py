"""A classic-BPF assembler for the workers' system call filter, and its loader.

Default deny: a call in neither `syscalls.ALLOWED` nor `syscalls.CHECKED` fails with EPERM, or kills the process if it
is in `syscalls.KILLED`. No allowed call opens a file, or makes a socket, a process or executable memory. Calls of
another architecture's table kill the process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence

from sandbox.confined.syscalls import ALLOWED, CHECKED, KILLED, Architecture

ALLOW, KILL = 0x7FFF0000, 0x80000000
DENY = 0x00050000 | errno.EPERM

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32_BIT = 0x40000000
_PROT_EXEC = 4
#: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
_FCNTL = (0, 1, 2, 3, 1030)
#: TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX; not FIONBIO, which changes a flag of a shared file description.
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)
#: Clocks of the system and of the calling process have lower numbers; negative numbers name processes.
_N_CLOCKS = 12

Instruction = tuple[int, int, int, int]


def _statement(code: int, value: int) -> Instruction:
    return code, 0, 0, value


def _jump(code: int, value: int, if_true: int, if_false: int) -> Instruction:
    return code, if_true, if_false, value


def _argument(index: int, *, high: bool = False) -> Instruction:
    return _statement(_LOAD, _ARGUMENTS + 8 * index + 4 * high)


def _verdict(number: int, verdict: int) -> list[Instruction]:
    return [_jump(_JUMP_EQUAL, number, 0, 1), _statement(_RETURN, verdict)]


_DENIED = _statement(_RETURN, DENY)


def _has_no_bit(index: int, bit: int) -> list[Instruction]:
    return [_argument(index), _jump(_JUMP_SET, bit, 0, 1), _DENIED]


def _is_below(index: int, limit: int) -> list[Instruction]:
    return [_argument(index), _jump(_JUMP_GREATER_EQUAL, limit, 0, 1), _DENIED]


def _is_null(index: int) -> list[Instruction]:
    halves = (_argument(index), _argument(index, high=True))
    return [part for half in halves for part in (half, _jump(_JUMP_EQUAL, 0, 1, 0), _DENIED)]


def _is_one_of(index: int, values: Sequence[int]) -> list[Instruction]:
    tests = [_jump(_JUMP_EQUAL, value, len(values) - place, 0) for place, value in enumerate(values)]
    return [_argument(index), *tests, _DENIED]


#: Conditions on the arguments of a call, by its name: each condition denies, or passes the call on to the next one.
_CONDITIONS: dict[str, list[Instruction]] = {
    "mmap": _has_no_bit(2, _PROT_EXEC),
    "mprotect": _has_no_bit(2, _PROT_EXEC),
    "prlimit64": [*_is_one_of(0, (0,)), *_is_null(2)],
    "sched_getaffinity": _is_one_of(0, (0,)),
    "fcntl": _is_one_of(1, _FCNTL),
    "ioctl": _is_one_of(1, _IOCTL),
    **dict.fromkeys(("clock_gettime", "clock_getres", "clock_nanosleep"), _is_below(0, _N_CLOCKS)),
}


def assemble(architecture: Architecture) -> bytes:
    """The worker's filter as an array of `struct sock_filter`."""
    column = architecture.column
    program = [
        _statement(_LOAD, _ARCHITECTURE),
        _jump(_JUMP_EQUAL, architecture.audit, 1, 0),
        _statement(_RETURN, KILL),
        _statement(_LOAD, _NUMBER),
    ]
    if architecture.has_x32:
        program += [_jump(_JUMP_GREATER_EQUAL, _X32_BIT, 0, 1), _statement(_RETURN, KILL)]
    for name, numbers in CHECKED.items():
        body = [*_CONDITIONS[name], _statement(_RETURN, ALLOW)]
        program += [_jump(_JUMP_EQUAL, numbers[column], 0, len(body)), *body]
    for allowed in ALLOWED.values():
        number = allowed[column]
        if number is not None:
            program += _verdict(number, ALLOW)
    for killed in KILLED.values():
        program += _verdict(killed[column], KILL)
    return pack([*program, _statement(_RETURN, DENY)])


def pack(program: Sequence[Instruction]) -> bytes:
    """Instructions as the kernel reads them."""
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def load(program: bytes, architecture: Architecture) -> None:
    """Put all threads of the calling process under the filter, permanently.

    Raises:
        OSError: The kernel refuses.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    loaded = _Program(len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    set_mode_filter, synchronise_threads = 1, 1
    if libc.syscall(architecture.seccomp, set_mode_filter, synchronise_threads, ctypes.byref(loaded)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
