"""The cost of a tool call in each lane, compared with the raw operation and a cold subprocess, in one run.

    python benchmarks/sandbox.py [--out runs/benchmarks/sandbox.json] [--quick]

After a warm-up, rounds are interleaved, so that a busy machine slows all ways alike. In a round, every way makes a
burst of calls, as the rollouts of a step do; ways that begin after a rest make one call, as while a policy samples. The
output has medians and interquartile ranges in milliseconds. `x raw` is a ratio of medians; ways that begin after a rest
are compared with the raw call after a rest. `cpu ms` is processor time of trainer and workers together, which a busy
machine changes least (nan if workers end with the call). `taskset -c 0` keeps everything on one core, as for the mix.
The JSON names commit and hardware.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
from PIL import Image, ImageFilter

sys.path[0] = str(Path(__file__).resolve().parents[1])  # otherwise this file would be the package of the same name

from sandbox import Limits, ToolExecutor, ToolRequest  # noqa: E402
from sandbox.lanes.confined import ConfinedLane  # noqa: E402
from sandbox.lanes.lane import Lifted  # noqa: E402
from sandbox.lanes.tool_worker import ToolWorkerLane  # noqa: E402
from sandbox.lift.reader import Unliftable, lift  # noqa: E402
from sandbox.operations.program import ToolProgram  # noqa: E402

CODE = "result = image.rotate(90, expand=True)"
#: A call without a bound, which therefore runs outside of the trainer.
MEDIAN = "result = image.filter(ImageFilter.MedianFilter(3))"
#: The same for OpenCV calls: mirrored borders have no bound.
WARP = (
    "m = np.array([[0.9, 0.1, 5], [-0.1, 0.9, 3]])\n"
    "result = cv2.warpAffine(np.array(image), m, (image.width, image.height), borderMode=cv2.BORDER_REFLECT)"
)
#: A zoom on the quarter in the middle, as large as the whole; its claim is proven.
ZOOM = "result = image.crop({box}).resize({size}, Image.LANCZOS)"
#: Name -> (size, rounds, calls of a burst).
SIZES = {"224 px": ((224, 224), 100, 10), "1 MP": ((1024, 1024), 30, 5), "12 MP": ((4096, 3072), 8, 2)}
LIMITS = Limits(wall_s=30)

#: Ways that make one call after a rest in which forked workers become ready, as while a policy samples a turn.
RESTED = {"raw, after a rest", "confined, episode, rested", "confined, fresh worker"}
#: Ways that end processes, whose processor time is then unknown.
ENDING = {"confined, fresh worker", "cold subprocess"}
#: The raw call with which a way is compared, if that is not "raw".
COMPARED = dict.fromkeys(RESTED, "raw, after a rest") | {
    "median, tool worker": "median, raw",
    "warp, tool worker": "warp, raw",
    "zoom, confined": "zoom, raw",
}
#: Number of rounds for cold calls, which are slow.
MOST_COLD = 10

#: The same call in a new interpreter, with the image passed as PNG: the cost of a sandbox without a warm process.
COLD = """
import io, sys
from PIL import Image, ImageFilter
import cv2, numpy as np
image = Image.open(io.BytesIO(sys.stdin.buffer.read())).convert("RGB")
result = image.rotate(90, expand=True)
result.save(sys.stdout.buffer, format="PNG", compress_level=1)
"""

#: A realistic mix: a snippet that only the confined lane can run as it is -> the same written out here.
MIX: dict[str, Callable[[Image.Image], Image.Image]] = {
    "result = image.rotate(90, expand=True)": lambda image: image.rotate(90, expand=True),
    "result = image.crop((100, 100, 400, 300)).resize((600, 400))": lambda image: image.crop(
        (100, 100, 400, 300)
    ).resize((600, 400)),
    "result = Image.fromarray(cv2.cvtColor(np.array(image), cv2.COLOR_RGB2GRAY))": lambda image: Image.fromarray(
        cv2.cvtColor(np.array(image), cv2.COLOR_RGB2GRAY)
    ),
    "result = Image.fromarray(cv2.GaussianBlur(np.array(image), (5, 5), 1.5))": lambda image: Image.fromarray(
        cv2.GaussianBlur(np.array(image), (5, 5), 1.5)
    ),
    "a = np.array(image).astype(float)\nresult = (a * 1.2).clip(0, 255).astype(np.uint8)": lambda image: (
        Image.fromarray((np.array(image).astype(float) * 1.2).clip(0, 255).astype(np.uint8))
    ),
}


def noise(size: tuple[int, int]) -> Image.Image:
    """RGB noise of (width, height)."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def cold(image: Image.Image) -> None:
    """Run one call in a new interpreter."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    done = subprocess.run([sys.executable, "-c", COLD], input=buffer.getvalue(), capture_output=True, check=True)  # noqa: S603
    Image.open(io.BytesIO(done.stdout)).load()


def once(executor: ToolExecutor, image: Image.Image, code: str = CODE) -> None:
    """Run one call; a failure ends the benchmark."""
    (observation,) = executor.execute([ToolRequest(code, [image], episode="benchmark")])
    if observation.status != "ok":
        raise RuntimeError(observation.text)


def zoomed(image: Image.Image) -> Image.Image:
    """The result of `ZOOM`."""
    return image.crop(middle(image.size)).resize(image.size, Image.Resampling.LANCZOS)


def middle(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box of the quarter in the middle of an image of (width, height)."""
    width, height = size
    return width // 4, height // 4, width // 4 * 3, height // 4 * 3


