"""The cost of reading a large Parquet folder: the time to open it, and the peak memory of a process that reads it.

    python benchmarks/streaming.py --folder /tmp/rows --gigabytes 6 [--samples 3000] [--json streaming.json]

A missing folder is made first, in the published schema of CodeVision-RL: JPEG images of half a megabyte, no two the
same, in row groups of 100. Each reading runs in a process of its own that makes whole samples, including decoded
images, through `FileSource`: shuffled as in training, and in order as in a test. Memory is the largest resident size
that the kernel saw; `start` is that of the process before anything is opened. The folder is not deleted.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # this folder leaves the path: benchmarks/sandbox.py is no package

import argparse  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from PIL import Image  # noqa: E402

from cv_lightning.data.sources import FileSource  # noqa: E402
from sandbox.memory import peak_memory_bytes  # noqa: E402

#: Number of images in a file and in a row group.
FILE_ROWS, GROUP_ROWS = 2000, 100
SIZE = 1024, 768


def main() -> int:
    """Make the folder if it is missing, read it twice, print, and write JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the files; made if it does not exist")
    parser.add_argument(
        "--gigabytes", type=float, default=6.0, help="size of a folder that is made (default: %(default)s)"
    )
    parser.add_argument("--samples", type=int, default=3000, help="samples of each reading (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--read", choices=["test", "train"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(options.folder, options.read, options.samples)))
        return 0
    if not options.folder.exists():
        make(options.folder, options.gigabytes * 1e9)
    size = sum(path.stat().st_size for path in options.folder.glob("*.parquet"))
    result: dict[str, Any] = {"gigabytes": size / 1e9, "machine": platform.platform()}
    print(f"{options.folder}: {size / 1e9:.2f} GB")
    for split, order in {"test": "in order", "train": "shuffled"}.items():
        command = [sys.executable, __file__, "--folder", str(options.folder), "--samples", str(options.samples)]
        done = subprocess.run([*command, "--read", split], check=True, cwd=ROOT, capture_output=True)  # noqa: S603
        result[split] = found = json.loads(done.stdout)
        print(
            f"{order}: {found['rows']} rows open in {found['open_s']:.3f} s, {found['samples']} samples in "
            f"{found['read_s']:.0f} s; memory {found['start_mb']} MB at the start, {found['peak_mb']} MB at most"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def make(folder: Path, n_bytes: float) -> None:
    """Write files of the published schema until they hold `n_bytes`."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pictures = [_picture(rng) for _ in range(16)]
    written = number = 0
    while written < n_bytes:
        path = folder / f"train-{number:05d}.parquet"
        writer: pq.ParquetWriter | None = None
        for first in range(0, FILE_ROWS, GROUP_ROWS):
            rows = [_row(number * FILE_ROWS + first + place, pictures, rng) for place in range(GROUP_ROWS)]
            table = pa.Table.from_pylist(rows)
            writer = writer or pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=False)
            writer.write_table(table, row_group_size=GROUP_ROWS)
            written += sum(len(row["images"][0]["bytes"]) for row in rows)
            if written >= n_bytes:
                break
        if writer is not None:
            writer.close()
        number += 1


def _picture(rng: np.random.Generator) -> bytes:
    """A JPEG of about half a megabyte: waves and grain."""
    ys, xs = np.mgrid[0 : SIZE[1], 0 : SIZE[0]] / 64
    waves = [np.sin(xs * rng.uniform(0.2, 2) + ys * rng.uniform(0.2, 2)) for _ in range(3)]
    pixels = 128 + 80 * np.stack(waves, -1) + rng.normal(0, 24, (*waves[0].shape, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=93)
    return buffer.getvalue()


def _row(index: int, pictures: list[bytes], rng: np.random.Generator) -> dict[str, Any]:
    # Decoders ignore bytes after a JPEG's end; they make all images in the file different.
    image = pictures[index % len(pictures)] + rng.bytes(64)
    return {
        "data_source": "benchmark",
        "prompt": [{"role": "user", "content": "<image>\nWhat is it?"}],
        "images": [{"bytes": image, "path": None}],
        "ability": "vqa",
        "reward_model": {"ground_truth": "a wave", "style": "rule"},
        "extra_info": {
            "answer": "a wave",
            "bbox": [10, 10, 200, 100],
            "dataset_name": "benchmark",
            "index": index,
            "question": "What is it?",
            "split": "train",
            "transform": ["rotate_90", "crop"],
        },
    }


def read(folder: Path, split: str, n_samples: int) -> dict[str, Any]:
    """Open the folder and make samples from it, in this process."""
    start_mb = peak_memory_bytes() // 2**20
    started = time.perf_counter()
    source = FileSource(**{split: str(folder)})
    opened = time.perf_counter()
    n_rows = source.size(split)  # type: ignore[arg-type]
    for index in range(n_samples):
        source.sample(split, index)  # type: ignore[arg-type]
    return {
        "rows": n_rows,
        "samples": n_samples,
        "open_s": opened - started,
        "read_s": time.perf_counter() - opened,
        "start_mb": start_mb,
        "peak_mb": peak_memory_bytes() // 2**20,
        "cores": len(os.sched_getaffinity(0)),
    }


if __name__ == "__main__":
    sys.exit(main())
