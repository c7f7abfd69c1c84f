"""The worker's filter, run instruction by instruction as the kernel runs it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.confined.seccomp import ALLOW, DENY, KILL, assemble
from sandbox.confined.syscalls import ALLOWED, ARCHITECTURES, CHECKED, KILLED

MASK = (1 << 64) - 1
X32 = 0x40000000


def verdict(filtered: bytes, audit: int, number: int, arguments: tuple[int, ...] = (0,) * 6) -> int:
    """The filter's verdict on a call, by an interpreter of classic BPF over `struct seccomp_data`."""
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, audit, 0, *(value & MASK for value in arguments))
    program = [*struct.iter_unpack("<HBBI", filtered)]
    place, accumulator = 0, 0
    while True:
        code, if_true, if_false, value = program[place]
        place += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x06:
                return int(value)
            case 0x15 | 0x35 | 0x45:
                holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}
                place += if_true if holds[code] else if_false
            case _:
                raise AssertionError(f"the kernel would refuse the instruction {code:#x}")


@pytest.fixture(params=ARCHITECTURES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def numbers(table: dict[str, tuple[int | None, int | None]], machine: str) -> set[int]:
    column = ARCHITECTURES[machine].column
    return {number for each in table.values() if (number := each[column]) is not None}


def test_every_number_gets_the_verdict_of_its_table(machine: str) -> None:
    architecture = ARCHITECTURES[machine]
    filtered = assemble(architecture)
    allowed, killed = numbers(ALLOWED, machine), numbers(dict(KILLED), machine)
    assert allowed
    assert killed
    assert not allowed & killed
    for number in set(range(2048)) - numbers(dict(CHECKED), machine):
        expected = ALLOW if number in allowed else KILL if number in killed else DENY
        assert verdict(filtered, architecture.audit, number) == expected, number


def test_calls_of_another_table_end_the_process(machine: str) -> None:
    architecture = ARCHITECTURES[machine]
    filtered = assemble(architecture)
    i386 = 0x40000003
    others = {i386, *(each.audit for each in ARCHITECTURES.values())} - {architecture.audit}
    assert {verdict(filtered, audit, number) for audit in others for number in range(500)} == {KILL}
    if architecture.has_x32:
        assert {verdict(filtered, architecture.audit, X32 | number) for number in range(600)} == {KILL}


def call(machine: str, name: str, *arguments: int) -> int:
    architecture = ARCHITECTURES[machine]
    number = CHECKED[name][architecture.column]
    return verdict(assemble(architecture), architecture.audit, number, (*arguments, *(0,) * (6 - len(arguments))))


@given(st.integers(0, MASK))
def test_no_memory_becomes_executable(protection: int) -> None:
    for machine in ARCHITECTURES:
        for name in ("mmap", "mprotect"):
            assert call(machine, name, 0, 4096, protection) == (DENY if protection & 4 else ALLOW)


@given(st.integers(0, MASK), st.integers(0, MASK))
def test_limits_are_read_of_this_process_only(process: int, new_limits: int) -> None:
    is_own = process & 0xFFFFFFFF == 0  # the kernel takes the lower half as the process id
    for machine in ARCHITECTURES:
        assert call(machine, "prlimit64", process, 7, new_limits) == (ALLOW if is_own and not new_limits else DENY)
        assert call(machine, "sched_getaffinity", process) == (ALLOW if is_own else DENY)


@given(st.integers(-(2**31), 2**31 - 1))
def test_clocks_of_other_processes_cannot_be_read(clock: int) -> None:
    for machine in ARCHITECTURES:
        for name in ("clock_gettime", "clock_getres", "clock_nanosleep"):
            assert call(machine, name, clock) == (ALLOW if 0 <= clock < 12 else DENY)


def test_what_descriptors_may_be_asked(machine: str) -> None:
    set_flags, set_owner, seals = 4, 8, 1033
    assert [call(machine, "fcntl", 3, command) for command in (0, 1, 2, 3, 1030)] == [ALLOW] * 5
    assert [call(machine, "fcntl", 3, command) for command in (set_flags, set_owner, seals)] == [DENY] * 3
    push_input, non_blocking, is_terminal = 0x5412, 0x5421, 0x5401
    assert call(machine, "ioctl", 0, is_terminal) == ALLOW
    assert [call(machine, "ioctl", 0, request) for request in (push_input, non_blocking)] == [DENY] * 2
