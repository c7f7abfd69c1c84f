"""The progress of a stage, in a terminal and in a log file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from torch.utils.data import DataLoader

from callbacks.progress import SHOWN, Meter, StageProgress, _Bar, clock, words
from cv_lightning.console.quiet import is_quiet, take_flag


class Module(LightningModule):
    """Two optimizer steps per batch."""

    def __init__(self, stop_at: int = -1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = torch.nn.Linear(1, 1)
        self.stop_at = stop_at

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        if batch_idx == self.stop_at:
            raise RuntimeError("broken")
        optimizer: Any = self.optimizers()
        for _ in range(2):
            optimizer.step()
        self.log("train/loss", 1.0 / (batch_idx + 1))
        self.log("train/unimportant", 5.0)

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        pass

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("test/accuracy/mean", 0.5)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer_with(folder: Path, bar: StageProgress, **kwargs: Any) -> Trainer:
    settings: dict[str, Any] = {"max_steps": 6, "max_epochs": -1, "limit_val_batches": 0, **kwargs}
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[bar],
        **settings,
    )


def data(n: int = 5) -> DataLoader[torch.Tensor]:
    return DataLoader(torch.zeros(n, 1))


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if re.match(r"\S+ (fit|test|validate):", line)]


def test_lines_count_optimizer_steps_and_show_what_matters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer_with(tmp_path / "sft", StageProgress(every_seconds=0.0)).fit(Module(), data())
    lines = lines_of(capsys)
    assert [line.split(",")[0] for line in lines] == [f"sft fit: {n}/6 steps" for n in (0, 2, 4, 6, 6)]
    assert "0:00 left  train/loss 0.5" in lines[2]
    assert "left" not in lines[-1]
    assert lines[-1].endswith("train/loss 0.333")
    assert not any("unimportant" in line for line in lines)


def test_lines_come_seldom_but_begin_and_end_is_always_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = StageProgress(title="demo")
    trainer = trainer_with(tmp_path, bar)
    trainer.fit(Module(), data())
    trainer.test(Module(), data(4), verbose=False)
    said = [line.split(",")[0] for line in lines_of(capsys)]
    assert said == [
        "demo fit: 0/6 steps",
        "demo fit: 6/6 steps",
        "demo test: 0/4 batches",
        "demo test: 4/4 batches",
    ]


def test_validation_within_fit_is_counted_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = StageProgress(title="demo", every_seconds=0.0)
    trainer_with(tmp_path, bar, limit_val_batches=3, max_steps=10).fit(Module(), data(5), data(3))
    lines = [line.split(",")[0] for line in lines_of(capsys)]
    assert "demo validate: 3/3 batches" in lines
    assert lines[-1] == "demo fit: 10/10 steps"


def test_a_run_without_end_has_no_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer_with(tmp_path, StageProgress("demo", every_seconds=0.0), max_steps=-1, max_epochs=1).fit(Module(), data(2))
    lines = lines_of(capsys)
    assert lines[-1].startswith("demo fit: 4 steps, 0:00")
    assert "left" not in "".join(lines)


def test_a_terminal_gets_a_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "140")
    trainer_with(tmp_path, StageProgress("demo")).fit(Module(), data())
    out = capsys.readouterr().out
    assert "━" in out
    assert "6/6 steps" in out
    assert "train/loss 0.333" in out


def test_a_narrow_terminal_folds_the_metrics_and_keeps_title_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    display = _Bar(Console(color_system=None))
    metrics = words(dict.fromkeys(SHOWN, 1.0), SHOWN)
    display.show(Meter("a-long-title fit", "steps", 700, 120, now=0.0), metrics, now=80.0)
    display.close()
    last = capsys.readouterr().out.rpartition("\x1b[2K")[2]
    assert "a-long-title fit" in last
    assert "120/700 steps  1:20" in last
    assert "test/accuracy/mean" in last.replace("\n", "").replace(" ", "")


def test_a_crash_gives_the_terminal_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    bar = StageProgress("demo")
    with pytest.raises(RuntimeError, match="broken"):
        trainer_with(tmp_path, bar).fit(Module(stop_at=1), data())
    assert bar._display is None
    assert capsys.readouterr().out.rstrip().endswith("\x1b[?25h"), "the cursor is shown again"


def test_other_processes_show_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = StageProgress("demo")
    bar.disable()
    trainer_with(tmp_path, bar).fit(Module(), data())
    assert not lines_of(capsys)


def test_one_flag_makes_every_command_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CV_LIGHTNING_QUIET", raising=False)
    assert take_flag(["fit", "--config", "a.yaml"]) == ["fit", "--config", "a.yaml"]
    assert not is_quiet()
    monkeypatch.setenv("CV_LIGHTNING_QUIET", "")  # so that the flag's change is undone after the test
    assert take_flag(["fit", "--quiet", "--config", "a.yaml"]) == ["fit", "--config", "a.yaml"]
    trainer_with(tmp_path, StageProgress("demo", every_seconds=0.0)).fit(Module(), data())
    assert not lines_of(capsys)


def test_time_left_follows_the_recent_pace_and_ignores_what_was_done_before() -> None:
    meter = Meter("x", "steps", 1000, 500, now=0.0)
    assert meter.left_s() is None
    meter.update(501, 100.0)  # a slow first step
    assert meter.left_s() == pytest.approx(499 * 100)
    for n in range(2, 31):
        meter.update(500 + n, 100.0 + 2 * n)
    assert meter.left_s() == pytest.approx(470 * 2)


@given(st.integers(0, 10**6))
def test_clock_reads_back(seconds: int) -> None:
    total = 0
    for part in clock(seconds).split(":"):
        total = 60 * total + int(part)
    assert total == seconds
    assert clock(59.6) == "1:00"


def test_words_keep_order_and_leave_out_what_is_missing() -> None:
    assert words({"b": torch.tensor(0.12345), "a": 2}, ("a", "c", "b")) == "a 2  b 0.123"
    speed = {"throughput/rollout_tokens_per_s": 12345.6, "d": float("inf")}
    assert words(speed, (*speed, "e")) == "sampled tokens/s 12,346  d inf"
