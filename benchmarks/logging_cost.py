"""The cost of logging: the same RL run with all callbacks and MLflow on SQLite, and with neither.

    python benchmarks/logging_cost.py --source runs/tiny/sft/policy [--json runs/benchmarks/logging_cost.json]

Both runs start from the same policy and seed, so that step n does the same work in both. Each runs in a process of its
own, alternately. A step lasts from the start of a training step to the start of the next. Between the end of one and
the start of the next, callbacks, loggers and data run; the difference of that time between both runs is what logging
costs the main thread. It is measured in processor time of that thread, which other work on the machine does not
stretch, and divided by the processor time of the step without logging. The output also has wall time, and the processor
time of all threads, including the one that sends to MLflow. The first steps are not counted.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # this folder leaves the path: benchmarks/sandbox.py is no package

import argparse  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import yaml  # noqa: E402

from cv_lightning.cli.compose import compose_unresolved  # noqa: E402

#: Number of steps between trajectories; the default is 100, so a short run pays more for them here than a long one.
TRAJECTORIES_EVERY = 20


def main() -> int:
    """Measure, print, and write JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="experiments/tiny/rl.yaml", help="an RL config (default: %(default)s)")
    parser.add_argument("--source", required=True, help="the policy to start from: an exported folder")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of a run (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=5, help="steps that are not counted (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each kind (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        run(Path(options.worker))
        return 0
    result = measure(options)
    show(result)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run both kinds alternately, each in a process of its own."""
    rows: dict[str, list[dict[str, float]]] = {"plain": [], "logged": []}
    with tempfile.TemporaryDirectory() as temporary:
        for repeat in range(options.repeats):
            for kind in rows:
                folder = Path(temporary) / f"{kind}{repeat}"
                folder.mkdir()
                config = configure(options, folder, with_logging=kind == "logged")
                (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
                command = [sys.executable, __file__, "--source", options.source, "--worker", str(folder)]
                subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)  # noqa: S603  # ourselves
                steps = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
                rows[kind] += steps[options.warmup :]
    return {"n_steps": len(rows["plain"]), **summary(**rows), "machine": platform.platform(), "cores": _cores()}


def configure(options: argparse.Namespace, folder: Path, with_logging: bool) -> dict[str, Any]:
    """The config of an experiment, shortened; without logging, it keeps only `Last` callbacks and no logger."""
    config: dict[str, Any] = compose_unresolved([Path(options.config)])
    config["run_folder"] = str(folder)
    config["model"]["init_args"]["policy"]["init_args"]["source"] = str(Path(options.source).resolve())
    trainer = config["trainer"]
    trainer["max_steps"] = options.steps
    trainer["default_root_dir"] = str(folder)
    trainer["callbacks"] = [entry for entry in trainer["callbacks"] if with_logging or "Last" in entry["class_path"]]
    for entry in trainer["callbacks"]:
        if entry["class_path"].endswith("Trajectories"):
            entry.setdefault("init_args", {})["every_n_steps"] = TRAJECTORIES_EVERY
    if not with_logging:
        trainer["logger"] = False
        trainer["enable_progress_bar"] = False
    return config


def run(folder: Path) -> None:
    """Train, and write when each training step began and ended."""
    from cv_lightning.cli.lightning_cli import quieten, run_command
    from modules.grpo import GRPOModule

    times: list[tuple[float, ...]] = []
    step = GRPOModule.training_step

    def timed(self: GRPOModule, batch: Any, batch_idx: int) -> Any:
        started = time.perf_counter(), time.process_time(), time.thread_time()
        outputs = step(self, batch, batch_idx)
        times.append((*started, time.thread_time()))
        return outputs

    GRPOModule.training_step = timed  # type: ignore[method-assign]
    quieten()
    run_command(["fit", "--config", str(folder / "config.yaml")])
    steps = [
        {
            "wall_s": after[0] - before[0],
            "processor_s": after[1] - before[1],
            "thread_s": after[2] - before[2],
            "between_s": after[2] - before[3],
        }
        for before, after in itertools.pairwise(times)
    ]
    (folder / "steps.json").write_text(json.dumps(steps), encoding="utf-8")


def summary(plain: list[dict[str, float]], logged: list[dict[str, float]]) -> dict[str, float]:
    """Means of both kinds, their ratios, and the main thread's logging time divided by the step without logging."""

    def mean(rows: list[dict[str, float]], name: str) -> float:
        return statistics.mean(row[name] for row in rows)

    wall_s = mean(plain, "wall_s")
    cost_s = mean(logged, "between_s") - mean(plain, "between_s")
    return {
        "plain_wall_s": wall_s,
        "logged_wall_s": mean(logged, "wall_s"),
        "wall_ratio": mean(logged, "wall_s") / wall_s,
        "median_wall_ratio": statistics.median(a["wall_s"] / b["wall_s"] for a, b in zip(logged, plain, strict=True)),
        "processor_ratio": mean(logged, "processor_s") / mean(plain, "processor_s"),
        "main_thread_s": cost_s,
        "main_thread_share": cost_s / mean(plain, "thread_s"),
    }


def show(result: dict[str, Any]) -> None:
    """Print the numbers."""
    print(f"steps counted, of each kind      {result['n_steps']}")
    print(f"step without logging             {1000 * result['plain_wall_s']:.1f} ms")
    print(f"step with logging                {1000 * result['logged_wall_s']:.1f} ms")
    print(f"ratio of the mean steps          {result['wall_ratio']:.4f}")
    print(f"median ratio of paired steps     {result['median_wall_ratio']:.4f}")
    print(f"ratio of processor time          {result['processor_ratio']:.4f}   (the sending thread included)")
    print(
        f"cost in the main thread          {1000 * result['main_thread_s']:.1f} ms of processor time a step, "
        f"{100 * result['main_thread_share']:.2f} % of it"
    )


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


if __name__ == "__main__":
    sys.exit(main())
