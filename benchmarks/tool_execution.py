"""The cost of tools as tensors on a device, in Pillow on all cores, and in OpenCV; and of the whole path to patches.

    python benchmarks/tool_execution.py --device cpu|cuda [--quick] [--out runs/benchmarks/tool_execution_cpu.json]
    python benchmarks/tool_execution.py --device cuda --check       # compare the device with Pillow under each contract
    python benchmarks/tool_execution.py --device cpu --path         # from images to patches only
    python benchmarks/tool_execution.py --device cpu --mixed        # mixed batches, and from images to patches
    python benchmarks/tool_execution.py --device cpu --operations   # each operation against the library
    python benchmarks/tool_execution.py --device cpu --corruptions  # corruptions one by one and in batches
    python benchmarks/tool_execution.py --device cpu --thresholds   # the numbers that "auto" chooses by

On an accelerator, run `--check` first. After a warm-up, rounds are interleaved: every way runs once per round, so that
a busy machine slows all ways alike. The output has medians and interquartile ranges in milliseconds, and the median of
the rounds' ratios; times include waiting for the device. The next column is processor time of all threads: compare it
if other programs use the cores. Batches whose pixels exceed `--max-megapixels` are left out. For large batches, Pillow
and OpenCV process only a part, and their times are scaled up. The JSON names commit, hardware and versions.
"""

# ruff: noqa: E402 - this folder leaves the path before anything else is imported: files in it have names of packages
from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np
import PIL
import torch
from PIL import Image

from benchmarks.tool_cases import BATCHES, MIX, MOVES, SINGLE, SIZES, pictures
from cv_lightning.data import corruption
from sandbox import ToolExecutor, ToolRequest
from sandbox.lanes.tensor.images import TensorImage, to_tensor
from sandbox.lanes.tensor.kinds import TensorKind
from sandbox.lanes.tensor.selfcheck import operations_of, self_check
from sandbox.lanes.tensor.table import kind_of
from sandbox.lanes.tensor.thresholds import costs, measure
from sandbox.operations.operation import State
from sandbox.operations.table import OPERATIONS
from sandbox.types import Exactness

Way = Callable[[], object]
CONTRACTS: tuple[Exactness, ...] = ("exact", "close")
#: The columns with which those of mixed batches are compared, for the tools alone and for the whole path.
BASELINES = {"tools": "tools: pillow", "path": "path: pillow + hugging face"}


