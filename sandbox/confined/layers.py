"""The layers of confinement for the zygote and its workers, each tried at run time and never assumed (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from collections.abc import Callable
from functools import cache
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 24, 38, 47
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_SPACES = _CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWPID | _CLONE_NEWNET
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 0x4000, 0x40000
_NOBODY = 65534
_SIGKILL = 9


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc(), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def attempt(layers: dict[str, str], name: str, action: Callable[[], object]) -> bool:
    """Put on a layer and note "" or the reason why it does not hold."""
    try:
        action()
    except (OSError, ValueError, AttributeError) as error:
        layers[name] = str(error) or type(error).__name__
        return False
    layers[name] = ""
    return True


def no_new_privileges() -> None:
    """Ensure that no program started from here on gains a right."""
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends."""
    _call("prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def unshare() -> None:
    """Enter new namespaces (a new process namespace applies to children only), via a user namespace if not root."""
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", _SPACES)
    except OSError:
        _call("unshare", _SPACES | _CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)


def empty_root() -> None:
    """Make an empty, read-only file system the root; call this in the new mount namespace."""
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _call("mount", b"none", b"/tmp", b"tmpfs", flags | _MS_RDONLY, b"size=4k")
    os.chroot("/tmp")  # noqa: S108
    os.chdir("/")


def prefer_as_victim() -> None:
    """Let the kernel end the workers first when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def memory_in_use() -> tuple[int, int]:
    """Bytes of this process's mappings, and how many of them are private and writable."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[0]) * resource.getpagesize(), int(fields[5]) * resource.getpagesize()


def limit_resources(address_space: int, data: int, cpu_s: int, files: int) -> None:
    """Cap what the process may use; no core dump, no file writes, no locked memory, no child process.

    Args:
        address_space: Bytes of all mappings, including shared images.
        data: Bytes of private memory.
        cpu_s: Seconds of processor time.
        files: Number of descriptors.
    """
    limits = {
        resource.RLIMIT_AS: address_space,
        resource.RLIMIT_DATA: data,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_NOFILE: files,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, value in limits.items():
        _, highest = resource.getrlimit(kind)
        if highest != resource.RLIM_INFINITY:
            value = min(value, highest)
        resource.setrlimit(kind, (value, value))


def renounce() -> None:
    """Drop capabilities that the zygote itself does not need, once for all workers; call before `drop_user`."""
    libc = _libc()
    libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)
    for capability in range(64):
        if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    _leaves_for_nobody()
    for name in ("prctl", "capset"):  # looked up once, for all workers
        getattr(libc, name)


def drop_user() -> None:
    """Become nobody, without groups and capabilities; if not root, only drop capabilities."""
    if _leaves_for_nobody():
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    _call("capset", header, data)
    _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if os.geteuid() == 0:
        raise OSError("still root: this user cannot be left")


@cache
def _leaves_for_nobody() -> bool:
    """Whether this process is root, and its user namespace maps the user nobody."""
    if os.geteuid() != 0:
        return False
    try:
        lines = Path("/proc/self/uid_map").read_text().split("\n")
    except OSError:
        return True  # /proc is gone after the root was emptied; setresuid itself will fail if there is no such user
    ranges = [[int(part) for part in line.split()] for line in lines if line]
    return any(start <= _NOBODY < start + length for start, _, length in ranges)


def yield_to_others() -> None:
    """Prevent this process from interrupting others when it wakes up."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def yield_no_more() -> None:
    """Undo `yield_to_others`."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
