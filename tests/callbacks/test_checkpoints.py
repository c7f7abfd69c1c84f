"""An interrupted run continues as if it had not been interrupted."""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything

from callbacks import checkpoints
from callbacks.checkpoints import LastCheckpoint
from cv_lightning.cli import checkpoints as whole_checkpoint
from cv_lightning.cli.interrupt import CheckpointOnInterrupt, resume_checkpoint
from cv_lightning.errors import ConfigError, TrainingError

N_STEPS = 7


class Stream:
    """Endless data that saves its position."""

    def __init__(self) -> None:
        self.next = 0

    def __len__(self) -> int:
        return 10**6

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            self.next += 1
            yield torch.full((2, 3), float(self.next))

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


class Module(LightningModule):
    """Manual optimization with momentum, two optimizer steps per batch; each step depends on the whole state."""

    def __init__(self, before_step: Callable[[int], None] | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = torch.nn.Linear(3, 1)
        self.before_step = before_step
        self.seen: list[tuple[int, float, float]] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        if self.before_step is not None:
            self.before_step(batch_idx)
        draw = float(torch.rand(())) + random.random() + float(np.random.rand())
        self.seen.append((batch_idx, float(batch[0, 0]), draw))
        optimizer: Any = self.optimizers()
        for _ in range(2):
            optimizer.zero_grad()
            self.manual_backward((draw * self.layer(batch / 10)).square().mean())
            optimizer.step()
        self.log("train/batch", float(batch_idx))
        self.lr_schedulers().step()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


def fit(
    folder: Path, module: Module, *callbacks: Any, checkpoint: Path | None = None, steps: int = 2 * N_STEPS
) -> Module:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )
    trainer.fit(module, Stream(), ckpt_path=None if checkpoint is None else str(checkpoint))
    return module


@pytest.fixture
def straight(tmp_path: Path) -> Module:
    """An uninterrupted run."""
    seed_everything(3, verbose=False)
    return fit(tmp_path / "straight", Module(), LastCheckpoint())


def assert_goes_on_like(straight: Module, cut: Module, resumed: Module) -> None:
    first = resumed.seen[0][0]
    assert first > 0
    assert cut.seen[:first] + resumed.seen == straight.seen
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_that_resumes_exactly(
    straight: Module, tmp_path: Path, signal_number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    seed_everything(3, verbose=False)
    cut = Module(lambda step: os.kill(os.getpid(), signal_number) if step == 2 else None)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as exit_:
            fit(tmp_path, cut, LastCheckpoint(), CheckpointOnInterrupt())
    finally:
        signal.signal(signal.SIGINT, handler)
    path = resume_checkpoint(tmp_path)
    assert path == tmp_path / "checkpoints" / "last.ckpt"
    if signal_number == signal.SIGTERM:
        assert exit_.value.code == 143
        assert f"--ckpt_path {path}" in capsys.readouterr().err
    assert len(cut.seen) == 3, "the step that was under way is finished, no other begun"
    random.seed(9)
    resumed = fit(tmp_path, Module(), LastCheckpoint(), checkpoint=path)
    assert_goes_on_like(straight, cut, resumed)


def test_a_crash_between_saves_goes_on_from_the_last_one(straight: Module, tmp_path: Path) -> None:
    def crash(step: int) -> None:
        if step == 5:
            raise RuntimeError("out of memory")

    seed_everything(3, verbose=False)
    cut = Module(crash)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path, cut, LastCheckpoint(every_seconds=0, every_steps=4))
    resumed = fit(tmp_path, Module(), LastCheckpoint(), checkpoint=tmp_path / "checkpoints" / "last.ckpt")
    assert resumed.seen[0][0] == 4, "4 batches of two steps: the second save"
    assert_goes_on_like(straight, cut, resumed)


@pytest.mark.parametrize(
    ("intervals", "saved"),
    [
        ({"every_seconds": 0.0}, [14]),
        ({"every_seconds": 0.0, "every_steps": 3}, [4, 6, 10, 12, 14]),
        ({"every_seconds": 1e-9}, [2, 4, 6, 8, 10, 12, 14]),
        ({"every_seconds": 1e9}, [14]),
    ],
)
def test_saves_when_due_and_at_the_end(
    tmp_path: Path, intervals: dict[str, Any], saved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_LARGEST_SHARE", float("inf"))
    steps = []

    class Recorded(LastCheckpoint):
        def save(self, trainer: Trainer, in_background: bool = False) -> None:
            super().save(trainer, in_background)
            steps.append(trainer.global_step)
            assert torch.load(self.path(trainer), weights_only=True)["global_step"] == trainer.global_step

    fit(tmp_path, Module(), Recorded(**intervals))
    assert steps == saved
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_save_that_fails_leaves_the_old_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "given"
    fit(tmp_path, Module(), LastCheckpoint(folder), steps=4)
    before = (folder / "last.ckpt").read_bytes()

    def cut_off(self: Trainer, path: Path, weights_only: bool) -> None:
        Path(path).write_bytes(before[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(Trainer, "save_checkpoint", cut_off)
    with pytest.raises(TrainingError, match=r"of step 8 cannot be written \(no space.*previous checkpoint is intact"):
        fit(tmp_path, Module(), LastCheckpoint(folder), steps=8)
    assert (folder / "last.ckpt").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
    assert resume_checkpoint(tmp_path) is None
    monkeypatch.undo()
    resumed = fit(tmp_path, Module(), LastCheckpoint(folder), checkpoint=folder / "last.ckpt", steps=8)
    assert [step for step, _, _ in resumed.seen] == [2, 3]


def test_a_checkpoint_that_is_a_folder_is_replaced(tmp_path: Path) -> None:
    for content in ("first", "second"):
        new = tmp_path / f"last.ckpt.{content}"
        new.mkdir()
        (new / content).touch()
        whole_checkpoint._put_in_place(new, tmp_path / "last.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "last.ckpt.second"]
    assert [path.name for path in (tmp_path / "last.ckpt").iterdir()] == ["second"]


def test_saves_that_take_long_are_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that takes 3 s is 2 % of 150 s, so the next save is due after 150 s."""
    callback, now = LastCheckpoint(every_seconds=60.0), 1000.0
    callback._took_s, callback._saved_at_s = 3.0, now
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    due = []
    for now in (1061.0, 1149.0, 1151.0):  # noqa: B007  # the clock reads it
        due.append(callback._is_due(1))
    assert due == [False, False, True]


def test_a_negative_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match="every_steps: expected 0"):
        LastCheckpoint(every_steps=-1)


def test_a_disk_that_is_full_for_a_while_costs_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, n_saves = Trainer.save_checkpoint, 0

    def is_full_twice(self: Trainer, path: Path, weights_only: bool) -> None:
        nonlocal n_saves
        n_saves += 1
        if n_saves in (2, 3):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, path, weights_only=weights_only)

    monkeypatch.setattr(Trainer, "save_checkpoint", is_full_twice)
    with pytest.warns(UserWarning, match=r"of step 8 cannot be written \(No space left.*is intact"):
        module = fit(tmp_path, Module(), LastCheckpoint(every_seconds=0, every_steps=4))
    assert [batch for batch, *_ in module.seen] == list(range(N_STEPS))
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2 * N_STEPS, "there was room again at the end"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
