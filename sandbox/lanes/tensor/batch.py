"""Runs many lifted programs at once: every round, the next operation of each, grouped by operation and shape."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from sandbox.effects.credit import Credit
from sandbox.effects.outcome import Outcome
from sandbox.images import check_size
from sandbox.lanes.tensor.images import TensorImage, stacked, to_tensor
from sandbox.lanes.tensor.opencv import NotBoundedError
from sandbox.lanes.tensor.table import TensorKind, kind_of
from sandbox.operations.operation import Operation, State
from sandbox.operations.program import ToolProgram
from sandbox.operations.table import OPERATIONS
from sandbox.types import Exactness, Limits

#: Pixels of a batch that are worked on at once; 64-bit temporaries of three channels take 24 bytes of each.
_MAX_PIXELS = {"cpu": 1 << 22, "cuda": 1 << 26}


def check_device(name: str) -> torch.device:
    """The device of a name such as "cuda:1", without starting anything on it.

    Raises:
        ValueError: torch does not know it, or this machine does not have it; the message says what there is.
    """
    n_gpus = torch.cuda.device_count()
    try:
        device = torch.device(name)
        if device.type == "cuda" and (device.index or 0) >= n_gpus:
            raise RuntimeError(f"{n_gpus} CUDA devices")
        if device.type != "cuda":
            torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(n_gpus))]
        raise ValueError(f"Expected a device of this machine ({', '.join(there)}) but got device={name!r}") from error
    return device


@dataclass(frozen=True)
class Step:
    """One operation of a program, and how far its image may be from the Pillow lane's.

    Attributes:
        operation: The checked call.
        kind: How the lane does it.
        error: Largest difference after it, of 255; 0 is bit for bit.
        margin: A change of no more than this may be the lane's own.
        far: Share of values that may differ by more.
    """

    operation: Operation
    kind: TensorKind
    error: float = 0.0
    margin: float = 0.0
    far: float = 0.0


Steps = tuple[Step, ...]


@dataclass
class _Progress:
    """A program that is being run.

    Attributes:
        steps: What it does.
        pixels: The image so far, uint8 [C, H, W].
        sizes: Size before each operation and at the end, (width, height).
        changes: Whether operation k changed a pixel, as a tensor on the device; only if it left the size.
        is_failed: Whether the lane gave up.
    """

    steps: Steps
    pixels: Tensor
    sizes: list[tuple[int, int]] = field(default_factory=list)
    changes: dict[int, Tensor] = field(default_factory=dict)
    is_failed: bool = False

    @property
    def position(self) -> int:
        """Index of the next operation."""
        return len(self.sizes)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) now."""
        return int(self.pixels.shape[2]), int(self.pixels.shape[1])

    @property
    def next(self) -> Step | None:
        """The next step, if there is one."""
        return None if self.is_failed or self.position == len(self.steps) else self.steps[self.position]


class _UncertainError(RuntimeError):
    """The lane's own differences hide whether pixels changed: the Pillow lane must say."""


