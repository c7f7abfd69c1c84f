"""Runs code as it is written: starts its lane when that is first needed, and finds the effects that results earn."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

from PIL import Image

from sandbox.confined.levels import Level
from sandbox.confined.pool import CLOSED
from sandbox.effects.outcome import Outcome
from sandbox.effects.proof import find_credit
from sandbox.images import Budget
from sandbox.lanes.lane import CodeLane, run_lane
from sandbox.lanes.plain_process import ProcessLane, lacks_confinement
from sandbox.lanes.tool_worker import ProofTime, ToolWorkerLane
from sandbox.operations.program import ToolProgram
from sandbox.threads import spread
from sandbox.types import ConfinementError, Fresh, Limits, Observation, Tell, ToolRequest


class CodeRunner:
    """Runs code in the strongest lane that the machine provides.

    Args:
        workers: Number of calls that run at once.
        limits: Limits of one call.
        min_level: The weakest confinement to accept.
        fresh: Whether a process serves only one call, or the calls of an episode.
        tools: The lane that proves claims.
        is_required: Raise if the machine cannot confine code, instead of warning once.
    """

    def __init__(
        self, workers: int, limits: Limits, min_level: Level, fresh: Fresh, tools: ToolWorkerLane, is_required: bool
    ) -> None:
        self._workers, self._limits, self._min_level, self._fresh = workers, limits, min_level, fresh
        self._tools = tools
        self._is_required = is_required
        self._lock = threading.RLock()
        self._missing = ""
        self.is_closed = False
        self.lane: CodeLane | None = None

    def start(self) -> bool:
        """Start the lane; False if the machine cannot provide it, or the runner is closed.

        Raises:
            ConfinementError: The lane is required, and the machine cannot provide it.
        """
        with self._lock:
            if self.lane is not None or self._missing or self.is_closed:
                return self.lane is not None
            try:
                if lacks_confinement():
                    self.lane = ProcessLane(self._workers, self._limits, self._min_level, self._fresh)
                else:
                    from sandbox.lanes.confined import ConfinedLane

                    self.lane = ConfinedLane(self._workers, self._limits, self._min_level, self._fresh)
            except (ConfinementError, OSError, AttributeError, ImportError) as error:
                if self._is_required:
                    raise ConfinementError(str(error)) from error
                self._missing = str(error)
                warnings.warn(f"Code that does not lift will be rejected. {error}", RuntimeWarning, stacklevel=2)
            return self.lane is not None

    def close(self) -> None:
        """End the workers; may be called twice. Nothing starts from here on."""
        with self._lock:
            self.is_closed = True
            lane, self.lane = self.lane, None
        if lane is not None:
            lane.close()

    def disown(self) -> None:
        """Release the parent's workers, in a forked child."""
        self._lock = threading.RLock()
        if self.lane is not None:
            self.lane.disown()
        self.lane = None

    def has_state(self, episode: str) -> bool:
        """Whether a worker still holds variables of the episode."""
        if self._fresh != "episode":
            return False
        with self._lock:
            return self.lane is not None and self.lane.has_state(episode)

    def run(self, requests: Mapping[int, ToolRequest], budget: Budget, tell: Tell | None) -> dict[int, Observation]:
        """Run code; returns observations with their effects, by index. `tell` gets some while other calls run."""
        if not requests:
            return {}
        with self._lock:
            lane = self.lane if self.start() else None
        if lane is None:
            return dict.fromkeys(requests, Observation("rejected", text=CLOSED))
        indices = list(requests)
        earning = self._earning()
        earned: dict[int, Observation] = {}

        def pass_on(place: int, seen: Observation) -> None:
            index = indices[place]
            earned[index] = earning(requests[index], seen)
            if tell is not None:
                tell(index, earned[index])

        seen = run_lane(lane, requests, lambda calls: lane.run(calls, budget, None if tell is None else pass_on))
        rest = [index for index in indices if index not in earned]
        credited = spread(lambda index: earning(requests[index], seen[index]), rest)
        return earned | dict(zip(rest, credited, strict=True))

    def _earning(self) -> Callable[[ToolRequest, Observation], Observation]:
        """Return a function that adds the effects to an observation; the claims of one batch share their time."""
        proof_time = ProofTime(self._limits.wall_s)

        def earning(request: ToolRequest, observation: Observation) -> Observation:
            if observation.image is None:
                return observation

            def run_elsewhere(program: ToolProgram, image: Image.Image) -> Outcome | None:
                return proof_time.run(self._tools, program, image, observation.wall_s)

            def run_here(prove: Callable[[], Outcome | None]) -> Outcome | None:
                return proof_time.run_here(prove, observation.wall_s)

            found = find_credit(
                request.images,
                request.image_index,
                observation.image,
                observation.claim,
                run_elsewhere,
                self._limits,
                observation.last,
                run_here,
            )
            plain = replace(observation, claim="", last=None)
            return replace(plain, tools=found.tools, orientation=found.orientation, frame=found.frame)

        return earning
