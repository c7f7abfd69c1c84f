"""The only entry point of the sandbox: plans each request once, hands it to a lane, returns observations in order."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Literal, TypeVar, get_args

from sandbox.confined.levels import LEVELS, Level
from sandbox.images import Budget, check_size
from sandbox.lanes.code import CodeRunner
from sandbox.lanes.lane import Confined, Lane, Lifted, Plan, Rejected, run_lane
from sandbox.lanes.models import ModelLane, ModelStep
from sandbox.lanes.pillow import PillowLane
from sandbox.lanes.tool_worker import ToolWorkerLane
from sandbox.lift.reader import Fault, Unliftable, lift
from sandbox.messages import clean, describe_error, not_lifted
from sandbox.operations.bounds import fits_in_process
from sandbox.requests import check_images, refuse
from sandbox.threads import count_cores
from sandbox.types import Exactness, Fresh, Limits, Observation, Tell, ToolRequest

LaneName = Literal["auto", "pillow", "kornia", "confined"]
Decision = TypeVar("Decision")

_EXECUTORS: weakref.WeakSet[ToolExecutor] = weakref.WeakSet()


class ToolExecutor:
    """Executes tool calls. Whatever the code does, the outcome comes back as an `Observation`.

    It may be shared by threads, pickled, and used in a forked child, which then starts its own workers.

    Args:
        lane: "auto": snippets that lift run in process by our own calls, others in confined workers. "pillow": snippets
            that do not lift are rejected. "kornia": like "auto", but the tensor lane runs every call that it supports.
            "confined": everything runs in confined workers.
        device: Device of the tensor lane, as torch names it ("cuda", "cuda:1", "cpu"). With lane "auto", the tensor
            lane gets the calls for which it is cheaper by measured times; if None, it gets no calls and torch is not
            imported. With lane "kornia", None is the first accelerator, or the CPU if there is none. Images from the
            tensor lane are `TensorImage`s.
        exactness: Contract of the tensor lane. "exact": its pixels equal the Pillow lane's, bit for bit. "close": they
            may be Kornia's, within the differences that docs/kornia_lane.md lists; tools, orientation, frame and text
            are the same.
        workers: Number of confined calls that run at once; by default one per core of this process.
        limits: Limits of one call.
        min_level: The weakest confinement to accept (see sandbox/README.md).
        fresh: "call": every confined call gets a new process. "episode": the calls of an episode share a process, which
            keeps their variables.
        allow_unsafe: Accept `min_level="process"`, which confines nothing but resources.

    Raises:
        ValueError: An argument has a value that is not listed here, or this machine does not have the device.
        ConfinementError: With lane "confined", the machine does not provide `min_level`. With lane "auto" there is no
            error, but code that does not lift is rejected.
    """

    def __init__(
        self,
        lane: LaneName = "auto",
        workers: int | None = None,
        limits: Limits | None = None,
        min_level: Level = "syscall",
        fresh: Fresh = "call",
        allow_unsafe: bool = False,
        device: str | None = None,
        exactness: Exactness = "exact",
    ) -> None:
        for name, value, known in (
            ("lane", lane, get_args(LaneName)),
            ("exactness", exactness, get_args(Exactness)),
            ("min_level", min_level, LEVELS),
            ("fresh", fresh, get_args(Fresh)),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        if workers is not None and workers < 1:
            raise ValueError(f"workers: expected at least 1, got {workers}")
        if min_level == "process" and not allow_unsafe:
            raise ValueError(
                "min_level: 'process' confines no file, no network and no process. Accept that by allow_unsafe=True."
            )
        if device is not None and lane not in ("auto", "kornia"):
            raise ValueError(f"device: expected None with lane={lane!r}, which uses no device, got {device!r}")
        if exactness == "close" and lane not in ("auto", "kornia"):
            raise ValueError(f"exactness: expected 'exact' with lane={lane!r}, which runs no tensors, got 'close'")
        self._arguments = (lane, workers, limits, min_level, fresh, allow_unsafe, device, exactness)
        self._lane, self._limits, self._fresh = lane, limits or Limits(), fresh
        n_workers = workers or count_cores()
        self._pillow, self._tools = PillowLane(), ToolWorkerLane(n_workers, self._limits)
        self._models = ModelLane(self._limits)
        self._code = CodeRunner(n_workers, self._limits, min_level, fresh, self._tools, is_required=lane == "confined")
        self._tensors: Lane[Lifted] | None = None
        if device is not None or lane == "kornia":
            from sandbox.lanes.tensor.lane import TensorLane

            self._tensors = TensorLane(device, is_forced=lane == "kornia", exactness=exactness, limits=self._limits)
        _EXECUTORS.add(self)
        if lane == "confined":
            self._code.start()

    def __reduce__(self) -> tuple[type[ToolExecutor], tuple[object, ...]]:
        return ToolExecutor, self._arguments

    def __enter__(self) -> ToolExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; may be called twice. From here on, code that does not lift is rejected."""
        for lane in (self._code, self._tools, self._models):
            lane.close()

    def execute(self, requests: Sequence[ToolRequest], tell: Tell | None = None) -> list[Observation]:
        """Run every request; returns one observation per request, in order.

        Args:
            requests: Code and images; a request that cannot be served gets an observation that says why.
            tell: Called with each observation as it comes: first those that need no worker, then those of code in
                workers. Not called for requests with a model.

        Returns:
            Observations with RGB images. Never raises because of the content of a request.
        """
        plans = dict(enumerate(map(self.plan, requests)))
        budget = Budget(self._limits)
        done = self._served(plans, budget, (self._pillow, self._tools))
        lifted = {index for index, plan in plans.items() if isinstance(plan, Lifted)}
        for index in lifted - done.keys():  # the call did not behave as the reader expected: run the code itself
            plans[index] = self._confine(requests[index], Unliftable("a call with these arguments"))
        done |= {index: plan.observation for index, plan in plans.items() if isinstance(plan, Rejected)}

        def pass_on(index: int, seen: Observation) -> None:
            if tell is not None and requests[index].model is None:
                tell(index, self._cleaned(seen))

        for index, seen in done.items():
            pass_on(index, seen)
        confined = {index: plan.request for index, plan in plans.items() if isinstance(plan, Confined)}
        done |= self._code.run(confined, budget, None if tell is None else pass_on)
        steps = {
            index: ModelStep(request, request.model, done[index])
            for index, request in enumerate(requests)
            if request.model is not None and done[index].status == "ok" and done[index].image is not None
        }
        done |= run_lane(self._models, steps)
        if self._code.is_closed:  # a call after `close` may have started processes of models
            self._models.close()
        return [self._cleaned(done[index]) for index in range(len(requests))]

    def execute_here(self, requests: Sequence[ToolRequest]) -> list[Observation | None]:
        """Run the requests that need no worker; None for each of the others, which `execute` runs.

        These requests never wait for code in a worker: a thread may serve them while `execute` runs in another.
        """
        plans: dict[int, Plan] = {}
        for index, request in enumerate(requests):
            plan = self._guarded(self._read, request)
            if request.model is not None:
                continue
            if isinstance(plan, Lifted) and self._tensors is None and self._lane_of(plan) is not self._pillow:
                continue  # too large for this process: needs a tool worker
            if isinstance(plan, Rejected | Lifted):
                plans[index] = plan
        done = self._served(plans, Budget(self._limits), (self._pillow,))
        return [self._cleaned(done[index]) if index in done else None for index in range(len(requests))]

    def _cleaned(self, observation: Observation) -> Observation:
        return replace(observation, text=clean(observation.text, self._limits.text_chars))

    def _served(
        self, plans: Mapping[int, Plan], budget: Budget, lanes: Sequence[Lane[Lifted]]
    ) -> dict[int, Observation]:
        """Observations of rejected requests, and of programs that these lanes or the tensor lane run."""
        done = {index: plan.observation for index, plan in plans.items() if isinstance(plan, Rejected)}
        lifted = {index: plan for index, plan in plans.items() if isinstance(plan, Lifted)}
        done |= _refused(lifted, budget)
        lifted = {index: plan for index, plan in lifted.items() if index not in done}
        if self._tensors is not None:
            done |= run_lane(self._tensors, lifted)
        for lane in lanes:
            chosen = {index: call for index, call in lifted.items() if self._lane_of(call) is lane}
            done |= run_lane(lane, {index: call for index, call in chosen.items() if index not in done})
        return done

    def plan(self, request: ToolRequest) -> Plan:
        """Decide once how a request is served; never raises because of its content."""
        return self._guarded(self._planned, request)

    def _guarded(self, decide: Callable[[ToolRequest], Decision], request: ToolRequest) -> Decision | Rejected:
        try:
            return decide(request)
        except Exception as error:  # noqa: BLE001 - a bad request is data: nothing in it may end a training step
            text = f"The request could not be served: {type(error).__name__}: {error}"
            return Rejected(Observation("error", text=text))

    def _planned(self, request: ToolRequest) -> Plan:
        read = self._read(request)
        return read if isinstance(read, Rejected | Lifted) else self._confine(request, read)

    def _read(self, request: ToolRequest) -> Rejected | Lifted | Unliftable | None:
        """The plan for a request after reading its code; or why the code itself must run, None if all code must."""
        if (text := refuse(request, self._limits)) is not None:
            return Rejected(Observation("rejected", text=text))
        if self._lane == "confined" or self._code.has_state(request.episode):
            return None
        persists = self._fresh == "episode"
        sizes = tuple(image.size for image in request.images)
        read = lift(request.code, sizes, request.image_index, persists=persists)
        if isinstance(read, Fault):
            text = read.text + describe_error(read.kind, read.message, read.line, request.code)
            return Rejected(Observation("error", text=text, lane="pillow", level="lifted"))
        if isinstance(read, Unliftable):
            return read
        if persists and read.binds:
            return Unliftable("a variable that a later call may use")
        if read.has_result and (fault := check_size(read.sizes[-1], self._limits)) is not None:
            return Rejected(Observation("error", text=read.text + fault, lane="pillow", level="lifted"))
        return Lifted(request, read)

    def _lane_of(self, call: Lifted) -> Lane[Lifted]:
        """The lane of a program that the tensor lane does not take; no other place chooses it."""
        return self._pillow if fits_in_process(call.program, call.image.size, self._limits) else self._tools

    def _confine(self, request: ToolRequest, reason: Unliftable | None = None) -> Plan:
        """The plan for code that must run as it is written.

        Raises:
            OSError: An image file is broken.
        """
        if reason is None or (self._lane in ("auto", "kornia") and self._code.start()):
            check_images(request)
            return Confined(request)
        return Rejected(Observation("rejected", text=not_lifted(reason.reason, reason.line, reason.remedy)))

    def leave_to_parent(self) -> None:
        """Release the parent's workers, in a forked child."""
        for lane in (self._models, self._pillow, self._tools, self._tensors, self._code):
            if lane is not None:
                lane.disown()


def _refused(calls: Mapping[int, Lifted], budget: Budget) -> dict[int, Observation]:
    """Observations of the programs whose results the budget does not allow."""
    refused = {}
    for index, call in calls.items():
        size = call.program.sizes[-1] if call.program.has_result and call.program.sizes else None
        if size is not None and (fault := budget.refuse(size)) is not None:
            refused[index] = Observation("error", text=call.program.text + fault, lane="pillow", level="lifted")
    return refused


def _after_fork() -> None:
    for executor in list(_EXECUTORS):
        executor.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
