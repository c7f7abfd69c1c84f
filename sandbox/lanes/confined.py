"""Runs any code in confined workers, and makes observations of what comes back."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from sandbox.confined import wire
from sandbox.confined.levels import LEVELS, Level
from sandbox.confined.pool import Answer, Pool, Task
from sandbox.images import Budget
from sandbox.messages import hide_paths
from sandbox.types import Fresh, Limits, Observation, Status, ToolRequest

#: Seconds of processor time of a worker that serves more than one call.
LONG_LIFE_S = 3600


class ConfinedLane:
    """Confined workers for code. Threads may share it.

    Args:
        workers: How many calls run at once.
        limits: What one call may use.
        min_level: The weakest confinement to accept.
        fresh: "call": every call gets a new process; "episode": the calls of an episode share one, and their variables.
        without: Layers to leave off, to see what each one holds.

    Raises:
        ConfinementError: The machine does not give `min_level`.
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
        """The confinement of workers that are made now."""
        return next((level for level in reversed(LEVELS) if self._pool.level.startswith(level)), "process")

    def has_state(self, episode: str) -> bool:
        """Whether variables of the episode are alive in a worker."""
        return self._pool.is_kept(episode)

    def close(self) -> None:
        """End every worker at once, whatever it runs."""
        self._pool.close()

    def disown(self) -> None:
        """Close this process's handles, in a forked child that must leave its parent's workers alone."""
        self._pool.disown()

    def run(self, calls: Sequence[ToolRequest], budget: Budget | None = None) -> list[Observation]:
        """Run every request; one observation for each, in order."""
        observations: dict[int, Observation] = {}
        with closing(self._pool.run([self._task(call) for call in calls], budget or Budget(self._limits))) as answers:
            for index, answer in answers:
                observations[index] = self._observe(calls[index], answer)
        return [observations[index] for index in range(len(calls))]

    def _task(self, request: ToolRequest) -> Task:
        images, chosen = request.images, request.image_index
        # A worker gets every image if the code may name others than the chosen one.
        if self._fresh == "call" and "images" not in request.code and "image_" not in request.code:
            images, chosen = [images[chosen]], 0
        keep = request.episode if self._fresh == "episode" else ""
        return Task(request.code.encode("utf-8", "replace"), images, chosen, keep)

    def _observe(self, request: ToolRequest, answer: Answer) -> Observation:
        status: Status = answer.status
        if answer.reply is not None and answer.reply.outcome not in (wire.IMAGE, wire.TEXT_ONLY):
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
