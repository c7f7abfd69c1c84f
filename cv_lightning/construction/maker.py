"""Makes the row of any index: plans, constructs, checks, tries again. One for each process, shared by its threads."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Literal

from cv_lightning.console.versions import versions
from cv_lightning.construction.checks import Checks
from cv_lightning.construction.collect import episode_record, question_record
from cv_lightning.construction.episode import construct
from cv_lightning.construction.journal import Item
from cv_lightning.construction.plan import Plan, Planner
from cv_lightning.construction.teacher import Teacher
from cv_lightning.endpoint.meter import RequestError
from cv_lightning.errors import ConfigError
from cv_lightning.types import Trajectory
from sandbox import ToolExecutor
from sandbox.executor import LaneName

What = Literal["sft", "rl"]

#: Packages that draw, run and write episodes.
DRAWN_WITH = ("cv-lightning", "pillow", "numpy", "opencv-python-headless")


class Interrupted(Exception):
    """The build was told to stop; the index is left undone."""


class Maker:
    """Makes rows.

    Args:
        what: "sft": episodes. "rl": questions, each of which the teacher solved as its metadata says.
        planner: Draws metadata.
        teacher: Writes the turns.
        checks: What is demanded.
        folder: Images go below it.
        settings: Hash of the build's settings, for the provenance.
        max_attempts: Plans of one index, at most.
        lane: Which lane of the executor runs the calls.
    """

    def __init__(
        self,
        what: What,
        planner: Planner,
        teacher: Teacher,
        checks: Checks,
        folder: Path,
        settings: str,
        max_attempts: int,
        lane: LaneName,
    ) -> None:
        self._what = what
        self._planner, self._teacher, self._checks = planner, teacher, checks
        self._folder = folder
        self._max_attempts = max_attempts
        self._provenance = {
            "seed": planner.seed,
            "teacher": teacher.identity(),
            "settings": settings,
            "versions": versions(DRAWN_WITH),
        }
        self._executor = ToolExecutor(lane=lane, workers=1 if not teacher.is_remote else None)
        self._lock = threading.Lock()  # a source of recorded rows reads one row at a time
        self._is_stopped = False

    def stop(self) -> None:
        """Have every thread end after the attempt that it is at."""
        self._is_stopped = True

    def close(self) -> None:
        """End the executor's workers."""
        self._executor.close()

    def usage(self) -> dict[str, float]:
        """What the teacher cost."""
        return self._teacher.usage()

    def make(self, index: int) -> Item:
        """The item of an index.

        Raises:
            RequestError: The teacher's server failed this one; another time it may not.
            EndpointError: It fails them all.
            DataError: The disk is full, or a source has no good row.
        """
        started = time.perf_counter()
        rejected: list[str] = []
        record = None
        while record is None and len(rejected) < self._max_attempts:
            if self._is_stopped:
                raise Interrupted
            with self._lock:
                plan = self._planner.plan(index, len(rejected))
            fault, trajectory = self._attempt(plan)
            if fault is not None or trajectory is None:
                rejected.append(fault or "request_failed")
                continue
            record = self._record(plan, trajectory)
        return Item(index, self._planner.kind_of(index), record, rejected, round(time.perf_counter() - started, 4))

    def _attempt(self, plan: Plan) -> tuple[str | None, Trajectory | None]:
        if self._what == "rl" and plan.sample.rule not in ("match", "choice"):
            return "rule_not_published", None
        try:
            made = construct(plan, self._teacher, self._executor, self._checks)
        except RequestError as error:
            if error.is_passing:
                raise
            return "request_failed", None
        return made.fault, made.trajectory

    def _record(self, plan: Plan, trajectory: Trajectory) -> dict[str, Any]:
        if self._what == "rl":
            return question_record(plan, self._provenance, self._folder)
        return episode_record(plan, trajectory, self._provenance, self._folder)


_maker: Maker | None = None


def start_worker(make_maker: Callable[[Mapping[str, Any]], Maker], settings: Mapping[str, Any]) -> None:
    """Prepare a worker process: Ctrl-C is its parent's to handle, and it does not outlive its parent."""
    global _maker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _maker = make_maker(settings)


def make_in_worker(index: int) -> Item:
    """The item of an index, in a worker process."""
    if _maker is None:
        raise ConfigError("Expected start_worker to run first")
    return _maker.make(index)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