def summary(seconds: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """Median and interquartile range in milliseconds."""
    lower, median, upper = statistics.quantiles([1000 * scale * value for value in seconds], n=4)
    return {"median_ms": median, "iqr_ms": upper - lower, "n": len(seconds)}


def interleaved(
    ways: dict[str, Way], device: torch.device, rounds: int, scales: dict[str, float] | None = None
) -> dict[str, dict[str, float]]:
    """Time every way once per round, after two rounds of warm-up; each way's time is multiplied by its scale.

    The result also says how much faster each way was than its baseline, as the median of the rounds' ratios, by wall
    time and by processor time: other programs slow both ways of a round alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    busy: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name, way in ways.items():
            synchronize(device)
            start, cpu = time.perf_counter(), time.process_time()
            way()
            synchronize(device)
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
                busy[name].append(time.process_time() - cpu)
    found = {}
    for name, values in seconds.items():
        scale = (scales or {}).get(name, 1.0)
        found[name] = {**summary(values, scale), "cpu_ms": 1000 * scale * statistics.median(busy[name])}
        baseline = BASELINES.get(name.partition(":")[0])
        if baseline in ways:
            for key, times in (("faster", seconds), ("cpu_faster", busy)):
                pairs = zip(times[baseline], times[name], strict=True)
                found[name][key] = statistics.median(slow / fast for slow, fast in pairs if fast)
    return found


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_gb_s(device: torch.device, rounds: int = 20) -> float:
    """Bytes read and written per second by a copy of 256 MB."""
    source = torch.zeros(1 << 28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    row = interleaved({"copy": lambda: target.copy_(source)}, device, rounds)["copy"]
    return 2 * source.numel() / row["median_ms"] / 1e6


def each(call: Callable[[Any], object], items: Sequence[Any], pool: ThreadPoolExecutor | None = None) -> list[object]:
    """Run the call on each item, on all cores if there is a pool."""
    return list(pool.map(call, items)) if pool is not None else [call(item) for item in items]


def _flipped(call: Callable[[Any, Any], object], values: Any, image: Any) -> object:
    return call(image, values)


def single(device: torch.device, rounds: int, max_pixels: int, pool: ThreadPoolExecutor) -> list[dict[str, Any]]:
    """Time single operations on batches of images that are already on the right device."""
    bandwidth = copy_gb_s(device)
    rows = []
    for size_name, size in SIZES.items():
        for n in BATCHES:
            if n > 1 and n * size[0] * size[1] > max_pixels:
                continue
            part = pictures(size, min(n, 32))
            arrays = [np.asarray(image) for image in part]
            batch = torch.stack([to_tensor(part[place % len(part)], device) for place in range(n)])
            for name, (operation, values, raw) in SINGLE.items():
                kind = OPERATIONS[operation]
                ways: dict[str, Way] = {"pillow": partial(each, partial(_flipped, kind.call, values), part, pool)}
                for exactness in CONTRACTS:
                    tensor = kind_of(operation, values, State(size), exactness)
                    if isinstance(tensor, TensorKind):
                        ways[exactness] = partial(tensor.call, batch, [values] * n)
                if raw is not None:
                    ways["opencv"] = partial(each, raw, arrays)
                scale = n / len(part)
                times = interleaved(ways, device, rounds, {"pillow": scale, "opencv": scale})
                row = {"operation": name, "size": size_name, "batch": n, **times}
                if name in MOVES and device.type != "cpu":  # a CPU's caches are faster than its memory
                    row["of_copy_bandwidth"] = 2 * batch.numel() / times["exact"]["median_ms"] / 1e6 / bandwidth
                rows.append(row)
                show_single(row)
    return rows


def tool(executor: ToolExecutor, request: ToolRequest) -> Image.Image:
    """The result of one call."""
    (observation,) = executor.execute([request])
    if observation.image is None:
        raise RuntimeError(observation.text)
    return observation.image


def published(executor: ToolExecutor, processor: Any, device: torch.device, request: ToolRequest) -> torch.Tensor:
    """Path from an image to its patches, by Pillow and Hugging Face's processor."""
    inputs = processor(images=[tool(executor, request)], return_tensors="pt")
    patches: torch.Tensor = inputs["pixel_values"].to(device)
    return patches


def ours(executor: ToolExecutor, patcher: Any, requests: Sequence[ToolRequest], device: torch.device) -> torch.Tensor:
    """Path from images to their patches, in one batch."""
    images = [observation.image for observation in executor.execute(requests) if observation.image is not None]
    patches: torch.Tensor = patcher(images, device)[0]
    return patches


def mixed(
    device: torch.device, rounds: int, max_pixels: int, pool: ThreadPoolExecutor, *, has_tools: bool = True
) -> list[dict[str, Any]]:
    """Time mixed batches on the path from images to patches and, if `has_tools`, in the executor alone."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from modules.policy.image_patches import Patcher

    processor = Qwen2VLImageProcessorPil()
    patcher = Patcher(processor)
    rows = []
    with (
        ToolExecutor(lane="pillow") as pillow,
        ToolExecutor(lane="kornia", device=str(device)) as exact,
        ToolExecutor(lane="kornia", device=str(device), exactness="close") as close,
        ToolExecutor(lane="auto", device=str(device)) as auto_exact,
        ToolExecutor(lane="auto", device=str(device), exactness="close") as auto_close,
    ):
        for size_name, size in SIZES.items():
            for n in BATCHES:
                if n > 1 and n * size[0] * size[1] > max_pixels:
                    continue
                images = pictures(size, n)
                requests = [ToolRequest(MIX[place % len(MIX)], [image]) for place, image in enumerate(images)]
                there: list[Image.Image] = [TensorImage(to_tensor(image, device)) for image in images]
                at_home = images if device.type == "cpu" else there
                on_device = [ToolRequest(r.code, [image]) for r, image in zip(requests, there, strict=True)]
                usual = [ToolRequest(r.code, [image]) for r, image in zip(requests, at_home, strict=True)]

                ways: dict[str, Way] = {
                    "tools: exact": partial(exact.execute, on_device),
                    "tools: close": partial(close.execute, on_device),
                    "tools: auto, exact": partial(auto_exact.execute, usual),
                    "tools: auto, close": partial(auto_close.execute, usual),
                    "tools: pillow": partial(each, partial(tool, pillow), requests, pool),
                    "path: exact": partial(ours, auto_exact, patcher, usual, device),
                    "path: close": partial(ours, auto_close, patcher, usual, device),
                    BASELINES["path"]: partial(each, partial(published, pillow, processor, device), requests, pool),
                }
                ways = {name: way for name, way in ways.items() if has_tools or name.startswith("path")}
                rows.append({"size": size_name, "batch": n, **interleaved(ways, device, rounds)})
                show_mixed(rows[-1])
    return rows


def show_single(row: dict[str, Any]) -> None:
    """Print a row of `single`: milliseconds of the batch."""
    shown = "".join(
        f"{row[name]['median_ms']:>12.3f}" if name in row else f"{'':>12}" for name in (*CONTRACTS, "pillow", "opencv")
    )
    share = f"{100 * row['of_copy_bandwidth']:>10.0f} %" if "of_copy_bandwidth" in row else ""
    sys.stdout.write(f"{row['operation']:<15}{row['size']:<8}{row['batch']:>6}{shown}{share}\n")
    sys.stdout.flush()


def show_mixed(row: dict[str, Any]) -> None:
    """Print a row of `mixed`: milliseconds of the batch, and its speed relative to the library."""
    sys.stdout.write(f"{row['size']} x {row['batch']}\n")
    for name, way in row.items():
        if ": " in name:
            ratio = f"{way['faster']:.2f}x, {way['cpu_faster']:.2f}x by processor time"
            sys.stdout.write(f"  {name:<28}{way['median_ms']:>10.1f} (IQR {way['iqr_ms']:.1f})  {ratio}\n")
    sys.stdout.flush()


def hardware(device: torch.device) -> dict[str, Any]:
    """Commit, hardware and versions of this measurement."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "commit": git.stdout.strip(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": cpu[0].partition(":")[2].strip() if cpu else platform.processor(),
        "cores": sorted(os.sched_getaffinity(0)),
        "torch threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        **{"torch": torch.__version__, "pillow": PIL.__version__, "opencv": cv2.__version__, "numpy": np.__version__},
    }


