"""A build: rows of many indices at once, each remembered when it is done, collected in order at the end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cv_lightning.construction.checks import Checks
from cv_lightning.construction.collect import cannot_write, write_questions, write_rows
from cv_lightning.construction.journal import Item, Journal
from cv_lightning.construction.maker import Maker, What, make_in_worker, start_worker
from cv_lightning.construction.plan import Planner
from cv_lightning.construction.settings import deciding, source_digests
from cv_lightning.construction.teacher import OracleTeacher, Teacher
from cv_lightning.construction.yield_report import YieldReport
from cv_lightning.endpoint.meter import EndpointError, RequestError
from cv_lightning.errors import ConfigError, CVLightningError, DataError
from sandbox.executor import LaneName

#: File of the rows, by what is built.
ROWS = {"sft": "episodes.jsonl", "rl": "questions.parquet"}


class Build:
    """What a config of `data build` says.

    Args:
        planner: Draws the metadata: sources, shares of the kinds, seed.
        out: Folder of the rows, their images and the yield report.
        n: How many indices to build; a row is a function of the seed and its index, so more can be built later.
        kind: "sft": episodes as CodeVision-SFT has them. "rl": questions as CodeVision-RL has them.
        teacher: Who writes the turns; None: the oracle. Questions of "rl" are kept where it solves them.
        checks: What is demanded of an episode.
        workers: Indices that are worked on at the same time: processes, or threads where the teacher is a server.
        max_attempts: Plans of one index before it is given up.
        give_up_after: So many indices in a row that the teacher's server failed end the run.
        lane: Which lane of the executor runs the calls.

    Raises:
        ConfigError: A value that cannot be.
    """

    def __init__(
        self,
        planner: Planner,
        out: str,
        n: int = 1000,
        kind: What = "sft",
        teacher: Teacher | None = None,
        checks: Checks | None = None,
        workers: int = 2,
        max_attempts: int = 5,
        give_up_after: int = 20,
        lane: LaneName = "auto",
    ) -> None:
        if min(n, workers, max_attempts, give_up_after) < 1:
            raise ConfigError(
                "expected n, workers, max_attempts, give_up_after >= 1 but got "
                f"{n}, {workers}, {max_attempts}, {give_up_after}"
            )
        if kind == "rl" and planner.shares.get("error_handling", 0) > 0:
            raise ConfigError(
                "planner.shares: error_handling is a kind of episode, not of question. Set its share to 0 for kind: rl."
            )
        self.planner, self.folder, self.n, self.kind = planner, Path(out).expanduser(), n, kind
        self.teacher = teacher or OracleTeacher()
        self.checks = checks or Checks()
        self.workers, self.max_attempts, self.give_up_after, self.lane = workers, max_attempts, give_up_after, lane

    @property
    def rows(self) -> Path:
        """The file of rows."""
        return self.folder / ROWS[self.kind]

    def maker(self, settings: Mapping[str, Any]) -> Maker:
        """What makes the rows; `settings` are those that decide them."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        return Maker(
            self.kind,
            self.planner,
            self.teacher,
            self.checks,
            self.folder,
            digest,
            self.max_attempts,
            self.lane,
        )


def run_build(
    build: Build,
    config: Mapping[str, Any],
    make_maker: Callable[[Mapping[str, Any]], Maker],
    shown: Callable[[Iterator[Item], int, int], Iterable[Item]] = lambda items, _done, _n: items,
) -> YieldReport:
    """Build what is not there yet, and write rows and report.

    Args:
        build: What to build.
        config: Its config in plain values.
        make_maker: `config` -> what makes rows, for a worker process; it can be pickled.
        shown: Takes the items, how many were done before, and how many are wanted; hands the items on.

    Returns:
        The yield, of all runs in this folder.

    Raises:
        CVLightningError: Why it stopped; rows and report hold what was done until then.
        KeyboardInterrupt: Likewise.
    """
    started = time.perf_counter()
    settings = deciding(config) | {"source_rows": source_digests(build.planner)}
    with Journal(build.folder, settings) as journal:
        _tidy(build, journal)
        n_before = sum(index in journal for index in range(build.n))
        usage: dict[str, float] = {}
        stopped: BaseException | None = None
        under_way: set[Future[Item]] = set()
        left: list[str] = []
        try:
            with _pool(build, config, make_maker, usage) as (pool, make):
                for item in shown(_work(build, journal, pool, make, under_way, left), n_before, build.n):
                    journal.append(item)
        except (CVLightningError, KeyboardInterrupt) as error:
            stopped = error
            _keep_finished(under_way, journal)
        report = YieldReport.of(journal.items(build.n), build.n)
        report.run = {
            "rows": sum(index in journal for index in range(build.n)) - n_before,
            "wall_s": round(time.perf_counter() - started, 2),
            "workers": build.workers,
            "peak_memory_mb": _peak_memory_mb(build),
            **({"teacher": usage} if usage else {}),
            **({"left_undone": len(left), "last_failure": left[-1]} if left else {}),
        }
        _collect(build, journal, report, stopped)
    if stopped is not None:
        raise stopped
    return report


