"""Runs many lifted programs at once: each round runs the next operation of every program, grouped by name and shape."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from sandbox.effects.credit import Credit
from sandbox.effects.outcome import Outcome
from sandbox.images import check_size
from sandbox.lanes.tensor.images import TensorImage, stacked, to_tensor
from sandbox.lanes.tensor.kinds import TensorKind
from sandbox.lanes.tensor.table import kind_of
from sandbox.operations.operation import Operation, State
from sandbox.operations.program import ToolProgram
from sandbox.operations.table import OPERATIONS
from sandbox.types import Exactness, Limits

#: Largest number of pixels to process at once; 64-bit temporaries of three channels take 24 bytes per pixel.
_MAX_PIXELS = {"cpu": 1 << 22, "cuda": 1 << 26}


def check_device(name: str) -> torch.device:
    """The device with a name such as "cuda:1"; starts nothing on it.

    Raises:
        ValueError: torch or this machine does not have the device; the message lists the available devices.
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
        raise ValueError(f"device: expected one of this machine ({', '.join(there)}), got {name!r}") from error
    return device


@dataclass(frozen=True)
class Step:
    """One operation of a program, and the largest difference of its image from the Pillow lane's.

    Attributes:
        operation: The checked call.
        kind: How the lane does it.
        error: Largest difference (of 255) after the operation; 0 means bit for bit.
        margin: A change of at most this size may come from the lane's own differences.
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
    """A running program: images uint8 [C, H, W]; sizes (width, height) before each finished operation.

    `changes` maps operation k, if it kept the size, to a flag on the device: whether it changed a pixel.
    """

    steps: Steps
    source: Tensor
    pixels: Tensor
    sizes: list[tuple[int, int]] = field(default_factory=list)
    changes: dict[int, Tensor] = field(default_factory=dict)
    is_failed: bool = False

    @property
    def position(self) -> int:
        return len(self.sizes)

    @property
    def size(self) -> tuple[int, int]:
        return int(self.pixels.shape[2]), int(self.pixels.shape[1])

    @property
    def next(self) -> Step | None:
        return None if self.is_failed or self.position == len(self.steps) else self.steps[self.position]


class _UncertainError(RuntimeError):
    """The lane's own differences hide whether pixels changed: the Pillow lane must decide."""


@contextmanager
def precise(device: torch.device) -> Iterator[None]:
    """Full float32 precision: not the trainer's half precision, no TF32, no gradients."""
    usual, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_default_dtype(usual)
        torch.set_float32_matmul_precision(precision)