def check(device: str) -> int:
    """Print differences of the device from the Pillow lane and from Hugging Face's patches; returns their number."""
    n_wrong = 0
    for exactness in CONTRACTS:
        found = self_check(device, exactness)
        wrong = [name for name, difference in found.items() if not difference.is_kept]
        for name, difference in found.items():
            mark = "   WRONG" if name in wrong else ""
            shown = f"{difference.most:>4} of 255, mean {difference.mean:.4f}{mark}"
            sys.stdout.write(f"{exactness:<8}{name:<32}{shown}\n")
        n_wrong += len(wrong)
        sys.stdout.write(
            f"{exactness}: {len(found) - len(wrong)} of {len(found)} operations are as stated on {device}\n"
        )
    if find_spec("transformers") is not None:
        is_equal = check_patches(torch.device(device))
        sys.stdout.write(f"patches {'agree' if is_equal else 'DIFFER'} with Hugging Face's image processor\n")
        n_wrong += not is_equal
    return n_wrong


def check_patches(device: torch.device) -> bool:
    """Whether tools and patches on the device equal those of Pillow and Hugging Face's processor."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from modules.policy.image_patches import Patcher

    processor = Qwen2VLImageProcessorPil()
    requests = [ToolRequest(code, [image]) for code, image in zip(MIX, pictures((300, 220), len(MIX)), strict=True)]
    with ToolExecutor(lane="kornia", device=str(device)) as tensor, ToolExecutor(lane="pillow") as pillow:
        patches, grids = Patcher(processor)([tool(tensor, request) for request in requests], device)
        expected = processor(images=[tool(pillow, request) for request in requests], return_tensors="pt")
    return torch.equal(patches.cpu(), expected["pixel_values"]) and torch.equal(grids.cpu(), expected["image_grid_thw"])


def thresholds(device: torch.device) -> None:
    """Print the number of pixels of a batch from which each operation is cheaper on the device."""
    for exactness in CONTRACTS:
        for name in operations_of(exactness):
            sys.stdout.write(f"{exactness:<8}{name:<32}{measure(name, device, exactness):>12.0f}\n")
            sys.stdout.flush()


def operations(device: torch.device) -> None:
    """Print the cost of each operation's usual call as tensors and in the library: a batch of 32 images of 224 px."""
    sys.stdout.write("ms per image: as tensors, in the library, ratio\n")
    for exactness in CONTRACTS:
        for name in operations_of(exactness):
            if (seconds := costs(name, device, exactness, 32, 224)) is not None:
                mine, theirs = (1000 * each / 32 for each in seconds)
                sys.stdout.write(f"{exactness:<8}{name:<32}{mine:>10.3f}{theirs:>10.3f}{mine / theirs:>8.2f}\n")
                sys.stdout.flush()


