"""Runs any code in confined workers, and makes observations of the answers."""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from sandbox.confined import wire
from sandbox.confined.levels import LEVELS, Level
from sandbox.confined.pool import Pool
from sandbox.confined.postponed import can_be_left
from sandbox.confined.tasks import Task, TaskAnswer
from sandbox.effects.outcome import run_operation
from sandbox.geometry import Size
from sandbox.images import Budget, as_rgb, check_size
from sandbox.lift.reader import lift
from sandbox.messages import hide_paths
from sandbox.operations.operation import Operation
from sandbox.operations.program import ToolProgram
from sandbox.threads import spread
from sandbox.types import Fresh, LastCall, Limits, Observation, Status, Tell, ToolRequest

#: Seconds of processor time of a worker that serves more than one call.
LONG_LIFE_S = 3600
#: Largest number of characters, and the form, of a call that a worker leaves to the trainer.
_MAX_REST = 256
_REST = re.compile(r"result = image\.(?:resize|transpose)\([\w .,()+-]*\)", re.ASCII)


class ConfinedLane:
    """Confined workers for code; safe to share between threads.

    Args:
        workers: Number of calls that run at once.
        limits: Limits of one call.
        min_level: The weakest confinement to accept.
        fresh: "call": every call gets a new process; "episode": the calls of an episode share a process and variables.
        without: Layers to leave off, to test what each layer prevents.

    Raises:
        ConfinementError: The machine does not provide `min_level`.
    """

    name = "confined"

    def __init__(
        self, workers: int, limits: Limits, min_level: Level, fresh: Fresh, without: Sequence[str] = ()
    ) -> None:
        cpu_s = math.ceil(limits.wall_s) + 1 if fresh == "call" else LONG_LIFE_S
        capacity = int(limits.result_megapixels * 4e6)

        from sandbox.confined.client import Zygote

        def start() -> Zygote:
            zygote = Zygote("code", workers, limits.memory_mb, capacity, cpu_s, without)
            try:
                zygote.require(min_level)
            except Exception:
                zygote.close()
                raise
            return zygote

        self._set_up(Pool(start, workers, limits, n_ready=2 * workers if fresh == "call" else 1), fresh, limits)
        if self.level == "process":
            warnings.warn(
                "Code runs without confinement: only its resources are limited.", RuntimeWarning, stacklevel=3
            )

    def _set_up(self, pool: Pool[Any], fresh: Fresh, limits: Limits) -> None:
        self._pool, self._fresh, self._limits = pool, fresh, limits

    @property
    def level(self) -> Level:
        """The confinement of newly made workers."""
        return next((level for level in reversed(LEVELS) if self._pool.level.startswith(level)), "process")

    def has_state(self, episode: str) -> bool:
        """Whether a worker still holds variables of the episode."""
        return self._pool.is_kept(episode)

    def close(self) -> None:
        """End every worker at once, even a busy one."""
        self._pool.close()

    def disown(self) -> None:
        """Close this process's handles, in a forked child that must leave its parent's workers alone."""
        self._pool.disown()

    def run(
        self, calls: Sequence[ToolRequest], budget: Budget | None = None, tell: Tell | None = None
    ) -> list[Observation]:
        """Run every request; returns one observation per request, in order.

        `tell` gets each observation as it comes; idle workers wait until it returns.
        """
        left: dict[int, TaskAnswer] = {}
        seen: dict[int, Observation] = {}
        budget = budget or Budget(self._limits)
        with closing(self._pool.run([self._task(call) for call in calls], budget)) as answers:
            for index, answer in answers:
                has_rest = answer.reply is not None and answer.reply.rest != ""
                if has_rest and tell is None:
                    left[index] = answer
                    continue
                seen[index] = self._finish(calls[index], answer, budget) if has_rest else self._observe(answer)
                if tell is not None:
                    tell(index, seen[index])
        finished = spread(lambda index: self._finish(calls[index], left[index], budget), list(left))
        seen |= dict(zip(left, finished, strict=True))
        return [seen[index] for index in range(len(calls))]

    def _task(self, request: ToolRequest) -> Task:
        images, chosen = request.images, request.image_index
        # A worker gets every image if the code may name other images than the chosen one.
        if self._fresh == "call" and "images" not in request.code and "image_" not in request.code:
            images, chosen = [images[chosen]], 0
        keep = request.episode if self._fresh == "episode" else ""
        return Task(request.code.encode("utf-8", "replace"), images, chosen, keep)

    def _finish(self, request: ToolRequest, answer: TaskAnswer, budget: Budget) -> Observation:
        """Run the call that a worker left to the trainer; never raises because of the worker's answer."""
        seen = self._observe(answer)
        if answer.reply is None or seen.status != "ok":
            return seen
        before = as_rgb(request.images[request.image_index]) if answer.image is None else answer.image
        started = time.perf_counter()
        try:
            operation, after = _read_rest(answer.reply.rest, before.size)
            held = (0, 0) if answer.image is None else answer.image.size
            fault = check_size(after, self._limits) or budget.refuse(after, held)
            if fault is not None:
                return replace(seen, status="error", image=None, text=seen.text + fault)
            image = run_operation(operation, before)
        except Exception:  # noqa: BLE001 - a worker may send anything: an error here counts as its crash
            return replace(seen, status="crash", image=None, text="The process that ran the code left no valid call.")
        wall_s = seen.wall_s + time.perf_counter() - started
        return replace(seen, image=image, claim=answer.reply.claim, last=LastCall(operation, before), wall_s=wall_s)

    def _observe(self, answer: TaskAnswer) -> Observation:
        status: Status = answer.status
        if answer.reply is not None and answer.reply.outcome not in (wire.IMAGE, wire.TEXT_ONLY, wire.UNFINISHED):
            status = "error"
        return Observation(
            status,
            image=answer.image,
            text=hide_paths(answer.text),
            lane=self.name,
            level=answer.level,
            wall_s=answer.wall_s,
            claim=answer.reply.claim if answer.reply is not None and answer.image is not None else "",
        )


def _read_rest(text: str, before: Size) -> tuple[Operation, Size]:
    """Read the call that a worker left, and the size of its result.

    Raises:
        ValueError: The call is not one that the trainer runs for a worker.
    """
    read = lift(text, (before,)) if len(text) <= _MAX_REST and _REST.fullmatch(text) else None
    if not isinstance(read, ToolProgram) or len(read.operations) != 1 or read.text:
        raise ValueError(f"expected one call of resize or transpose, got {text[:_MAX_REST]!r}")
    (operation,), after = read.operations, read.sizes[-1]
    if not can_be_left(operation, before, after):
        raise ValueError(f"{operation.name} is not bounded for images of {before} and {after}")
    return operation, after
