"""The cgroup of all workers, if the machine delegates one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.confined.cgroup import Cgroup


@pytest.fixture
def delegated(tmp_path: Path) -> Path:
    """A folder like that of a cgroup that gives its controllers to its children."""
    for name in ("cgroup.controllers", "cgroup.procs"):
        (tmp_path / name).touch()
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids")
    return tmp_path


def test_all_workers_share_a_cgroup_if_one_is_delegated(delegated: Path) -> None:
    group = Cgroup(4321, memory=1 << 30, tasks=50, cores=1.5, root=delegated)
    (folder,) = delegated.glob("cv-sandbox-*")
    written = {path.name: path.read_text() for path in folder.iterdir()}
    assert written == {
        "memory.max": str(1 << 30),
        "memory.swap.max": "0",
        "pids.max": "50",
        "cpu.max": "150000 100000",
        "cgroup.procs": "4321",
    }
    group.close()


@pytest.mark.parametrize(
    ("controllers", "reason"), [("cpu pids", "no controller memory"), (None, "cgroup v2 is not mounted")]
)
def test_why_there_is_no_cgroup_is_said(controllers: str | None, reason: str, delegated: Path) -> None:
    if controllers is None:
        (delegated / "cgroup.controllers").unlink()
    else:
        (delegated / "cgroup.subtree_control").write_text(controllers)
    with pytest.raises(OSError, match=reason):
        Cgroup(1, 1, 1, 1, root=delegated)