def corruptions(device: torch.device, rounds: int) -> None:
    """Print processor time of each corruption: one by one, in a batch, and in a batch that ignores the cache."""
    images = torch.stack([to_tensor(image, device) for image in pictures((224, 224), 32)])

    def at_once(name: str) -> None:
        usual, corruption._HOST_VALUES = corruption._HOST_VALUES, corruption._MAX_VALUES
        corruption.corrupt(images, name, 3, 0)
        corruption._HOST_VALUES = usual

    for name in corruption.CORRUPTIONS:
        ways: dict[str, Way] = {
            "one by one": partial(each, partial(_corrupted, name), list(images)),
            "batch": partial(corruption.corrupt, images, name, 3, 0),
            "at once": partial(at_once, name),
        }
        times = interleaved(ways, device, rounds)
        shown = "".join(f"  {way} {row['cpu_ms'] / len(images):.2f}" for way, row in times.items())
        sys.stdout.write(f"{name:<16}{shown}  ms per image\n")
        sys.stdout.flush()


def _corrupted(name: str, image: torch.Tensor) -> torch.Tensor:
    return corruption.corrupt(image[None], name, 3, 0)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--check", action="store_true", help="compare with Pillow instead of measuring")
    parser.add_argument("--thresholds", action="store_true", help='measure the thresholds of "auto" only')
    parser.add_argument("--operations", action="store_true", help="measure each operation against the library only")
    parser.add_argument("--corruptions", action="store_true", help="measure corruptions of data only")
    parser.add_argument("--mixed", action="store_true", help="measure mixed batches only")
    parser.add_argument("--path", action="store_true", help="measure the path from images to patches only")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument(
        "--max-megapixels", type=float, help="megapixels of a batch; 64 on a CPU, 4400 on an accelerator"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.check:
        return 1 if check(arguments.device) else 0
    device = torch.device(arguments.device)
    rounds = 4 if arguments.quick else 15
    if arguments.thresholds or arguments.operations or arguments.corruptions:
        if arguments.thresholds:
            thresholds(device)
        elif arguments.operations:
            operations(device)
        else:
            corruptions(device, rounds)
        return 0
    max_pixels = int(1e6 * (arguments.max_megapixels or (64 if device.type == "cpu" else 4400)))
    cores = len(os.sched_getaffinity(0))
    cv2.setNumThreads(cores)
    report: dict[str, Any] = {"hardware": hardware(device), "copy GB/s": copy_gb_s(device)}
    sys.stdout.write(" ".join(f"{key}={value}" for key, value in report["hardware"].items()) + "\n\n")
    with ThreadPoolExecutor(cores) as pool:
        report["whole path"] = mixed(device, rounds, max_pixels, pool, has_tools=not arguments.path)
        if not (arguments.path or arguments.mixed):
            sys.stdout.write(
                f"\n{'ms':<15}{'':<14}{'exact':>12}{'close':>12}{'pillow':>12}{'opencv':>12}{'of copy':>12}\n"
            )
            report["single operations"] = single(device, rounds, max_pixels, pool)
    out = arguments.out or Path(f"runs/benchmarks/tool_execution_{device.type}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
