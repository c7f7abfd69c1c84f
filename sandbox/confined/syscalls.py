"""Numbers of the system calls that the filter names (Linux: asm/unistd_64.h for x86_64, asm-generic/unistd.h)."""

from __future__ import annotations

import platform
from dataclasses import dataclass

#: Calls that a snippet needs to compute: (x86_64, aarch64), None if there is no such call. Most frequent first.
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "futex": (202, 98),
    "munmap": (11, 215),
    "brk": (12, 214),
    "madvise": (28, 233),
    "mremap": (25, 216),
    "recvmsg": (47, 212),
    "recvfrom": (45, 207),
    "sendto": (44, 206),
    "poll": (7, None),
    "ppoll": (271, 73),
    "getrandom": (318, 278),
    "close": (3, 57),
    "read": (0, 63),
    "write": (1, 64),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "sched_yield": (24, 124),
    "dup": (32, 23),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getcwd": (79, 17),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "getcpu": (309, 168),
    "set_robust_list": (273, 99),
    "membarrier": (324, 283),
    "rseq": (334, 293),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
}

#: Calls that are allowed for some arguments only; `seccomp` defines which.
CHECKED: dict[str, tuple[int, int]] = {
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "prlimit64": (302, 261),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "sched_getaffinity": (204, 123),
    "clock_gettime": (228, 113),
}

#: Calls that no snippet makes by accident: the process is killed.
KILLED: dict[str, tuple[int, int]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "unshare": (272, 97),
    "setns": (308, 268),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "perf_event_open": (298, 241),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
}


@dataclass(frozen=True)
class Architecture:
    """A processor architecture, as the kernel's filters see it.

    Attributes:
        audit: Its AUDIT_ARCH value.
        column: Its column in the tables.
        seccomp: Number of the `seccomp` call.
        has_x32: Whether call numbers with bit 30 set refer to a second table of calls.
    """

    audit: int
    column: int
    seccomp: int
    has_x32: bool


ARCHITECTURES = {
    "x86_64": Architecture(0xC000003E, 0, 317, has_x32=True),
    "aarch64": Architecture(0xC00000B7, 1, 277, has_x32=False),
}


def this_architecture() -> Architecture | None:
    """The architecture of this interpreter; None if there is no table for it."""
    return ARCHITECTURES.get(
        {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    )
