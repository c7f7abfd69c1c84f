"""Runs the stages of a recipe: one after another in this process, or several at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from threading import Thread
from typing import Any

from rich.console import Console

from cv_lightning.cli.recipe import Stage
from cv_lightning.cli.stage import run_stage
from cv_lightning.console.quiet import is_quiet
from cv_lightning.errors import CVLightningError, first_line

#: Numerical libraries read these variables when they are loaded. PyTorch's threads can also be set later.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class StageTask:
    """A stage that can run in any process.

    Attributes:
        stage: The stage.
        folder: Its folder.
        fingerprint: See `recipe.fingerprint`.
        arguments: Options that the command line adds to its config.
        heading: Prefix of each line that it prints.
    """

    stage: Stage
    folder: Path
    fingerprint: str
    arguments: tuple[str, ...]
    heading: str

    def run(self) -> dict[str, Any]:
        """Run the stage to its end and return its entry of the report."""
        console = Console(quiet=is_quiet())
        say = partial(console.print, self.heading, highlight=False, markup=False, soft_wrap=True)
        return run_stage(self.stage, self.folder, self.fingerprint, self.arguments, say)


@dataclass
class StageOutcomes:
    """Results and failures of stages.

    Attributes:
        results: Entries of the report for the finished stages, in the order of the recipe.
        failed: Why each of the other stages did not finish.
    """

    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def run_tasks(tasks: Sequence[StageTask], jobs: int, *, keeps_going: bool) -> StageOutcomes:
    """Run stages; each stage begins when the stages that it reads have finished.

    Args:
        tasks: The stages, in an order in which they can run.
        jobs: Number of stages at a time; 1 runs them in this process. If no other stage can run beside a stage, it
            gets `jobs` threads.
        keeps_going: Whether the other stages continue if one fails.

    Raises:
        CVLightningError: A stage failed and `keeps_going` is False; errors of other classes are raised as well.
        KeyboardInterrupt: Ctrl-C; the next call continues.
    """
    outcome = StageOutcomes()
    if jobs == 1:
        for task in tasks:
            if not _is_blocked(task, outcome):
                _take(outcome, task, task.run, keeps_going)
    else:
        _run_side_by_side(tasks, jobs, outcome, keeps_going)
    order = {task.stage.name: place for place, task in enumerate(tasks)}
    outcome.results = dict(sorted(outcome.results.items(), key=lambda entry: order[entry[0]]))
    return outcome


def _run_side_by_side(tasks: Sequence[StageTask], jobs: int, outcome: StageOutcomes, keeps_going: bool) -> None:
    waiting, running = [*tasks], dict[Future[dict[str, Any]], StageTask]()
    has_threads = any(name in os.environ for name in _THREADS)
    context = multiprocessing.get_context("spawn")  # a fork would share the threads of numerical libraries
    with _one_thread(), ProcessPoolExecutor(jobs, context, _end_with_parent, max_tasks_per_child=1) as pool:
        while waiting or running:
            for task in [task for task in waiting if _is_ready(task, outcome)][: jobs - len(running)]:
                waiting.remove(task)
                is_wide = not has_threads and _is_alone(task, tasks)
                running[pool.submit(_run, task, jobs if is_wide else None)] = task
            waiting = [task for task in waiting if not _is_blocked(task, outcome)]
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                _take(outcome, running.pop(future), future.result, keeps_going)


def _run(task: StageTask, threads: int | None) -> dict[str, Any]:
    if threads is not None:
        import torch  # the environment must be set before torch is loaded

        torch.set_num_threads(threads)
    return task.run()


def _is_alone(task: StageTask, tasks: Sequence[StageTask]) -> bool:
    """Whether every other task depends on it or is needed by it; unlike timing, this is the same in every run."""
    by_name = {other.stage.name: other.stage for other in tasks}

    def read_by(stage: Stage) -> set[str]:
        return {name for name in stage.after if name in by_name}.union(
            *(read_by(by_name[name]) for name in stage.after if name in by_name)
        )

    own = read_by(task.stage)
    return all(
        name in own or task.stage.name in read_by(stage) for name, stage in by_name.items() if stage is not task.stage
    )


def _end_with_parent() -> None:
    """Send this process SIGTERM once its parent is gone: a stage then saves its checkpoint and ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=_terminate_after, args=(parent.sentinel,), daemon=True).start()


def _terminate_after(sentinel: int) -> None:
    wait_for([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _is_ready(task: StageTask, outcome: StageOutcomes) -> bool:
    return all(name in outcome.results for name in task.stage.after)


def _is_blocked(task: StageTask, outcome: StageOutcomes) -> bool:
    """Whether a stage that it reads failed; if so, this is recorded as its own failure in the report."""
    for name in task.stage.after:
        if name in outcome.failed:
            outcome.failed[task.stage.name] = f"it reads {name}, which failed"
    return task.stage.name in outcome.failed


def _take(outcome: StageOutcomes, task: StageTask, result: Callable[[], dict[str, Any]], keeps_going: bool) -> None:
    """Add a stage's result, or the reason for its failure, to the outcome."""
    try:
        outcome.results[task.stage.name] = result()
    except Exception as error:
        if not keeps_going:
            raise
        reason = first_line(error) if isinstance(error, CVLightningError) else repr(error)
        outcome.failed[task.stage.name] = f"failed: {reason}"
        task.folder.mkdir(parents=True, exist_ok=True)
        (task.folder / "error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Inside this context, new processes compute with one thread, unless the environment says otherwise."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update({name: value or "1" for name, value in before.items()})
    try:
        yield
    finally:
        _restore(before)


def _restore(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
