"""Progress and remaining time of a stage: a bar in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from cv_lightning.console.quiet import is_quiet

#: Metrics that are shown if they were logged, in this order.
SHOWN = (
    "train/loss",
    "reward/total",
    "rollout/accuracy",
    "rollout/tool_rate",
    "throughput/rollout_tokens_per_s",
    "throughput/training_tokens_per_s",
    "rl/kl",
    "val/accuracy/mean",
    "test/accuracy/mean",
)

#: Short forms of long names.
_SHORT = {"throughput/rollout_tokens_per_s": "sampled tokens/s", "throughput/training_tokens_per_s": "trained tokens/s"}

#: Recent steps whose pace predicts the remaining time: the first steps of a run are slower than the others.
_N_RECENT = 20

#: Seconds between two readings of the metrics: reading a metric waits for the accelerator.
_BAR_INTERVAL_S = 0.25


class Meter:
    """Progress of some work, and its remaining time.

    Args:
        title: Name of the work.
        unit: Name of the counted units, in the plural.
        total: Number of units; None if unknown.
        done: Number of units that were done before, for instance by the run that is resumed.
        now: Time of the start, in seconds.
    """

    def __init__(self, title: str, unit: str, total: int | None, done: int, now: float) -> None:
        self.title = title
        self.unit = unit
        self.total = total
        self.done = done
        self.started = now
        self._recent = deque([(now, done)], maxlen=_N_RECENT + 1)

    def update(self, done: int, now: float) -> None:
        """Record that `done` units are done at `now`, in seconds."""
        self.done = done
        self._recent.append((now, done))

    def left_s(self) -> float | None:
        """Seconds until the rest is done at the pace of the recent steps; None if that is unknown."""
        (start_s, start), (end_s, end) = self._recent[0], self._recent[-1]
        if self.total is None or end <= start:
            return None
        return max(0, self.total - self.done) * (end_s - start_s) / (end - start)

    def count(self) -> str:
        """The count, for instance `120/700 steps`."""
        return f"{self.done}/{self.total} {self.unit}" if self.total is not None else f"{self.done} {self.unit}"

    def times(self, now: float) -> str:
        """Elapsed and remaining time, for instance `1:20, 6:40 left`."""
        left = self.left_s()
        elapsed = clock(now - self.started)
        return elapsed if left is None or self.done == self.total else f"{elapsed}, {clock(left)} left"


def clock(seconds: float) -> str:
    """`m:ss`, or `h:mm:ss` from an hour on."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def words(metrics: Mapping[str, Any], shown: Sequence[str]) -> str:
    """The shown metrics that exist, with three significant digits; large numbers as integers."""
    values = {name: float(metrics[name]) for name in shown if name in metrics}
    return "  ".join(f"{_SHORT.get(name, name)} {_number(value)}" for name, value in values.items())


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < math.inf else f"{value:.3g}"


#: Lightning's attributes that hold the numbers of batches, by stage.
_TOTALS = {"validate": "num_val_batches", "test": "num_test_batches"}


class _Display(Protocol):
    interval_s: float

    def show(self, meter: Meter, metrics: str, now: float) -> None: ...

    def close(self) -> None: ...


class _Bar:
    """One line that is redrawn."""

    interval_s = _BAR_INTERVAL_S

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[count]}  {task.fields[times]}", markup=False),
            TextColumn("{task.fields[metrics]}", markup=False, table_column=Column(overflow="fold")),  # only this wraps
            console=console,
        )
        self._tasks: dict[Meter, TaskID] = {}
        self._progress.start()

    def show(self, meter: Meter, metrics: str, now: float) -> None:
        fields: dict[str, Any] = {"count": meter.count(), "times": meter.times(now), "metrics": metrics}
        if meter not in self._tasks:
            self._tasks[meter] = self._progress.add_task(meter.title, total=meter.total, **fields)
        self._progress.update(self._tasks[meter], completed=meter.done, **fields)

    def close(self) -> None:
        self._progress.stop()


