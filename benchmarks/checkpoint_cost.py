"""The cost of checkpoints in a sharded run: the share of time in which training waits for them.

    torchrun --nproc-per-node 2 benchmarks/checkpoint_cost.py --minutes 4

Two gloo processes train a new model of 28 million parameters (330 MB with AdamW's moments). `LastCheckpoint` saves on
its own schedule: 5 s after the last save, but never so often that saves take more than 2 % of the time. Training waits
while the values are copied, and, if the next save is due before the previous one is written, until that is finished.
The last save, after training, is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # this folder leaves the path: benchmarks/sandbox.py is no package

from callbacks.checkpoints import LastCheckpoint  # noqa: E402
from cv_lightning.cli.lightning_cli import run_command  # noqa: E402

SIZE = {"hidden_size": 512, "intermediate_size": 1536, "layers": 8, "heads": 8, "kv_heads": 4}


def main() -> None:
    """Train, measure, and print in the first process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4, help="length of the run (default: %(default)s)")
    options = parser.parse_args()
    waits_s = timed("on_train_batch_end")
    saves_s = timed("save")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run_command(arguments(Path(folder) / os.environ["RANK"], options.minutes))
        took_s = time.perf_counter() - started
    saves_s.pop()  # the save after the last step
    if os.environ["RANK"] == "0":
        result = {"steps": len(waits_s), "saves": len(saves_s), "save_s": [round(each, 2) for each in saves_s]}
        result |= {"waited_s": round(sum(waits_s), 2), "run_s": round(took_s), "share": round(sum(waits_s) / took_s, 4)}
        print(json.dumps(result))


def timed(name: str) -> list[float]:
    """Record the seconds of each call of a callback's method, from now on."""
    seconds: list[float] = []
    method: Callable[..., Any] = getattr(LastCheckpoint, name)

    def measured(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - started)

    setattr(LastCheckpoint, name, measured)
    return seconds


def arguments(folder: Path, minutes: float) -> list[str]:
    """The command line of the run."""
    block = folder.parent / f"block_{folder.name}.json"
    trainer = {"accelerator": "cpu", "devices": 2, "logger": False, "enable_progress_bar": False, "max_steps": -1}
    trainer |= {"max_time": {"seconds": int(60 * minutes)}, "enable_model_summary": False}
    save = {"class_path": "callbacks.LastCheckpoint", "init_args": {"folder": str(folder.parent), "every_seconds": 5}}
    model = {"policy": {"init_args": {"build": SIZE}}, "optimizer": {"name": "adamw", "lr": 1e-4, "rest_lr": None}}
    config = {"trainer": trainer | {"callbacks": [save]}, "model": {"init_args": model}}
    block.write_text(json.dumps(config | {"data": {"init_args": {"batch_size": 4}}}))
    files = [ROOT / "experiments/tiny/base.yaml", ROOT / "experiments/sharded.yaml", block]
    return ["fit", *(f"--config={file}" for file in files), f"--run_folder={folder}"]


if __name__ == "__main__":
    main()
