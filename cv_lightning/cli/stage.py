"""One stage of a recipe: skipped if it is finished, resumed if it was interrupted, else trained and tested.

`<run folder>/<stage>/stage.json` records its progress. The file holds a fingerprint of everything that determines the
result, so a changed config is noticed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cv_lightning.cli.recipe import Stage
from cv_lightning.errors import ConfigError
from cv_lightning.reports import metrics_log
from sandbox.memory import peak_memory_bytes

#: Metrics of its test that a stage reports by orientation.
_TABLES = ("accuracy", "tool_rate", "restored_rate")


@dataclass
class Progress:
    """Progress of a stage.

    Attributes:
        fingerprint: See `recipe.fingerprint`.
        status: "training" until `fit` is done, "trained" until `test` is done, then "finished".
        seconds: Wall time so far, over all attempts.
        result: The stage's entry of the report, once finished.
    """

    fingerprint: str
    status: Literal["training", "trained", "finished"] = "training"
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def load(folder: Path) -> Progress | None:
        """The content of `stage.json`; None if it cannot be read."""
        try:
            return Progress(**json.loads((folder / "stage.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, folder: Path) -> None:
        """Write `stage.json` in one step: an interrupted write must not look like a stage of another config."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / "stage.json.new"
        temporary.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        temporary.replace(folder / "stage.json")


def run_stage(
    stage: Stage, folder: Path, fingerprint: str, arguments: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Run a stage to its end and return its entry of the report.

    Args:
        stage: The stage.
        folder: `<run folder>/<stage>`.
        fingerprint: See `recipe.fingerprint`.
        arguments: Options that the command line adds to the config.
        say: Prints a line for the user.

    Raises:
        ConfigError: The config cannot be used, or its test reports no accuracy.
        KeyboardInterrupt: Ctrl-C; the next call continues from the checkpoint.
    """
    progress = _opened(folder, fingerprint, say)
    if progress.status == "finished":
        say(f"{stage.name}: already finished, in {progress.seconds:.0f} s")
        return progress.result
    started, before = time.monotonic(), progress.seconds
    metrics_log.set_aside(folder)
    try:
        configs = [f"--config={file}" for file in stage.configs]
        metrics = _fit_and_test(stage, folder, progress, [*configs, *arguments], say)
    finally:
        progress.seconds = before + time.monotonic() - started
        progress.save(folder)
    metrics_log.join(folder)
    progress.result = stage_result(stage.name, metrics, progress.seconds)
    progress.status = "finished"
    progress.save(folder)
    return progress.result


def _opened(folder: Path, fingerprint: str, say: Callable[[str], None]) -> Progress:
    """The progress to continue from; results of another config are removed, foreign files are moved aside."""
    progress = Progress.load(folder)
    if progress is not None and progress.fingerprint == fingerprint:
        return progress
    if progress is not None:
        say(f"{folder.name}: its config, seed or a stage it reads has changed; it runs again from the start")
        shutil.rmtree(folder)
    elif folder.exists() and any(folder.iterdir()):
        aside = next(path for n in range(1, 1000) if not (path := folder.with_name(f"{folder.name}.old{n}")).exists())
        folder.rename(aside)
        say(f"{folder.name}: {folder} was not made by reproduce; moved to {aside}")
    fresh = Progress(fingerprint)
    fresh.save(folder)
    return fresh


def _fit_and_test(
    stage: Stage, folder: Path, progress: Progress, arguments: Sequence[str], say: Callable[[str], None]
) -> dict[str, float]:
    """Run the missing part of `fit`, then `test`, through the functions of the CLI."""
    from cv_lightning.cli.interrupt import resume_checkpoint
    from cv_lightning.cli.lightning_cli import quieten, run_command

    quieten()
    checkpoint = resume_checkpoint(folder)
    if progress.status == "trained" and checkpoint is not None:
        say(f"{stage.name}: already trained; testing {checkpoint}")
        return _numbers(run_command(["test", *arguments, "--ckpt_path", str(checkpoint)]).trainer.callback_metrics)
    if checkpoint is not None:
        say(f"{stage.name}: resuming from {checkpoint}")
        cli = run_command(["fit", *arguments, "--ckpt_path", str(checkpoint)])
    else:
        say(f"{stage.name}: {', '.join(map(str, stage.configs))}")
        cli = run_command(["fit", *arguments])
    progress.status = "trained"
    progress.save(folder)
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    return _numbers(cli.trainer.callback_metrics)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def stage_result(name: str, metrics: Mapping[str, float], seconds: float) -> dict[str, Any]:
    """A stage's entry of the report, made from the metrics that its test logged.

    Args:
        name: The stage's name, for the error.
        metrics: `test/<metric>/<orientation>` and `test/<metric>/mean` as rates; `test/mean_turns/mean` in turns.
        seconds: Wall time of fit and test.

    Raises:
        ConfigError: There is no `test/accuracy/*` among the metrics.
    """
    tables = {table: _by_orientation(metrics, table) for table in _TABLES}
    if not tables["accuracy"]:
        raise ConfigError(
            f"Stage {name!r}: its test logged no test/accuracy/<orientation>, so there is nothing to report. "
            f"It logged: {', '.join(sorted(metrics)) or 'nothing'}."
        )
    mean = metrics.get("test/accuracy/mean", _mean(tables["accuracy"].values()))
    turns = metrics.get("test/mean_turns/mean", _mean(_by_orientation(metrics, "mean_turns").values()))
    return {
        **tables,
        "mean": mean,
        "mean_turns": turns,
        "seconds": round(seconds, 1),
        "peak_memory_mb": peak_memory_mb(),
    }


def _by_orientation(metrics: Mapping[str, float], table: str) -> dict[str, float]:
    prefix = f"test/{table}/"
    return {
        key.removeprefix(prefix): value
        for key, value in metrics.items()
        if key.startswith(prefix) and key != f"{prefix}mean"
    }


def _mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def peak_memory_mb() -> int:
    """Largest resident memory of this process so far, in mebibytes."""
    return peak_memory_bytes() // 2**20