def _tidy(build: Build, journal: Journal) -> None:
    """Remove half images of a process that was killed; have rows done again whose images somebody removed."""
    for part in build.folder.glob("images/*/*.part"):
        part.unlink(missing_ok=True)
    lost = [
        item.index
        for item in journal.items(build.n)
        if item.record is not None and not all(_is_whole(build.folder / name) for name in item.record["images"])
    ]
    for index in lost:
        journal.forget(index)


def _is_whole(path: Path) -> bool:
    """Whether a file is there; a machine that went down can leave its name with nothing in it."""
    return path.is_file() and path.stat().st_size > 0


@contextlib.contextmanager
def _pool(
    build: Build, config: Mapping[str, Any], make_maker: Callable[[Mapping[str, Any]], Maker], usage: dict[str, float]
) -> Iterator[tuple[Executor, Callable[[int], Item]]]:
    if build.workers > 1 and not build.teacher.is_remote:
        arguments = (make_maker, config)
        processes = ProcessPoolExecutor(build.workers, get_context("spawn"), start_worker, arguments)
        try:
            yield processes, make_in_worker
        finally:
            processes.shutdown(wait=True, cancel_futures=True)
        return
    maker = make_maker(config) if not build.teacher.is_remote else build.maker(deciding(config))
    threads = ThreadPoolExecutor(build.workers)
    try:
        yield threads, maker.make
    finally:
        maker.stop()
        threads.shutdown(wait=True, cancel_futures=True)
        usage.update(maker.usage())
        maker.close()


def _keep_finished(under_way: set[Future[Item]], journal: Journal) -> None:
    """Remember what was finished while the pool ended: a model may have been paid for it."""
    with contextlib.suppress(DataError):  # of a full disk, which is why the build stopped
        for future in under_way:
            if future.done() and not future.cancelled() and future.exception() is None:
                journal.append(future.result())


def _work(
    build: Build,
    journal: Journal,
    pool: Executor,
    make: Callable[[int], Item],
    under_way: set[Future[Item]],
    left: list[str],
) -> Iterator[Item]:
    """The items that are missing, as they are done.

    Args:
        build: What to build.
        journal: Says what is missing.
        pool: Where the work is done.
        make: Makes the item of an index.
        under_way: Holds the futures of items that were not taken yet.
        left: Takes what the teacher's server said of each item that it failed.

    Raises:
        EndpointError: The teacher's server fails.
        DataError: A worker process died, the disk is full, a source has no good row.
    """
    todo = (index for index in range(build.n) if index not in journal)
    ahead = 4 * build.workers
    n_failed = 0
    try:
        under_way |= {pool.submit(make, index) for index in islice(todo, ahead)}
        while under_way:
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                try:
                    item = future.result()
                except RequestError as error:
                    n_failed += 1
                    left.append(str(error))
                    if n_failed >= build.give_up_after:
                        raise EndpointError(
                            f"The teacher's server failed {n_failed} times in a row, the last with: {error}. What was "
                            "built is safe: mend it and run the same command again, it goes on from there."
                        ) from error
                else:
                    n_failed = 0
                    yield item
                under_way.discard(future)
            under_way |= {pool.submit(make, index) for index in islice(todo, ahead - len(under_way))}
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process died; the machine may have run out of memory. What was built is safe: run the same "
            "command again, with fewer --workers."
        ) from error


def _collect(build: Build, journal: Journal, report: YieldReport, stopped: BaseException | None) -> None:
    """Write the rows in order of their index, and the report. A full disk must not hide why the build stopped."""
    records = (item.record for item in journal.items(build.n) if item.record is not None)
    try:
        if report.total.kept:
            if build.kind == "sft":
                write_rows(records, build.rows)
            else:
                write_questions(records, build.rows, build.planner.split)
        _write_report(build.folder / "yield.json", report)
    except DataError:
        if stopped is None:
            raise


def _write_report(path: Path, report: YieldReport) -> None:
    try:
        path.write_text(json.dumps(report.plain(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error


def _peak_memory_mb(build: Build) -> float:
    """Peak memory in MB of this process and its workers, each counted as the largest of them: an upper bound."""
    n_processes = build.workers if build.workers > 1 and not build.teacher.is_remote else 0
    own, largest = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round((own + n_processes * largest) * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)