class _Lines:
    """Lines that stay, for log files."""

    def __init__(self, console: Console, interval_s: float) -> None:
        self._console = console
        self.interval_s = interval_s

    def show(self, meter: Meter, metrics: str, now: float) -> None:
        line = f"{meter.title}: {meter.count()}, {meter.times(now)}  {metrics}".rstrip()
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        pass


class StageProgress(ProgressBar):
    """The progress of a `fit` in optimizer steps of `max_steps`; of a `test` or `validate` in batches.

    A bar in a terminal, lines elsewhere, and nothing with --quiet.

    Args:
        title: Name of the run; None takes the name of its folder.
        shown: Metrics to show if they were logged, in this order.
        every_seconds: Seconds between two lines if the output is not a terminal.
    """

    def __init__(self, title: str | None = None, shown: Sequence[str] = SHOWN, every_seconds: float = 10.0) -> None:
        super().__init__()
        self.title = title
        self.shown = tuple(shown)
        self.every_seconds = every_seconds
        self._is_enabled = not is_quiet()
        self._display: _Display | None = None
        self._meters: list[Meter] = []
        self._shown_at = 0.0

    def disable(self) -> None:
        """Show nothing, as on all processes but the first."""
        self._is_enabled = False
        self._close()

    def enable(self) -> None:
        """Show again, unless the command line says --quiet."""
        self._is_enabled = not is_quiet()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        print(*args, **kwargs)  # while there is a bar, rich redirects the output above it

    # ---- fit ---------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the step of a resumed run."""
        self._begin("fit", "steps", trainer.max_steps if trainer.max_steps > 0 else None, trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Count optimizer steps, of which a batch can make several."""
        self._advance(trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the end."""
        self._end()

    # ---- evaluation: validate, test ----------------------------------------------------------------------------------

    def _start_evaluation(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, unless this is the sanity check."""
        stage = trainer.state.stage
        if stage is not None and not trainer.sanity_checking:
            self._begin(stage.value, "batches", _total(getattr(trainer, _TOTALS[stage.value])))

    def _count_batch(self, *_: Any, **__: Any) -> None:
        """Count a batch."""
        if not self.trainer.sanity_checking:
            self._advance()

    def _end_evaluation(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the end."""
        if not trainer.sanity_checking:
            self._end()

    on_validation_start = on_test_start = _start_evaluation
    on_validation_batch_end = on_test_batch_end = _count_batch
    on_validation_end = on_test_end = _end_evaluation

    # ---- all ---------------------------------------------------------------------------------------------------------

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the terminal as it was."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._close()

    def _begin(self, what: str, unit: str, total: int | None, done: int = 0) -> None:
        if not self._is_enabled:
            return
        if self._display is None:
            console = Console()
            self._display = _Bar(console) if console.is_terminal else _Lines(console, self.every_seconds)
        name = self.title if self.title is not None else Path(self.trainer.default_root_dir).resolve().name
        self._meters.append(Meter(f"{name} {what}", unit, total, done, time.monotonic()))
        self._show()

    def _advance(self, done: int | None = None) -> None:
        if not self._meters:
            return
        now, meter = time.monotonic(), self._meters[-1]
        meter.update(meter.done + 1 if done is None else done, now)
        if self._display is not None and now - self._shown_at >= self._display.interval_s:
            self._show()

    def _end(self) -> None:
        if self._meters:
            self._show()
            self._meters.pop()
        if not self._meters:
            self._close()

    def _show(self) -> None:
        if self._display is not None:
            self._shown_at = time.monotonic()
            self._display.show(self._meters[-1], words(self.trainer.callback_metrics, self.shown), self._shown_at)

    def _close(self) -> None:
        if self._display is not None:
            self._display.close()
        self._display = None
        self._meters.clear()


def _total(n_batches: Sequence[int | float] | int | float) -> int | None:
    """Batches of all loaders; None if a loader has no end."""
    total = sum(n_batches) if isinstance(n_batches, Sequence) else n_batches
    return None if total == float("inf") else int(total)
