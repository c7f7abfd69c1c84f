"""Makes the rows of a build, with one maker per process."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing import parent_process
from typing import Any

from cv_lightning.console.versions import versions
from cv_lightning.construction.collect import episode_record, question_record
from cv_lightning.construction.episode import construct
from cv_lightning.construction.journal import Item
from cv_lightning.construction.plan import EpisodePlan
from cv_lightning.construction.settings import Build
from cv_lightning.endpoint.meter import RequestError
from cv_lightning.errors import ConfigError
from cv_lightning.types import Trajectory
from sandbox import ToolExecutor

#: Packages that affect the content of episodes.
DRAWN_WITH = ("cv-lightning", "pillow", "numpy", "opencv-python-headless")


class Interrupted(Exception):
    """The build was told to stop; the index is left undone."""


class RowMaker:
    """Makes the row of any index: plans, constructs, checks, and tries again. The threads of a process share a maker.

    Args:
        build: The config.
        settings: The settings that determine the rows; their hash goes into the provenance.
    """

    def __init__(self, build: Build, settings: Mapping[str, Any]) -> None:
        self._build = build
        self._provenance = {
            "seed": build.planner.seed,
            "teacher": build.teacher.identity(),
            "settings": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16],
            "versions": versions(DRAWN_WITH),
        }
        self._executor = ToolExecutor(lane=build.lane, workers=None if build.teacher.is_remote else 1)
        self._lock = threading.Lock()  # a source of recorded rows reads one row at a time
        self._is_stopped = False

    def stop(self) -> None:
        """Make every thread stop after its current attempt."""
        self._is_stopped = True

    def close(self) -> None:
        """End the executor's workers."""
        self._executor.close()

    def usage(self) -> dict[str, float]:
        """Requests, tokens and cost of the teacher."""
        return self._build.teacher.usage()

    def make(self, index: int) -> Item:
        """The item of an index.

        Raises:
            RequestError: The teacher's server failed on this index; another run may succeed.
            EndpointError: The teacher's server refuses all requests.
            DataError: The disk is full, or a source has no good row.
        """
        started = time.perf_counter()
        rejected: list[str] = []
        record = None
        while record is None and len(rejected) < self._build.max_attempts:
            if self._is_stopped:
                raise Interrupted
            with self._lock:
                plan = self._build.planner.plan(index, len(rejected))
            fault, trajectory = self._attempt(plan)
            if fault is not None or trajectory is None:
                rejected.append(fault or "request_failed")
                continue
            record = self._record(plan, trajectory)
        return Item(
            index, self._build.planner.kind_of(index), record, rejected, round(time.perf_counter() - started, 4)
        )

    def _attempt(self, plan: EpisodePlan) -> tuple[str | None, Trajectory | None]:
        if self._build.kind == "rl" and plan.sample.rule not in ("match", "choice"):
            return "rule_not_published", None
        try:
            made = construct(plan, self._build.teacher, self._executor, self._build.checks)
        except RequestError as error:
            if error.is_passing:
                raise
            return "request_failed", None
        return made.fault, made.trajectory

    def _record(self, plan: EpisodePlan, trajectory: Trajectory) -> dict[str, Any]:
        if self._build.kind == "rl":
            return question_record(plan, self._provenance, self._build.folder)
        return episode_record(plan, trajectory, self._provenance, self._build.folder)


_maker: RowMaker | None = None


def start_worker(make_maker: Callable[[Mapping[str, Any]], RowMaker], settings: Mapping[str, Any]) -> None:
    """Prepare a worker process: its parent handles Ctrl-C, and it ends with its parent."""
    global _maker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _maker = make_maker(settings)


def make_in_worker(index: int) -> Item:
    """The item of an index, in a worker process."""
    if _maker is None:
        raise ConfigError("make_in_worker: expected start_worker to run first.")
    return _maker.make(index)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
