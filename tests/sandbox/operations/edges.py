"""Arguments at the edges of every operation: thin and tiny images, huge shifts, boxes, kernels and factors."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from sandbox.geometry import Size
from sandbox.images import check_size
from sandbox.operations.arrays import Table
from sandbox.operations.operation import Operation, State
from sandbox.operations.program import ToolProgram
from sandbox.operations.table import OPERATIONS
from sandbox.types import Limits

LIMITS = Limits()
#: (width, height) of images before a call.
SIZES = [(1, 1), (2, 1), (1, 2), (2, 2), (3, 3), (1, 199), (199, 1), (8, 1500), (1500, 8), (300, 200), (64, 64)]
LARGE_SIZES = [(700, 900), (40, 7000), (7000, 40)]

Draw = Callable[[random.Random, Size], Any]


def _size(generator: random.Random, size: Size) -> Size:
    width, height = size
    wanted = [(1, 1), (1, 199), (199, 1), (1500, 8), (8, 1500), (500, 500), (20, 3900), (3900, 20), size]
    wanted += [(height, width), (2 * width, 3 * height), (max(1, width // 7), max(1, height // 2)), (width, 2 * height)]
    return generator.choice(wanted)


def _box(generator: random.Random, size: Size) -> tuple[float, ...]:
    width, height = size
    left, top = generator.choice([0, -width, width // 2, -3000, 0.4]), generator.choice([0, -height, height // 2, 0.6])
    return left, top, left + generator.choice([1, width, 2 * width, 0.7]), top + generator.choice([1, height, 0.7])


def _source_box(generator: random.Random, size: Size) -> tuple[float, ...] | None:
    width, height = size
    boxes = [None, (0, 0, width, height), (0, 0, 1e-3, 1e-3), (0.3, 0.2, width - 0.1, height - 0.3)]
    return generator.choice([*boxes, (0, 0, width, 1e-6), (0, height - 0.5, 1, height)])


def _corners(generator: random.Random, size: Size) -> tuple[float, ...]:
    far = generator.choice([2 * max(size), 16384, 3])
    return generator.choice([(-far, -far, far, far), (0, 0, far, far), (-far, 0, far, 1), (far - 1, far - 1, far, far)])


def _points(generator: random.Random, size: Size) -> tuple[float, ...]:
    far = generator.choice([2 * max(size), 16384, 3])
    return tuple(generator.choice([-far, 0, far, far / 2]) for _ in range(generator.choice([4, 64])))


def _data(generator: random.Random, _: Size) -> tuple[float, ...]:
    ends = [-1e6, -1.0, 0.0, 1e-9, 1.0, 0.7, 1e6]
    return tuple(generator.choice(ends) for _ in range(8))


def _matrix(generator: random.Random, _: Size) -> Table:
    ends = [-1e9, -1.0, 0.0, 1e-9, 1.0, 0.7, 1e7, 1e9]
    return Table(tuple(tuple(generator.choice(ends) for _ in range(3)) for _ in range(2)), "float64")


def _homography(generator: random.Random, size: Size) -> Table:
    last = tuple(generator.choice([0.0, 1e-9, 0.7, -1.0, 1e9]) for _ in range(3))
    return Table((*_matrix(generator, size).rows, last), "float64")


def _kernel(generator: random.Random, _: Size) -> Table:
    sides = [1, 2, 3, 11, 31]
    wide, high = generator.choice(sides), generator.choice(sides)
    return Table(tuple((1,) * wide for _ in range(high)), "uint8")


_COLORS = [None, 7, (1, 2, 3), "red"]
_SIGMAS = [0, 0.01, 1, 3.3, 50]
#: Values of parameters, keyed by operation and parameter or by parameter alone: a list, or a function of the size.
_EDGES: dict[str, list[Any] | Draw] = {
    "orient.method": ["rotate_90", "rotate_180", "flip_horizontal", "transverse"],
    "angle": [0, 90, 180, 1e-4, 45.0, 89.999, -1e6, 1e6, 123456.7],
    "Image.rotate.resample": [0, 2, 3],
    "expand": [False, True],
    "center": [None, (0, 0), (-1e5, 1e5), (1e5, 1e5)],
    "translate": [None, (0, 0), (-1e5, 1e5), (3, 1e5)],
    "fillcolor": _COLORS,
    "color": _COLORS,
    "Image.crop.box": _box,
    "size": _size,
    "dsize": _size,
    "resample": [0, 1, 2, 3, 4, 5],
    "Image.transform.resample": [0, 2, 3],
    "Image.resize.box": _source_box,
    "reducing_gap": [None, 1.0, 2.5, 1e6],
    "Image.convert.mode": ["L", "RGB"],
    "ImageOps.pad.method": [0, 1, 2, 3, 4, 5],
    "centering": [(0, 0), (1, 1), (0.5, 0.5)],
    "border": [0, 1, 700, 4096, (4096, 0), (0, 4096), (3, 5, 7, 900)],
    "ImageOps.expand.fill": [0, "red"],
    "cutoff": [0, 0.1, 49],
    "ignore": [None, 0, 255],
    "mask": [None],
    "preserve_tone": [False, True],
    "bits": [1, 8],
    "ImageOps.solarize.threshold": [0, 128, 256],
    "factor": [-1000, -1, 0, 1, 1.5, 1000],
    "radius": _SIGMAS,
    "percent": [0, 150, 1000],
    "ImageFilter.UnsharpMask.threshold": [0, 3, 255],
    **{f"ImageFilter.{name}Filter.size": [1, 3, 9] for name in ("Median", "Min", "Max", "Mode", "Rank")},
    "rank": [0, 4, 80],
    "ImageFilter.Kernel.size": [(3, 3), (5, 5)],
    "ImageFilter.Kernel.kernel": lambda g, _: tuple(g.choice([-1e6, 0, 1, 1e6]) for _ in range(g.choice([9, 25]))),
    "scale": [None, -1e4, 0.1, 1e4],
    "offset": [-1e4, 0, 1e4],
    "channel": [0, 1, 2],
    "Image.transform.method": [0, 1, 2, 3],
    "Image.transform.data": _data,
    "Image.transform.fill": [1],
    "Image.paste.box": [(0, 0), (-(10**5), 10**5), (5, -3)],
    "xy": _corners,
    "ImageDraw.line.xy": _points,
    "fill": _COLORS,
    "outline": _COLORS,
    "width": [0, 1, 3, 200],
    "joint": [None, "curve"],
    "fx": [0, 1e-3, 1, 3.7, 100],
    "fy": [0, 1e-3, 1, 2.2, 100],
    "interpolation": [0, 1, 2, 3, 4],
    "cv2.GaussianBlur.ksize": [(0, 0), (1, 1), (1, 99), (99, 1), (99, 99), (3, 3)],
    "sigmaX": _SIGMAS,
    "sigmaY": _SIGMAS,
    "cv2.blur.ksize": [(1, 1), (1, 99), (99, 1), (99, 99), (3, 3)],
    "cv2.medianBlur.ksize": [3, 5, 7, 9],
    "d": [1, 5, 15],
    "sigmaColor": [0.1, 30, 500],
    "sigmaSpace": [0.1, 30, 500],
    "alpha": [-1000, 0, 1, 1000],
    "beta": [-1000, 0, 1000],
    "thresh": [0, 128, 255],
    "maxval": [0, 255],
    "type": [0, 1, 2, 3, 4, 8, 9, 12],
    "threshold1": [0, 100, 1e4],
    "threshold2": [0, 100, 1e4],
    "kernel": _kernel,
    "iterations": [1, 3, 20],
    "op": [0, 1, 2, 3, 4, 5, 6],
    "ddepth": [-1],
    "dx": [0, 1, 2],
    "dy": [0, 1, 2],
    "cv2.Sobel.ksize": [3, 5, 7],
    "cv2.Laplacian.ksize": [1, 3, 7],
    "cv2.warpPerspective.M": _homography,
    "maxValue": [0, 255],
    "adaptiveMethod": [0, 1],
    "thresholdType": [0, 1],
    "blockSize": [3, 199],
    "C": [-255, 0, 255],
    "clipLimit": [0, 2.0, 40.0, 1000],
    "tileGridSize": [(1, 1), (8, 8), (32, 32), (1, 32), (32, 1)],
    "M": _matrix,
    "flags": [0, 1, 2, 3, 4],
    "borderMode": [0, 1, 2, 4],
    "borderValue": [0, 255, (1, 2, 3, 4)],
    **{side: [0, 1, 700, 4096] for side in ("top", "bottom", "left", "right")},
    "borderType": [0, 1, 2, 4],
    "value": [0, 255, (1, 2, 3)],
    "lut": [Table(tuple(255 - value for value in range(256)), "uint8")],
    "h": [0.1, 3, 100],
    "hColor": [0.1, 100],
    "templateWindowSize": [1, 7, 9],
    "searchWindowSize": [1, 21, 31],
}


def _drawn(name: str, generator: random.Random, size: Size) -> tuple[Any, ...]:
    values = []
    for parameter in OPERATIONS[name].parameters:
        edges = _EDGES.get(f"{name}.{parameter.name}", _EDGES.get(parameter.name, []))
        values.append(edges(generator, size) if callable(edges) else generator.choice(edges))
    if name == "cv2.resize" and generator.random() < 0.4:
        values[0] = None
    if name == "Image.transform":
        values[2] = values[2][: {0: 6, 1: 4, 2: 8, 3: 8}[values[1]]]
    return tuple(values)


def program(generator: random.Random, size: Size) -> ToolProgram:
    """Up to three operations with values at the edges; whether they fit the operation before them is left to chance."""
    operations = []
    for _ in range(generator.randint(1, 3)):
        name = generator.choice(sorted(OPERATIONS))
        values = _drawn(name, generator, size)
        if all(part.check(value) for part, value in zip(OPERATIONS[name].parameters, values, strict=True)):
            operations.append(Operation(name, values))
    return ToolProgram(tuple(operations))


def calls(
    name: str, n_calls: int, seed: int = 0, *, in_bound: bool = True
) -> list[tuple[tuple[Any, ...], Image.Image]]:
    """Values and images of calls that a program may hold; if `in_bound`, only calls within the bound."""
    generator, found = random.Random(f"{name} {seed}"), []
    kind = OPERATIONS[name]
    for number in range(60 * n_calls):
        size = generator.choice(LARGE_SIZES if number % 10 == 9 else SIZES)
        values = _drawn(name, generator, size)
        if not all(part.check(value) for part, value in zip(kind.parameters, values, strict=True)):
            continue
        try:
            after = kind.after(values, State(size, kind.modes[0])).size
            between = kind.bound.between(values, size)
        except (ValueError, ZeroDivisionError, TypeError, OverflowError):
            continue
        holds = kind.bound.holds(values, size) and not any(check_size(one, LIMITS) for one in (size, after, *between))
        if holds or not in_bound:
            found.append((values, picture(size, generator.choice(kind.modes), generator)))
        if len(found) == n_calls:
            break
    return found


def picture(size: Size, mode: str, generator: random.Random) -> Image.Image:
    """An image that is hard for some filters: noise, one color, or a ramp."""
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    kind = generator.choice(["noise", "flat", "ramp"])
    if kind == "noise":
        pixels = np.random.default_rng(generator.randrange(99)).integers(0, 256, shape, dtype=np.uint8)
    elif kind == "flat":
        pixels = np.full(shape, generator.choice([0, 255]), np.uint8)
    else:
        pixels = (np.arange(int(np.prod(shape))) % 251).astype(np.uint8).reshape(shape)
    return Image.fromarray(pixels)
