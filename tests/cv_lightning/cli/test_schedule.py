"""Stages run in order or in parallel, and a failed stage skips only the stages that depend on it."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
import torch

from cv_lightning.cli.recipe import Stage
from cv_lightning.cli.schedule import StageTask, run_tasks
from cv_lightning.errors import TrainingError


@dataclass(frozen=True)
class Fake(StageTask):
    """Writes `done`; reports its process, its threads, and whether each stage that it reads was done."""

    fails: bool = False

    def run(self) -> dict[str, Any]:
        if self.fails:
            raise TrainingError("the loss is not finite\nmore")
        read = {name: (self.folder.parent / name / "done").exists() for name in self.stage.after}
        self.folder.mkdir(parents=True)
        (self.folder / "done").touch()
        return {"process": os.getpid(), "threads": torch.get_num_threads(), "read": read}


def task(folder: Path, name: str, *after: str, fails: bool = False) -> Fake:
    return Fake(Stage(name, (), after), folder / name, "", (), "", fails)


def tasks(folder: Path, **fails: bool) -> list[Fake]:
    return [
        task(folder, "base"),
        task(folder, "sft", "base", fails=fails.get("sft", False)),
        task(folder, "alone", "base"),
        task(folder, "rl", "sft"),
        task(folder, "last", "rl"),
    ]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_stage_runs_when_those_that_it_reads_are_done(
    jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    outcome = run_tasks(tasks(tmp_path), jobs, keeps_going=False)
    assert list(outcome.results) == ["base", "sft", "alone", "rl", "last"]
    assert outcome.failed == {}
    assert all(all(result["read"].values()) for result in outcome.results.values())
    processes = {result["process"] for result in outcome.results.values()}
    assert processes == {os.getpid()} if jobs == 1 else len(processes) == 5
    if jobs == 2:
        threads = {name: result["threads"] for name, result in outcome.results.items()}
        assert threads == {"base": 2, "sft": 1, "alone": 1, "rl": 1, "last": 1}, "only base has nothing beside it"
    assert "OMP_NUM_THREADS" not in os.environ


def test_threads_of_the_environment_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    outcome = run_tasks(tasks(tmp_path), 2, keeps_going=False)
    assert {result["threads"] for result in outcome.results.values()} == {1}


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_that_fails_takes_along_what_reads_it_and_no_other(jobs: int, tmp_path: Path) -> None:
    outcome = run_tasks(tasks(tmp_path, sft=True), jobs, keeps_going=True)
    assert list(outcome.results) == ["base", "alone"]
    assert outcome.failed == {
        "sft": "failed: the loss is not finite",
        "rl": "it reads sft, which failed",
        "last": "it reads rl, which failed",
    }
    assert "TrainingError: the loss is not finite" in (tmp_path / "sft" / "error.txt").read_text()


@pytest.mark.parametrize("jobs", [1, 2])
def test_without_claims_the_first_fault_ends_the_run(jobs: int, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        run_tasks(tasks(tmp_path, sft=True), jobs, keeps_going=False)


@dataclass(frozen=True)
class Endless(StageTask):
    """Reports that it runs, then never returns; its end of the connection closes with its process."""

    told: Connection | None = None

    def run(self) -> dict[str, Any]:
        assert self.told is not None
        self.told.send("running")
        while True:
            time.sleep(1)


def test_stages_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    heard, told = context.Pipe(duplex=False)
    endless = [Endless(Stage(name, (), ()), tmp_path, "", (), "", told) for name in ("one", "two")]
    parent = context.Process(target=run_tasks, args=(endless, 2), kwargs={"keeps_going": False})
    parent.start()
    told.close()
    assert [heard.recv(), heard.recv()] == ["running", "running"]
    parent.kill()
    parent.join()
    assert wait([heard], timeout=60), "a stage still runs"
    with pytest.raises(EOFError):
        heard.recv()
