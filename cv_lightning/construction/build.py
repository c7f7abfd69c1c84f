"""Runs a build: makes many items in parallel, records each in a journal, and collects them in order at the end."""

from __future__ import annotations

import contextlib
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

from cv_lightning.construction.collect import whole, write_questions, write_rows
from cv_lightning.construction.journal import Item, Journal
from cv_lightning.construction.maker import RowMaker, make_in_worker, start_worker
from cv_lightning.construction.settings import Build, deciding, source_digests
from cv_lightning.construction.yield_report import YieldReport
from cv_lightning.endpoint.meter import EndpointError, RequestError
from cv_lightning.errors import CVLightningError, DataError
from sandbox.memory import peak_memory_bytes


def run_build(
    build: Build,
    config: Mapping[str, Any],
    make_maker: Callable[[Mapping[str, Any]], RowMaker],
    shown: Callable[[Iterator[Item], int, int], Iterable[Item]] = lambda items, _done, _n: items,
) -> YieldReport:
    """Build the missing rows, and write rows and report.

    Args:
        build: The config of the build.
        config: The same config in plain values.
        make_maker: `config` -> maker of rows, for a worker process; it must be picklable.
        shown: (items, number of finished items, number of wanted items) -> the same items, while it shows progress.

    Returns:
        The yield of all runs in this folder.

    Raises:
        CVLightningError: Why the build stopped; rows and report hold all finished items.
        KeyboardInterrupt: Ctrl-C; rows and report hold all finished items.
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
    """Remove incomplete images of a killed process, and rebuild rows whose images are missing."""
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
    """Whether a file exists and has content; after a power failure a file may be empty."""
    return path.is_file() and path.stat().st_size > 0


@contextlib.contextmanager
def _pool(
    build: Build,
    config: Mapping[str, Any],
    make_maker: Callable[[Mapping[str, Any]], RowMaker],
    usage: dict[str, float],
) -> Iterator[tuple[Executor, Callable[[int], Item]]]:
    if build.workers > 1 and not build.teacher.is_remote:
        arguments = (make_maker, config)
        processes = ProcessPoolExecutor(build.workers, get_context("spawn"), start_worker, arguments)
        try:
            yield processes, make_in_worker
        finally:
            processes.shutdown(wait=True, cancel_futures=True)
        return
    maker = make_maker(config) if not build.teacher.is_remote else RowMaker(build, deciding(config))
    threads = ThreadPoolExecutor(build.workers)
    try:
        yield threads, maker.make
    finally:
        maker.stop()
        threads.shutdown(wait=True, cancel_futures=True)
        usage.update(maker.usage())
        maker.close()


def _keep_finished(under_way: set[Future[Item]], journal: Journal) -> None:
    """Record the items that finished while the pool shut down: a model may have been paid for them."""
    with contextlib.suppress(DataError):  # a full disk may be why the build stopped
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
    """The missing items, as they finish.

    Args:
        build: The config.
        journal: Holds the finished items.
        pool: Runs `make`.
        make: Makes the item of an index.
        under_way: Set that collects the futures of items that were not yielded yet.
        left: List that collects the error of each item for which the teacher's server failed.

    Raises:
        EndpointError: The teacher's server fails.
        DataError: A worker process died, the disk is full, or a source has no good row.
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
                            f"The teacher's server failed {n_failed} times in a row, last with: {error}. Finished rows "
                            "are safe. Fix the server, then run the same command again to continue."
                        ) from error
                else:
                    n_failed = 0
                    yield item
                under_way.discard(future)
            under_way |= {pool.submit(make, index) for index in islice(todo, ahead - len(under_way))}
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process died; the machine may have run out of memory. Finished rows are safe: run the same "
            "command again with fewer --workers."
        ) from error


def _collect(build: Build, journal: Journal, report: YieldReport, stopped: BaseException | None) -> None:
    """Write rows in the order of their index, and the report. A full disk must not hide why the build stopped."""
    records = (item.record for item in journal.items(build.n) if item.record is not None)
    try:
        if report.total.kept:
            if build.kind == "sft":
                write_rows(records, build.rows)
            else:
                write_questions(records, build.rows, build.planner.split)
        with whole(build.folder / "yield.json") as part:
            part.write_text(json.dumps(report.plain(), indent=1) + "\n", encoding="utf-8")
    except DataError:
        if stopped is None:
            raise


def _peak_memory_mb(build: Build) -> float:
    """Upper bound of the peak memory in MB of this process and its workers; every worker counts as the largest."""
    n_processes = build.workers if build.workers > 1 and not build.teacher.is_remote else 0
    # The peak of a worker starts at the memory of this process, so the sum stays an upper bound.
    unit = 1 if sys.platform == "darwin" else 1024
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    return round((peak_memory_bytes() + n_processes * largest) / 1e6, 1)
