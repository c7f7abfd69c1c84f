"""Checkpoints of shards: other numbers of ranks, other kinds of runs, and a full disk."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from cv_lightning.errors import CheckpointError, TrainingError
from modules.sharding.strategy import ShardedStrategy
from tests.modules.sharding.helpers import on_ranks
from tests.modules.sharding.runs import Case, run, run_all, start

WHOLE, CUT = Case("rl"), Case("rl", max_steps=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_resumed_run_is_an_unbroken_one_on_any_number_of_ranks(tmp_path: Path) -> None:
    policy = start(WHOLE, tmp_path / "start")
    cut = {n: tmp_path / f"cut_{n}" / "last.ckpt" for n in (1, 2)}
    on_ranks(2, run_all, [(WHOLE, policy, tmp_path / "whole"), (CUT, policy, cut[2].parent)], "sharded", 2)
    one = [(CUT, policy, cut[1].parent), (WHOLE, policy, tmp_path / "2 to 1", cut[2])]
    on_ranks(1, run_all, one, "sharded", 1)
    two = [(WHOLE, policy, tmp_path / f"{n} to 2", cut[n]) for n in (1, 2)]
    on_ranks(2, run_all, two, "sharded", 2)
    whole = torch.load(tmp_path / "whole" / "record.pt")
    for name in ("2 to 1", "1 to 2", "2 to 2"):
        rest = torch.load(tmp_path / name / "record.pt")
        assert len(rest["steps"]) == 1
        largest = max((rest["weights"][key] - value).abs().max().item() for key, value in whole["weights"].items())
        print(f"{name}: {largest:.1e}")
        assert largest < 1e-5


def test_the_file_of_a_run_that_was_not_sharded_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    file.write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"ckpt_path: .* a sharded run continues from a folder\. Resume it"
    ) as one:
        ShardedStrategy().load_checkpoint(file)
    assert "\n" not in str(one.value)


def test_a_folder_that_was_not_written_to_its_end_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"ckpt_path: .* is incomplete\. Resume from another"):
        ShardedStrategy().load_checkpoint(tmp_path)


def run_on_a_full_disk(policy: dict[str, Any], folder: Path, full_at: tuple[int, ...]) -> None:
    """A run whose second rank has no disk space at some steps; its warnings and its outcome are written to a file."""
    write_data = FileSystemWriter.write_data

    def write(self: Any, plan: Any, planner: Any) -> Any:
        if os.environ["RANK"] == "1" and any(self.path.name.endswith(f"step-{step}") for step in full_at):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_data(self, plan, planner)

    FileSystemWriter.write_data = write  # type: ignore[method-assign]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run(Case("sft"), "sharded", policy, folder, 2)
            ended = "ended well"
        except TrainingError as error:
            ended = str(error)
    warned = [str(warning.message) for warning in caught if "cannot be written" in str(warning.message)]
    (folder / f"said_{os.environ['RANK']}.txt").write_text("\n".join([*warned, ended]))
    FileSystemWriter.write_data = write_data  # type: ignore[method-assign]


def run_on_full_disks(policy: dict[str, Any], folder: Path) -> None:
    """One run whose disk is full for a while, and one whose disk stays full."""
    run_on_a_full_disk(policy, folder / "a while", (2,))
    run_on_a_full_disk(policy, folder / "for good", (2, 3))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_disk_that_is_full_on_one_rank_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    policy = start(Case("sft"), tmp_path / "start")
    on_ranks(2, run_on_full_disks, policy, tmp_path)
    last, said = tmp_path / "a while" / "last.ckpt", (tmp_path / "a while" / "said_0.txt").read_text().splitlines()
    assert said[-1] == "ended well"
    assert (last.resolve().name, (last / ".metadata").exists()) == ("last.ckpt.step-3", True)
    last = tmp_path / "for good" / "last.ckpt"
    for rank in (0, 1):
        said = (tmp_path / "for good" / f"said_{rank}.txt").read_text().splitlines()
        assert (
            "the checkpoint of step 3 cannot be written (No space left on device). The previous checkpoint is intact"
            in said[-1]
        )
    assert (last.resolve().name, (last / ".metadata").exists()) == ("last.ckpt.step-1", True)
    assert sorted(path.name for path in last.parent.glob("last.ckpt.*")) == ["last.ckpt.step-1"]
    on_ranks(2, run, Case("sft"), "sharded", policy, tmp_path / "again", 2, last)
    assert (tmp_path / "again" / "last.ckpt").resolve().name == "last.ckpt.step-3"
