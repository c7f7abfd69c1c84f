"""The table of docs/kornia_lane.md: `python -m tests.sandbox.lanes.kornia_table` measures and prints it.

Its calls were drawn once, at random, and are kept in `kornia_calls.jsonl`: Hypothesis's own draws differ by its version
and by the modules that are loaded. `--draw` draws other ones; print the table again after it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from PIL import Image

from sandbox.lanes.tensor.images import to_pillow
from sandbox.lanes.tensor.table import CLOSE, DECLINED, EXACT, TensorKind, kind_of
from sandbox.operations.arrays import Table
from sandbox.operations.operation import Operation, State, Values
from sandbox.operations.table import OPERATIONS
from tests.sandbox import strategies

CALLS = Path(__file__).with_name("kornia_calls.jsonl")
SIZES = ((90, 70), (40, 33), (7, 19))


@dataclass
class Measured:
    """What random calls of an operation gave under the contract "close".

    Attributes:
        backend: What did it.
        most: Largest difference from the library, of 255.
        mean: Mean difference.
        beyond: Share of values that differ by more than 2, in percent.
        exact: Share of the calls that "exact" takes, in percent.
        close: The same of "close".
    """

    backend: str = "the Pillow lane"
    most: int = 0
    mean: float = 0.0
    beyond: float = 0.0
    exact: float = 0.0
    close: float = 0.0

    def row(self, name: str) -> str:
        """A row of the table."""
        shown = f"{self.most} | {self.mean:.4f} | {self.beyond:.2f}" if self.close else " | | "
        return f"| `{name}` | {self.backend} | {shown} | {self.exact:.0f} | {self.close:.0f} |"


def backend_of(name: str) -> str:
    """What does an operation under "close"."""
    backends = [rows[name].backend for rows in (CLOSE, EXACT) if name in rows]
    return "the Pillow lane" if name in DECLINED else "; ".join(dict.fromkeys(backends))


def _picture(size: tuple[int, int], seed: int) -> Image.Image:
    """Half of them noise, half smooth."""
    shape = (size[1], size[0], 3) if seed % 2 else (4, 5, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


def _difference(name: str, kind: TensorKind, values: Values, image: Image.Image) -> Any:
    """Differences of all values; none if the library refuses the call."""
    try:
        expected = OPERATIONS[name].call(image, values)
    except (ValueError, TypeError, cv2.error):  # a colour of three numbers for a gray image
        return np.zeros(0, np.int64)
    array = np.array(image)
    pixels = torch.from_numpy(array[..., None] if array.ndim == 2 else array).permute(2, 0, 1).contiguous()
    result = to_pillow(kind.call(pixels[None], [values])[0])
    assert (result.size, result.mode) == (expected.size, expected.mode)
    return np.abs(np.asarray(result).astype(np.int64) - np.asarray(expected).astype(np.int64)).reshape(-1)


def measured(name: str) -> Measured:
    """Run the calls of an operation that are kept."""
    taken: dict[str, list[bool]] = {"exact": [], "close": []}
    differences = [np.zeros(0, np.int64)]
    for seed, values in enumerate(_calls()[name]):
        for size in SIZES:
            for mode in OPERATIONS[name].modes:
                kinds = {each: kind_of(name, values, State(size, mode), each) for each in taken}  # type: ignore[arg-type]
                for exactness, calls in taken.items():
                    calls.append(isinstance(kinds[exactness], TensorKind))
                if isinstance(kind := kinds["close"], TensorKind):
                    differences.append(_difference(name, kind, values, _picture(size, seed).convert(mode)))
    found = np.concatenate(differences)
    exact, close = (100 * sum(calls) / len(calls) for calls in taken.values())
    if not len(found):
        return Measured(backend_of(name), exact=exact, close=close)
    most, mean, beyond = int(found.max()), float(found.mean()), 100 * float((found > 2).mean())
    return Measured(backend_of(name), most, mean, beyond, exact, close)


@cache
def _calls() -> dict[str, Sequence[Values]]:
    lines = CALLS.read_text(encoding="utf-8").splitlines()
    return {row["name"]: [_read(values) for values in row["calls"]] for row in map(json.loads, lines)}


def _read(value: Any) -> Any:
    """A value as JSON has it, with tuples and tables."""
    if isinstance(value, dict):
        return Table(**{key: _read(part) for key, part in value.items()})
    return tuple(map(_read, value)) if isinstance(value, list) else value


def draw() -> None:
    """Draw other calls, at most 25 of each operation, and keep them."""

    def drawn(name: str) -> list[Values]:
        found = []

        @settings(database=None, derandomize=True, max_examples=25, suppress_health_check=list(HealthCheck))
        @given(strategies.operations_named(name))
        def keep(operation: Operation) -> None:
            found.append(operation.values)

        keep()
        return found

    rows = [json.dumps({"name": name, "calls": drawn(name)}, default=asdict) for name in OPERATIONS]
    CALLS.write_text("\n".join(rows) + "\n", encoding="utf-8")


def main() -> None:
    """Print the table."""
    if "--draw" in sys.argv:
        draw()
    sys.stdout.write("| operation | done by | largest | mean | % beyond 2 | % taken by exact | by close |\n")
    sys.stdout.write("| --- | --- | --- | --- | --- | --- | --- |\n")
    for name in OPERATIONS:
        sys.stdout.write(measured(name).row(name) + "\n")


if __name__ == "__main__":
    main()