def warped(image: Image.Image) -> Image.Image:
    """The result of `WARP`."""
    matrix = np.array([[0.9, 0.1, 5], [-0.1, 0.9, 3]])
    return Image.fromarray(cv2.warpAffine(np.array(image), matrix, image.size, borderMode=cv2.BORDER_REFLECT))


def processor_ms(pid: int | None = None) -> float:
    """Milliseconds of processor time of a process (this one by default) and of its living descendants."""
    total = 0.0
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0]) / 1e6
            total += sum(processor_ms(int(child)) for child in (task / "children").read_text().split())
    return total


def summary(times_s: list[float], cpu_ms: list[float]) -> dict[str, float]:
    """Median, interquartile range and first decile in milliseconds; the decile is disturbed least."""
    times_ms = [1000 * value for value in times_s]
    lower, median, upper = statistics.quantiles(times_ms, n=4)
    decile = statistics.quantiles(times_ms, n=10, method="inclusive")[0]
    spent = statistics.median(cpu_ms)
    return {"median_ms": median, "iqr_ms": upper - lower, "decile_ms": decile, "cpu_ms": spent, "n": len(times_s)}


def interleaved(ways: dict[str, Callable[[], object]], rounds: int, burst: int) -> dict[str, dict[str, float]]:
    """Time every way in every round, after two rounds of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name, way in ways.items():
            if name == "cold subprocess" and number >= MOST_COLD:
                continue
            if name in RESTED:
                time.sleep(0.03)
            n_calls = 1 if name in RESTED or name == "cold subprocess" else burst
            before = processor_ms()
            for _ in range(n_calls):
                start = time.perf_counter()
                way()
                if number >= 2:
                    times[name].append(time.perf_counter() - start)
            if number >= 2:
                spent[name].append((processor_ms() - before) / n_calls if name not in ENDING else math.nan)
    return {name: summary(times[name], spent[name]) for name in ways}


def lanes(quick: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Time one call of each lane at each size."""
    table = {}
    with (
        ToolExecutor(lane="pillow", limits=LIMITS) as lifted,
        ToolExecutor(lane="confined", workers=1, limits=LIMITS, fresh="episode") as kept,
        ToolExecutor(lane="confined", workers=1, limits=LIMITS, fresh="call") as fresh,
        closing(ToolWorkerLane(1, LIMITS)) as tools,
    ):
        for name, (size, rounds, burst) in SIZES.items():
            image, zoom = noise(size), ZOOM.format(box=middle(size), size=size)

            def unread(image: Image.Image = image) -> None:
                lift.cache_clear()
                once(lifted, image)

            def in_tool_worker(code: str, image: Image.Image = image) -> None:
                program = lift(code, (image.size,))
                if not isinstance(program, ToolProgram):
                    raise RuntimeError(str(program))
                (seen,) = tools.run([Lifted(ToolRequest(code, [image]), program)])
                if seen is None or seen.status != "ok":
                    raise RuntimeError(str(seen))

            ways: dict[str, Callable[[], object]] = {
                "raw": lambda image=image: image.rotate(90, expand=True),  # type: ignore[misc]
                "lifted, code read anew": unread,
                "lifted, code seen before": lambda image=image: once(lifted, image),  # type: ignore[misc]
                "tool worker": lambda: in_tool_worker(CODE),
                "warp, raw": lambda image=image: warped(image),  # type: ignore[misc]
                "warp, tool worker": lambda: in_tool_worker(WARP),
                "median, raw": lambda image=image: image.filter(ImageFilter.MedianFilter(3)),  # type: ignore[misc]
                "median, tool worker": lambda: in_tool_worker(MEDIAN),
                "zoom, raw": lambda image=image: zoomed(image),  # type: ignore[misc]
                "zoom, confined": lambda image=image, zoom=zoom: once(kept, image, zoom),  # type: ignore[misc]
                "confined, episode worker": lambda image=image: once(kept, image),  # type: ignore[misc]
                "raw, after a rest": lambda image=image: image.rotate(90, expand=True),  # type: ignore[misc]
                "confined, episode, rested": lambda image=image: once(kept, image),  # type: ignore[misc]
                "confined, fresh worker": lambda image=image: once(fresh, image),  # type: ignore[misc]
                "cold subprocess": lambda image=image: cold(image),  # type: ignore[misc]
            }
            table[name] = interleaved(ways, max(6, rounds // 5) if quick else rounds, burst)
    return table


def throughput(quick: bool) -> dict[str, float]:
    """Calls per second of the mix at 640 x 480, on one core."""
    image, repeats = noise((640, 480)), 6 if quick else 30
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    rates: dict[str, list[float]] = {"raw": [], "episode worker": [], "fresh worker": []}
    snippets = list(MIX)
    with (
        ToolExecutor(lane="confined", workers=1, limits=LIMITS, fresh="episode") as kept,
        ToolExecutor(lane="confined", workers=1, limits=LIMITS, fresh="call") as fresh,
    ):
        for _ in range(repeats):
            start = time.perf_counter()
            for call in MIX.values():
                call(image)
            rates["raw"].append(len(MIX) / (time.perf_counter() - start))
            for name, executor in (("episode worker", kept), ("fresh worker", fresh)):
                requests = [ToolRequest(code, [image], episode="mix") for code in snippets]
                start = time.perf_counter()
                executor.execute(requests)
                rates[name].append(len(MIX) / (time.perf_counter() - start))
    os.sched_setaffinity(0, cores)
    return {name: statistics.median(values) for name, values in rates.items()}


def layer_shares(quick: bool) -> dict[str, dict[str, float]]:
    """Time one call with an episode worker at 224 px, with all layers and with as few as are allowed."""
    image = noise((224, 224))
    request = ToolRequest(CODE, [image], episode="benchmark")
    full = ConfinedLane(1, LIMITS, "syscall", "episode")
    least = ConfinedLane(1, LIMITS, "syscall", "episode", without=("namespaces", "landlock"))
    try:
        return interleaved(
            {full.level: lambda: full.run([request]), least.level: lambda: least.run([request])},
            10 if quick else 60,
            10,
        )
    finally:
        full.close()
        least.close()


def lifted_shares() -> dict[str, float]:
    """Share of the snippets that lift, for each corpus by the name of its file."""
    shares = {}
    for name in ("benign", "idioms"):
        text = (Path(__file__).parents[1] / f"tests/sandbox/corpora/{name}.jsonl").read_text(encoding="utf-8")
        rows = [row for line in text.splitlines() if "code" in (row := json.loads(line))]
        sizes = [((given["w"], given["h"]),) if (given := row.get("input")) else ((640, 480),) for row in rows]
        lifted = [not isinstance(lift(row["code"], size), Unliftable) for row, size in zip(rows, sizes, strict=True)]
        shares[name] = sum(lifted) / len(lifted)
    return shares


def hardware() -> dict[str, Any]:
    """Commit and hardware of this measurement."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "commit": git.stdout.strip(),
        "processor": cpu[0].partition(":")[2].strip() if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/sandbox.json"))
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    arguments = parser.parse_args()
    cv2.setNumThreads(0)  # a worker has one thread, so the raw operation gets one too
    report: dict[str, Any] = {"hardware": hardware(), "lanes": lanes(arguments.quick)}
    report["mix per second"] = throughput(arguments.quick)
    report["levels at 224 px"] = layer_shares(arguments.quick)
    report["share that lifts"] = lifted_shares()
    show(report)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1))


def show(report: dict[str, Any]) -> None:
    """Print the report as tables."""
    out = sys.stdout.write
    out(" ".join(f"{key}={value}" for key, value in report["hardware"].items()) + "\n\n")
    for size, rows in report["lanes"].items():
        subprocess_ms = rows["cold subprocess"]["median_ms"]
        decile_heads = f"{'decile':>10}{'x raw':>8}{'+ ms':>8}"
        out(f"{size:<28}{'median ms':>10}{'IQR':>9}{'x raw':>9}{'+ ms':>9}{'cold /':>9}{decile_heads}{'cpu ms':>10}\n")
        for name, row in rows.items():
            unconfined = rows[COMPARED.get(name, "raw")]
            median, raw, raw_decile = row["median_ms"], unconfined["median_ms"], unconfined["decile_ms"]
            ratios = f"{median / raw:>9.2f}{median - raw:>9.3f}{subprocess_ms / median:>9.1f}"
            decile = row["decile_ms"]
            deciles = f"{decile:>10.3f}{decile / raw_decile:>8.2f}{decile - raw_decile:>8.3f}"
            out(f"  {name:<26}{median:>10.3f}{row['iqr_ms']:>9.3f}{ratios}{deciles}{row['cpu_ms']:>10.3f}\n")
        out("\n")
    raw_rate = report["mix per second"]["raw"]
    for name, rate in report["mix per second"].items():
        out(f"mix at 640 x 480, {name:<16}{rate:>9.1f} calls/s{rate / raw_rate:>7.2f} of raw\n")
    for level, row in report["levels at 224 px"].items():
        out(f"level {level:<10}{row['median_ms']:>9.3f} ms (IQR {row['iqr_ms']:.3f})\n")
    for name, share in report["share that lifts"].items():
        out(f"share of {name}.jsonl that lifts: {share:.3f}\n")


if __name__ == "__main__":
    main()