class ProgramBatches:
    """Executes lifted programs as tensor operations; equal programs on equal images run once.

    Args:
        device: The device, as torch names it.
        exactness: How close the pixels must be to the Pillow lane's.
        limits: Limits on intermediate images.

    Raises:
        ValueError: The machine does not have the device.
    """

    def __init__(self, device: str, exactness: Exactness = "exact", limits: Limits | None = None) -> None:
        self._device = check_device(device)
        self._exactness, self._limits = exactness, limits or Limits()
        self._max_pixels = _MAX_PIXELS["cuda" if self._device.type == "cuda" else "cpu"]
        #: Operations that are left to the Pillow lane, and the reasons.
        self.declined: Mapping[str, str] = {}
        self._has_warned = False

    @property
    def device(self) -> torch.device:
        """The device of new tensors: for "cuda", the current device, which each training rank sets for itself."""
        if self._device.type == "cuda" and self._device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
        return self._device

    def plan(self, program: ToolProgram) -> Steps | str:
        """The steps of a program, or a text that names the operation that only the Pillow lane does and says why."""
        if not program.has_result or not program.sizes:
            return "a program without an image, or without sizes"
        state, steps = State(program.sizes[0]), list[Step]()
        for operation, size in zip(program.operations, program.sizes, strict=False):
            name, values, state = operation.name, operation.values, State(size, state.mode)
            if min(size) < 1:
                return "an image without pixels"
            between, after = OPERATIONS[name].bound.between(values, size), OPERATIONS[name].after(values, state)
            if any(check_size(one, self._limits) for one in (size, after.size, *between)):
                return f"{name}: an image beyond the limits on the way"
            kind = self.declined.get(name) or kind_of(name, values, state, self._exactness)
            if isinstance(kind, str):
                return kind
            steps.append(_step(operation, kind, steps[-1] if steps else None))
            if steps[-1].margin == math.inf:
                return f"{name}: it may enlarge the difference that a close operation left"
            state = after
        return tuple(steps)

    def run(self, plans: Sequence[Steps], images: Sequence[Image.Image]) -> list[Outcome | None]:
        """Run every program on its image.

        Args:
            plans: The result of `plan` for each program.
            images: The source image of each program, in any mode; an image on the device is not copied.

        Returns:
            The outcome of each program, in order, with the Pillow lane's effects, and with pixels within the contract.
            Images are `TensorImage`s. None if the Pillow lane must run the program: the device failed, or the lane's
            own differences hide whether anything changed.
        """
        with precise(self.device):
            keys = [
                (repr([step.operation for step in steps]), id(image))
                for steps, image in zip(plans, images, strict=True)
            ]
            uploaded = {key: self._upload(image) for key, image in {id(image): image for image in images}.items()}
            runs = {
                key: _Progress(steps, source, source)
                for key, steps in zip(keys, plans, strict=True)
                if (source := uploaded[key[1]]) is not None
            }
            try:
                self._advance(list(runs.values()))
                outcomes = dict(zip(runs, self._outcomes(list(runs.values())), strict=True))
            except Exception as error:  # noqa: BLE001 - an accelerator reports errors late
                self.warn(f"finish {len(runs)} programs", error)
                return [None] * len(keys)
            return [outcomes.get(key) for key in keys]

    def _upload(self, image: Image.Image) -> Tensor | None:
        """Copy an image to the device; None if it cannot be read or does not fit."""
        try:
            return to_tensor(image, self.device)
        except (OSError, SyntaxError):  # the Pillow lane reads a broken file again and reports it
            return None
        except Exception as error:  # noqa: BLE001 - the Pillow lane takes the image
            self.warn(f"take an image of {image.width}x{image.height} pixels", error)
            return None

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
        """Run one operation on images of one shape; if memory runs out, on each half of them."""
        try:
            self._apply(group)
        except Exception as error:  # noqa: BLE001 - the Pillow lane runs it, or has the message for the policy
            if isinstance(error, torch.OutOfMemoryError) and len(group) > 1:
                torch.cuda.empty_cache()
                self._step(group[: len(group) // 2])
                self._step(group[len(group) // 2 :])
                return
            for run in group:
                run.is_failed = True
            size, name = group[0].size, group[0].steps[group[0].position].operation.name
            self.warn(f"do {name} on {size[0]}x{size[1]} pixels", error)

    def warn(self, what: str, error: Exception) -> None:
        """Warn, once, that the device failed and the Pillow lane takes over."""
        if self._has_warned:
            return
        self._has_warned = True
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        text = f"{self.device} could not {what} ({reason}); the Pillow lane runs such calls. This warning appears once."
        warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _apply(self, group: list[_Progress]) -> None:
        before = stacked([run.pixels for run in group])
        steps = [run.steps[run.position] for run in group]
        after = steps[0].kind.call(before, [step.operation.values for step in steps])
        size, changes = group[0].size, _changed(before, after, steps) if before.shape[2:] == after.shape[2:] else None
        for place, run in enumerate(group):
            if changes is not None:
                run.changes[run.position] = changes[place]
            run.sizes.append(size)
            run.pixels = after[place]

    def _outcomes(self, runs: Sequence[_Progress]) -> list[Outcome | None]:
        """Tools, orientation and frame of every run; all flags are read from the device at once."""
        flags = _fetched([flag for run in runs for flag in run.changes.values()])
        earned = [_credit(run, {position: next(flags) for position in run.changes}) for run in runs]
        again = {
            place: _Progress(_colorless(run.steps), run.source, run.source)
            for place, (run, credit) in enumerate(zip(runs, earned, strict=True))
            if not run.is_failed and credit.needs_colorless
        }
        self._advance(list(again.values()))
        return [
            None if run.is_failed else _outcome(run, credit, again.get(place))
            for place, (run, credit) in enumerate(zip(runs, earned, strict=True))
        ]


def _credit(run: _Progress, changed: Mapping[int, bool]) -> Credit:
    """Compute the credit of a run. The run fails if a close operation may or may not have changed a pixel."""
    credit = Credit((int(run.source.shape[2]), int(run.source.shape[1])))
    for place, (step, size) in enumerate(zip(run.steps, [*run.sizes, run.size][1:], strict=False)):
        run.is_failed |= not changed.get(place, True) and (step.margin > 0 or step.far > 0)
        credit.add(step.operation, size, partial(changed.__getitem__, place))
    return credit


def _colorless(steps: Steps) -> Steps:
    """The steps without color operations, which may have undone each other."""
    kept = list[Step]()
    for step in steps:
        if not OPERATIONS[step.operation.name].is_color:
            kept.append(_step(step.operation, step.kind, kept[-1] if kept else None))
    return tuple(kept)


def _step(operation: Operation, kind: TensorKind, last: Step | None) -> Step:
    """Build a step: the operation enlarges the difference of the last step and adds its own."""
    before, far = (last.error, last.far) if last is not None else (0.0, 0.0)
    if far and operation.name != "orient":  # a few pixels may be far off, and an operation may spread them
        before = math.inf
    spread = before and kind.growth(operation.values) * before + (operation.name != "orient")
    error = spread + kind.most(operation.values)
    return Step(operation, kind, error, before + error, far + kind.far(operation.values))


def _changed(before: Tensor, after: Tensor, steps: Sequence[Step]) -> Tensor:
    """Whether each image certainly changed, [N]: by more, and in more places, than the lane's own differences."""
    if not any(step.margin or step.far for step in steps):
        return (before != after).flatten(1).any(1)
    margins, shares = (
        torch.tensor(each, device=before.device) for each in zip(*((s.margin, s.far) for s in steps), strict=True)
    )
    difference = (before.to(torch.int16) - after.to(torch.int16)).abs().flatten(1)
    return (difference > margins[:, None]).float().mean(1) > shares


def _outcome(run: _Progress, credit: Credit, plain: _Progress | None) -> Outcome | None:
    """Build the outcome; None if the Pillow lane must decide. `plain` is the run without its color operations."""
    try:
        effects = credit.effects(lambda: _is_same(run, run.source, ()), lambda: _is_colorless(run, plain))
    except _UncertainError:
        return None
    return Outcome(TensorImage(run.pixels if run.pixels.shape[0] == 3 else run.pixels.repeat(3, 1, 1)), effects)


def _fetched(flags: Sequence[Tensor]) -> Iterator[bool]:
    return iter(torch.stack(list(flags)).tolist() if flags else [])


def _is_colorless(run: _Progress, plain: _Progress | None) -> bool:
    return plain is not None and not plain.is_failed and _is_same(run, plain.pixels, plain.steps)


def _is_same(run: _Progress, other: Tensor, others: Steps) -> bool:
    """Whether a run's result equals another image, made by the steps `others`: equal size and equal RGB values."""
    if run.pixels.shape[1:] != other.shape[1:]:
        return False
    steps = [*run.steps[-1:], *others[-1:]]
    error, far = sum(step.error for step in steps), sum(step.far for step in steps)
    difference = (run.pixels.to(torch.int16) - other.to(torch.int16)).abs()
    if not error and not far:
        return not bool(difference.any())
    if float((difference > error).float().mean()) <= far:
        raise _UncertainError
    return False
