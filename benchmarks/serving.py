"""Questions per second that a served policy answers, by the number of simultaneous questions.

    python -m cv_lightning serve --policy runs/tiny/rl/policy --system-prompt "Read." --max-batch 64
    python benchmarks/serving.py --url http://127.0.0.1:8000/v1

The tool runs in this process. Each setting is measured after a warm-up; the median of the repeats is printed.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # this folder leaves the path: benchmarks/sandbox.py is no package

import argparse  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402

from cv_lightning.data.worlds.plates import PlateWorld  # noqa: E402
from cv_lightning.endpoint.client import Endpoint  # noqa: E402
from cv_lightning.endpoint.solver import EndpointSolver  # noqa: E402


def main() -> None:
    """Ask the questions and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    world = PlateWorld(seed=0)
    kinds = ((), ("rotate_90",), ("flip_vertical",))
    samples = [world.sample("test", index // 3, kinds[index % 3]) for index in range(options.questions)]
    endpoint = Endpoint(options.url, api_key_variable=None)
    print(f"{'at once':>8} {'s':>8} {'questions/s':>12} {'requests':>9}")
    for at_once in (1, 8, 60):
        seconds = []
        requests = 0
        for repeat in range(options.repeats + 1):
            solver = EndpointSolver(endpoint, "text", "Read.", max_turns=3, max_new_tokens=64, at_once=at_once)
            before, started = endpoint.usage.requests, time.perf_counter()
            solver.solve(samples if repeat else samples[:at_once])
            seconds.append(time.perf_counter() - started)
            requests = endpoint.usage.requests - before
            solver.close()
        median = statistics.median(seconds[1:])
        print(f"{at_once:>8} {median:>8.2f} {len(samples) / median:>12.1f} {requests:>9}", flush=True)


if __name__ == "__main__":
    main()
