"""The table of docs/kornia_lane.md: `python -m tests.sandbox.lanes.tensor.kornia_table` measures and prints it.

It uses the stored calls (`sandbox.lanes.tensor.selfcheck`). Most were drawn once, at random, because Hypothesis's draws
depend on its version and on the modules that are loaded. `--draw` draws new calls; print the table again after that.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from PIL import Image

from sandbox.lanes.tensor import selfcheck
from sandbox.lanes.tensor.kinds import KINDS, TensorKind
from sandbox.lanes.tensor.selfcheck import differences, kept_calls
from sandbox.lanes.tensor.table import kind_of
from sandbox.operations.operation import Operation, State, Values
from sandbox.operations.table import OPERATIONS
from tests.sandbox import strategies

SIZES = ((90, 70), (40, 33), (7, 19))


@dataclass
class Measured:
    """Results of the stored calls of an operation under the contract "close".

    Attributes:
        backend: Backend that did the operation.
        most: Largest difference from the library, of 255.
        mean: Mean difference.
        beyond: Share of values that differ by more than 2, in percent.
        exact: Share of the calls that "exact" takes, in percent.
        close: Share of the calls that "close" takes, in percent.
    """

    backend: str = "the Pillow lane"
    most: int = 0
    mean: float = 0.0
    beyond: float = 0.0
    exact: float = 0.0
    close: float = 0.0

    def row(self, name: str) -> str:
        """A row of the table."""
        shown = f"{self.most} | {self.mean:.4f} | {self.beyond:.4f}" if self.close else " | | "
        return f"| `{name}` | {self.backend} | {shown} | {self.exact:.0f} | {self.close:.0f} |"


def backend_of(name: str) -> str:
    """The backend that does an operation under "close"."""
    return "; ".join(dict.fromkeys(kind.by for kind in KINDS.get(name, ()))) or "the Pillow lane"


def _picture(size: tuple[int, int], seed: int) -> Image.Image:
    """Noise for an odd seed, a smooth picture for an even seed."""
    shape = (size[1], size[0], 3) if seed % 2 else (4, 5, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


def measured(name: str) -> Measured:
    """Run the stored calls of an operation."""
    taken: dict[str, list[bool]] = {"exact": [], "close": []}
    parts = [np.zeros(0, np.int64)]
    for seed, values in enumerate(kept_calls()[name]):
        for size in SIZES:
            for mode in OPERATIONS[name].modes:
                kinds = {each: kind_of(name, values, State(size, mode), each) for each in taken}  # type: ignore[arg-type]
                for exactness, each in taken.items():
                    each.append(isinstance(kinds[exactness], TensorKind))
                if isinstance(kind := kinds["close"], TensorKind):
                    image = _picture(size, seed).convert(mode)
                    parts.append(differences(name, kind, image, values, torch.device("cpu")))
    found = np.concatenate(parts)
    exact, close = (100 * sum(each) / len(each) for each in taken.values())
    if not len(found):
        return Measured(backend_of(name), exact=exact, close=close)
    most, mean, beyond = int(found.max()), float(found.mean()), 100 * float((found > 2).mean())
    return Measured(backend_of(name), most, mean, beyond, exact, close)


def draw() -> None:
    """Draw new calls, at most 25 of each operation, and store them beside the calls that were picked by hand."""

    def drawn(name: str) -> list[Values]:
        found = []

        @settings(database=None, derandomize=True, max_examples=25, suppress_health_check=list(HealthCheck))
        @given(strategies.operations_named(name))
        def keep(operation: Operation) -> None:
            found.append(operation.values)

        keep()
        return found

    file = Path(selfcheck.__file__).with_name("calls.jsonl")
    rows = {row["name"]: row for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())}
    rows = {name: rows.get(name, {"name": name}) | {"drawn": drawn(name)} for name in OPERATIONS}
    file.write_text("\n".join(json.dumps(row, default=asdict) for row in rows.values()) + "\n", encoding="utf-8")


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