@contextmanager
def precise(device: torch.device) -> Iterator[None]:
    """Float32 as it is written: no half precision of the trainer, no TF32, no gradients."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_default_dtype(usual)


class ProgramBatches:
    """Executes lifted programs as tensor operations, equal ones on equal images once.

    Args:
        device: Where, as torch names it.
        exactness: How near the Pillow lane's pixels its own must be.
        limits: What an image on the way may be.

    Raises:
        ValueError: The device is not there.
    """

    def __init__(self, device: str, exactness: Exactness = "exact", limits: Limits | None = None) -> None:
        self._device = check_device(device)
        self._exactness, self._limits = exactness, limits or Limits()
        self._max_pixels = _MAX_PIXELS["cuda" if self._device.type == "cuda" else "cpu"]
        self._declined: dict[str, str] = {}
        self._has_warned = False

    @property
    def device(self) -> torch.device:
        """Where tensors are made: of "cuda" the one that is current, which each rank of a training sets for itself."""
        if self._device.type == "cuda" and self._device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
        return self._device

    def plan(self, program: ToolProgram) -> Steps | str:
        """What the lane does for a program, or the operation for which it leaves it to the Pillow lane, and why."""
        if not program.has_result:
            return "a program without an image"
        if not program.sizes:
            return "a program without sizes was not lifted"
        state, steps = State(program.sizes[0]), list[Step]()
        for operation, size in zip(program.operations, program.sizes, strict=False):
            state = State(size, state.mode)
            if min(size) < 1:
                return "an image without pixels"
            between = OPERATIONS[operation.name].bound.between(operation.values, size)
            after = OPERATIONS[operation.name].after(operation.values, state)
            if any(check_size(one, self._limits) for one in (size, after.size, *between)):
                return f"{operation.name}: an image beyond the limits on the way"
            kind = self._declined.get(operation.name) or kind_of(
                operation.name, operation.values, state, self._exactness
            )
            if isinstance(kind, str):
                return kind
            steps.append(_step(operation, kind, steps[-1] if steps else None))
            if steps[-1].margin == math.inf:
                return f"{operation.name}: it may enlarge the difference that a close operation left"
            state = after
        return tuple(steps)

    def decline(self, reasons: Mapping[str, str]) -> None:
        """Leave operations to the Pillow lane from here on, each for a reason."""
        self._declined |= reasons

    def run(self, plans: Sequence[Steps], images: Sequence[Image.Image]) -> list[Outcome | None]:
        """Run every program on its image.

        Args:
            plans: What `plan` gave for each.
            images: The source image of each, any mode; one that lies on the device is not copied.

        Returns:
            The outcome of each, in order, with the Pillow lane's effects, and its pixels within the contract; images
            are `TensorImage`s. None if the Pillow lane must run that program: the device failed, or the lane's own
            differences hide whether anything changed.
        """
        with precise(self.device):
            uploaded = self._uploaded(images)
            runs: dict[tuple[str, int], _Progress] = {}
            keys = [
                (repr([(step.operation.name, step.operation.values) for step in steps]), id(image))
                for steps, image in zip(plans, images, strict=True)
            ]
            for key, steps in zip(keys, plans, strict=True):
                source = uploaded[key[1]]
                if source is not None:
                    runs.setdefault(key, _Progress(steps, source))
            sources = [run.pixels for run in runs.values()]
            try:
                self._advance(list(runs.values()))
                outcomes = dict(zip(runs, self._outcomes(list(runs.values()), sources), strict=True))
            except Exception as error:  # noqa: BLE001 - an accelerator reports late what went wrong on it
                self.warn(f"finish {len(runs)} programs", error)
                return [None] * len(keys)
            return [outcomes.get(key) for key in keys]

    def _uploaded(self, images: Sequence[Image.Image]) -> dict[int, Tensor | None]:
        """Each distinct image on the device, by its id; None if it cannot be read or does not fit."""
        uploaded: dict[int, Tensor | None] = {}
        for image in images:
            if id(image) in uploaded:
                continue
            try:
                uploaded[id(image)] = to_tensor(image, self.device)
            except Exception as error:  # noqa: BLE001 - the Pillow lane reads a broken file again and reports it
                uploaded[id(image)] = None
                if not isinstance(error, OSError | SyntaxError):
                    self.warn(f"take an image of {image.width}x{image.height} pixels", error)
        return uploaded

    def _advance(self, runs: Sequence[_Progress]) -> None:
        while waiting := [(run, step) for run in runs if (step := run.next) is not None]:
            groups: dict[tuple[object, ...], list[_Progress]] = {}
            for run, step in waiting:
                values = "" if step.kind.is_per_image else repr(step.operation.values)
                groups.setdefault((step.operation.name, id(step.kind), run.pixels.shape, values), []).append(run)
            for group in groups.values():
                height, width = group[0].pixels.shape[1:]
                n_images = max(1, self._max_pixels // (height * width))
                for start in range(0, len(group), n_images):
                    self._step(group[start : start + n_images])

    def _step(self, group: list[_Progress]) -> None:
        """One operation on images of one shape; on half of them at a time if that fails for memory or for one."""
        try:
            self._apply(group)
        except (torch.OutOfMemoryError, NotBoundedError) as error:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(group) > 1:
                self._step(group[: len(group) // 2])
                self._step(group[len(group) // 2 :])
            else:
                self._give_up(group, error)
        except Exception as error:  # noqa: BLE001 - the Pillow lane does it, or has the message for the policy
            self._give_up(group, error)

    def _give_up(self, group: list[_Progress], error: Exception) -> None:
        for run in group:
            run.is_failed = True
        if not isinstance(error, NotBoundedError):  # which is no failure
            size, name = group[0].size, group[0].steps[group[0].position].operation.name
            self.warn(f"do {name} on {size[0]}x{size[1]} pixels", error)

    def warn(self, what: str, error: Exception) -> None:
        """Warn, once, that the device failed and the Pillow lane takes over."""
        if self._has_warned:
            return
        self._has_warned = True
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        text = f"{self.device} could not {what} ({reason}); the Pillow lane does such calls. This is said once."
        warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _apply(self, group: list[_Progress]) -> None:
        before = stacked([run.pixels for run in group])
        steps = [run.steps[run.position] for run in group]
        after = steps[0].kind.call(before, [step.operation.values for step in steps])
        size = group[0].size
        is_same_size = before.shape[2:] == after.shape[2:]
        changes = _changed(before, after, steps) if is_same_size else None
        for place, run in enumerate(group):
            if changes is not None:
                run.changes[run.position] = changes[place]
            run.sizes.append(size)
            run.pixels = after[place]

    def _outcomes(self, runs: Sequence[_Progress], sources: Sequence[Tensor]) -> list[Outcome | None]:
        """Tools, orientation and frame of every run; one look at the device for all changes together."""
        flags = _fetched([flag for run in runs for flag in run.changes.values()])
        earned: list[Credit] = []
        for run, source in zip(runs, sources, strict=True):
            credit = Credit((int(source.shape[2]), int(source.shape[1])))
            changed = {position: next(flags) for position in run.changes}
            # Of a close operation, no change that is certain is no certainty that there was none.
            run.is_failed |= any(
                not is_changed and (run.steps[position].margin > 0 or run.steps[position].far > 0)
                for position, is_changed in changed.items()
            )
            after = [*run.sizes, run.size][1:]
            for position, (step, size) in enumerate(zip(run.steps, after, strict=False)):
                credit.add(step.operation, size, lambda changed=changed, position=position: changed[position])  # type: ignore[misc]
            earned.append(credit)
        without_colour = self._without_colour(runs, earned, sources)
        return [
            None if run.is_failed else _outcome(run, credit, source, without_colour.get(place))
            for place, (run, credit, source) in enumerate(zip(runs, earned, sources, strict=True))
        ]

    def _without_colour(
        self, runs: Sequence[_Progress], earned: Sequence[Credit], sources: Sequence[Tensor]
    ) -> dict[int, _Progress]:
        """The programs without colour operations, of those whose colour operations may have undone each other."""
        again = {}
        for place, (run, credit) in enumerate(zip(runs, earned, strict=True)):
            if not run.is_failed and credit.needs_colourless:
                steps = list[Step]()
                for step in run.steps:
                    if not OPERATIONS[step.operation.name].is_colour:
                        steps.append(_step(step.operation, step.kind, steps[-1] if steps else None))
                again[place] = _Progress(tuple(steps), sources[place])
        self._advance(list(again.values()))
        return {place: run for place, run in again.items() if not run.is_failed}


def _step(operation: Operation, kind: TensorKind, last: Step | None) -> Step:
    """A step after another one: what that left of difference grows by what the operation can enlarge, and its own."""
    before, far = (last.error, last.far) if last is not None else (0.0, 0.0)
    if far and operation.name != "orient":  # few pixels may be anywhere: an operation may spread them
        before = math.inf
    spread = before and kind.growth(operation.values) * before + (operation.name != "orient")
    error = spread + kind.most
    return Step(operation, kind, error, before + error, far + kind.far(operation.values))


def _changed(before: Tensor, after: Tensor, steps: Sequence[Step]) -> Tensor:
    """Whether each image certainly changed, [N]: by more, and at more places, than the lane's own differences."""
    if not any(step.margin or step.far for step in steps):
        return (before != after).flatten(1).any(1)
    margins, shares = (
        torch.tensor(each, device=before.device) for each in zip(*((s.margin, s.far) for s in steps), strict=True)
    )
    difference = (before.to(torch.int16) - after.to(torch.int16)).abs().flatten(1)
    return (difference > margins[:, None]).float().mean(1) > shares


def _outcome(run: _Progress, credit: Credit, source: Tensor, plain: _Progress | None) -> Outcome | None:
    try:
        effects = credit.effects(
            lambda: _is_same(run, source, None), lambda: plain is not None and _is_same(run, plain.pixels, plain)
        )
    except _UncertainError:
        return None
    return Outcome(TensorImage(run.pixels if run.pixels.shape[0] == 3 else run.pixels.repeat(3, 1, 1)), effects)


def _fetched(flags: Sequence[Tensor]) -> Iterator[bool]:
    return iter(torch.stack(list(flags)).tolist() if flags else [])


def _is_same(run: _Progress, other: Tensor, plain: _Progress | None) -> bool:
    """Whether a run's result looks like another image: equal size and equal RGB values."""
    if run.pixels.shape[1:] != other.shape[1:]:
        return False
    steps = [*run.steps[-1:], *(plain.steps[-1:] if plain is not None else ())]
    error, far = sum(step.error for step in steps), sum(step.far for step in steps)
    difference = (run.pixels.to(torch.int16) - other.to(torch.int16)).abs()
    if not error and not far:
        return not bool(difference.any())
    if float((difference > error).float().mean()) <= far:
        raise _UncertainError
    return False
