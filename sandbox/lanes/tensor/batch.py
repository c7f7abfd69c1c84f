"""Runs many lifted programs at once: every round, the next operation of each, grouped by operation and shape."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from sandbox.effects.credit import Credit
from sandbox.effects.outcome import Outcome
from sandbox.lanes.tensor.images import TensorImage, stacked, to_tensor
from sandbox.lanes.tensor.table import TENSOR_OPERATIONS, why_declined
from sandbox.operations.operation import Operation, State
from sandbox.operations.program import ToolProgram
from sandbox.operations.table import OPERATIONS

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


@dataclass
class _Run:
    """A program that is being run.

    Attributes:
        operations: What it does.
        pixels: The image so far, uint8 [C, H, W].
        sizes: Size before each operation and at the end, (width, height).
        changes: Whether operation k changed a pixel, as a tensor on the device; only if it left the size.
        is_failed: Whether the lane gave up.
    """

    operations: tuple[Operation, ...]
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
    def next(self) -> Operation | None:
        """The next operation, if there is one."""
        return None if self.is_failed or self.position == len(self.operations) else self.operations[self.position]


class ProgramBatches:
    """Executes lifted programs as tensor operations, equal ones on equal images once.

    Args:
        device: Where, as torch names it.

    Raises:
        ValueError: The device is not there.
    """

    def __init__(self, device: str) -> None:
        self._device = check_device(device)
        self._max_pixels = _MAX_PIXELS["cuda" if self._device.type == "cuda" else "cpu"]
        self._has_warned = False

    @property
    def device(self) -> torch.device:
        """Where tensors are made: of "cuda" the one that is current, which each rank of a training sets for itself."""
        if self._device.type == "cuda" and self._device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
        return self._device

    def why_declined(self, program: ToolProgram) -> str | None:
        """The operation for which the lane leaves a program to the Pillow lane, and why; None if it takes it."""
        if not program.has_result:
            return "a program without an image"
        if not program.sizes:
            return "a program without sizes was not lifted"
        state = State(program.sizes[0])
        for operation, size in zip(program.operations, program.sizes, strict=False):
            if min(size) < 1:
                return "an image without pixels"
            reason = why_declined(operation.name, operation.values, State(size, state.mode))
            if reason is not None:
                return reason
            state = OPERATIONS[operation.name].after(operation.values, State(size, state.mode))
        return None

    def run(self, programs: Sequence[ToolProgram], images: Sequence[Image.Image]) -> list[Outcome | None]:
        """Run every program on its image.

        Args:
            programs: Programs that the lane does not decline.
            images: The source image of each, any mode; one that lies on the device is not copied.

        Returns:
            The outcome of each, in order, equal to the Pillow lane's; images are `TensorImage`s. None if the device
            failed: the Pillow lane must run that program.
        """
        uploaded = self._uploaded(images)
        runs: dict[tuple[str, int], _Run] = {}
        keys = [
            (repr([(o.name, o.values) for o in program.operations]), id(image))
            for program, image in zip(programs, images, strict=True)
        ]
        for key, program in zip(keys, programs, strict=True):
            source = uploaded[key[1]]
            if source is not None:
                runs.setdefault(key, _Run(program.operations, source))
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

    def _advance(self, runs: Sequence[_Run]) -> None:
        while waiting := [run for run in runs if run.next is not None]:
            groups: dict[tuple[object, ...], list[_Run]] = {}
            for run in waiting:
                operation = run.operations[run.position]
                values = "" if TENSOR_OPERATIONS[operation.name].is_per_image else repr(operation.values)
                groups.setdefault((operation.name, tuple(run.pixels.shape), values), []).append(run)
            for group in groups.values():
                height, width = group[0].pixels.shape[1:]
                n_images = max(1, self._max_pixels // (height * width))
                for start in range(0, len(group), n_images):
                    self._step(group[start : start + n_images])

    def _step(self, group: list[_Run]) -> None:
        """One operation on images of one shape; on half of them at a time if memory is short."""
        try:
            self._apply(group)
        except torch.OutOfMemoryError as error:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(group) > 1:
                self._step(group[: len(group) // 2])
                self._step(group[len(group) // 2 :])
            else:
                self._give_up(group, error)
        except Exception as error:  # noqa: BLE001 - the Pillow lane does it, or has the message for the policy
            self._give_up(group, error)

    def _give_up(self, group: list[_Run], error: Exception) -> None:
        for run in group:
            run.is_failed = True
        size = group[0].size
        self.warn(f"do {group[0].operations[group[0].position].name} on {size[0]}x{size[1]} pixels", error)

    def warn(self, what: str, error: Exception) -> None:
        """Warn, once, that the device failed and the Pillow lane takes over."""
        if self._has_warned:
            return
        self._has_warned = True
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        text = f"{self.device} could not {what} ({reason}); the Pillow lane does such calls. This is said once."
        warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _apply(self, group: list[_Run]) -> None:
        before = stacked([run.pixels for run in group])
        operations = [run.operations[run.position] for run in group]
        after = TENSOR_OPERATIONS[operations[0].name].call(before, [operation.values for operation in operations])
        size = group[0].size
        is_same_size = before.shape[2:] == after.shape[2:]
        changes = (before != after).flatten(1).any(1) if is_same_size else None
        for place, run in enumerate(group):
            if changes is not None:
                run.changes[run.position] = changes[place]
            run.sizes.append(size)
            run.pixels = after[place]

    def _outcomes(self, runs: Sequence[_Run], sources: Sequence[Tensor]) -> list[Outcome | None]:
        """Tools, orientation and frame of every run; one look at the device for all changes together."""
        flags = _fetched([flag for run in runs for flag in run.changes.values()])
        earned: list[Credit] = []
        for run, source in zip(runs, sources, strict=True):
            credit = Credit((int(source.shape[2]), int(source.shape[1])))
            changed = {position: next(flags) for position in run.changes}
            after = [*run.sizes, run.size][1:]
            for position, (operation, size) in enumerate(zip(run.operations, after, strict=False)):
                credit.add(operation, size, lambda changed=changed, position=position: changed[position])  # type: ignore[misc]
            earned.append(credit)
        without_colour = self._without_colour(runs, earned, sources)
        outcomes: list[Outcome | None] = []
        for place, (run, credit, source) in enumerate(zip(runs, earned, sources, strict=True)):
            if run.is_failed:
                outcomes.append(None)
                continue
            plain = without_colour.get(place)
            effects = credit.effects(
                lambda run=run, source=source: _is_same(run.pixels, source),  # type: ignore[misc]
                lambda run=run, plain=plain: plain is not None and _is_same(run.pixels, plain),  # type: ignore[misc]
            )
            image = TensorImage(run.pixels if run.pixels.shape[0] == 3 else run.pixels.repeat(3, 1, 1))
            outcomes.append(Outcome(image, effects))
        return outcomes

    def _without_colour(
        self, runs: Sequence[_Run], earned: Sequence[Credit], sources: Sequence[Tensor]
    ) -> dict[int, Tensor]:
        """The results without colour operations, of runs whose colour operations may have undone each other."""
        again = {
            place: _Run(tuple(o for o in run.operations if not OPERATIONS[o.name].is_colour), sources[place])
            for place, (run, credit) in enumerate(zip(runs, earned, strict=True))
            if not run.is_failed and credit.needs_colourless
        }
        self._advance(list(again.values()))
        return {place: run.pixels for place, run in again.items() if not run.is_failed}


def _fetched(flags: Sequence[Tensor]) -> Iterator[bool]:
    return iter(torch.stack(list(flags)).tolist() if flags else [])


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two images look the same: equal size and equal RGB values."""
    return one.shape[1:] == other.shape[1:] and bool((one == other).all())
