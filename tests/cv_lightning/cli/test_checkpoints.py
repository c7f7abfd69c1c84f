"""A checkpoint is replaced as a whole, both as a file and as a link to a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cv_lightning.cli.checkpoints import finish_saving, is_saving, refuse_other_model, save_whole
from cv_lightning.errors import CheckpointError, TrainingError


class Strategy:
    """A strategy of one process."""

    def barrier(self, name: str) -> None:
        pass


class Sharded(Strategy):
    """A strategy that writes checkpoints as folders, in the background if asked."""

    def __init__(self) -> None:
        self.then: Callable[[], None] | None = None
        self.fault: OSError | None = None

    @property
    def is_writing(self) -> bool:
        return self.then is not None

    @contextmanager
    def in_background(self, then: Callable[[], None]) -> Iterator[None]:
        yield
        self.then = then

    def finish_writing(self) -> None:
        then, self.then = self.then, None
        if self.fault is not None:
            raise self.fault
        if then is not None:
            then()


class Saver:
    """The part of a Trainer that saving a checkpoint needs."""

    is_global_zero, world_size = True, 1

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.global_step = 0
        self.fault: OSError | None = None

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        if isinstance(self.strategy, Sharded):
            path.mkdir()
            path = path / "part"
        path.write_text(str(self.global_step), encoding="utf-8")
        if self.fault is not None:
            raise self.fault


def save(saver: Any, path: Path, step: int, **how: bool) -> None:
    saver.global_step = step
    save_whole(saver, path, **how)


FULL = OSError(28, "No space left on device")


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path, saver = tmp_path / "last.ckpt", Saver(Strategy())
    for step in (1, 2):
        save(saver, path, step)
        assert path.read_text(encoding="utf-8") == str(step)
        assert [*tmp_path.iterdir()] == [path]


def test_a_disk_that_is_full_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    path, saver = tmp_path / "last.ckpt", Saver(Strategy())
    saver.fault = FULL
    with pytest.raises(
        TrainingError, match=r"step 1 cannot be written \(No space left.*There is no earlier checkpoint"
    ):
        save(saver, path, 1)
    assert not [*tmp_path.iterdir()]
    saver.fault = None
    save(saver, path, 2)
    saver.fault = FULL
    with pytest.raises(TrainingError, match="previous checkpoint is intact"):
        save(saver, path, 3)
    assert path.read_text(encoding="utf-8") == "2"
    assert [*tmp_path.iterdir()] == [path]


def test_one_of_several_processes_that_cannot_write_ends_the_run(tmp_path: Path) -> None:
    saver = Saver(Strategy())
    saver.fault, saver.world_size = FULL, 2
    with pytest.raises(OSError, match="No space left"):
        save(saver, tmp_path / "last.ckpt", 1)


def test_a_folder_is_replaced_by_a_link_and_the_old_one_goes(tmp_path: Path) -> None:
    path, saver = tmp_path / "last.ckpt", Saver(Sharded())
    for step in (1, 2, 2):
        save(saver, path, step)
        assert path.is_symlink()
        assert (path / "part").read_text(encoding="utf-8") == str(step)
        assert len([*tmp_path.iterdir()]) == 2, "the link and its folder"


def test_a_folder_of_a_version_without_links_is_replaced_too(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.mkdir()
    (path / "part").write_text("old", encoding="utf-8")
    save(Saver(Sharded()), path, 5)
    assert path.is_symlink()
    assert (path / "part").read_text(encoding="utf-8") == "5"
    assert len([*tmp_path.iterdir()]) == 2


def test_a_save_that_was_cut_off_is_removed_by_the_next_one(tmp_path: Path) -> None:
    path, saver = tmp_path / "last.ckpt", Saver(Sharded())
    save(saver, path, 1)
    (tmp_path / "last.ckpt.step-2").mkdir()
    save(saver, path, 3)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["last.ckpt", "last.ckpt.step-3"]


def test_what_is_written_in_the_background_counts_when_it_is_whole(tmp_path: Path) -> None:
    strategy = Sharded()
    path, saver = tmp_path / "last.ckpt", Saver(strategy)
    trainer: Any = saver
    save(saver, path, 1)
    assert not is_saving(trainer)
    save(saver, path, 2, in_background=True)
    assert is_saving(trainer)
    assert (path / "part").read_text(encoding="utf-8") == "1"
    finish_saving(trainer, path)
    assert (path / "part").read_text(encoding="utf-8") == "2"
    save(saver, path, 3, in_background=True)
    strategy.fault = FULL
    with pytest.raises(TrainingError, match="previous checkpoint is intact"):
        finish_saving(trainer, path)
    assert (path / "part").read_text(encoding="utf-8") == "2"


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"a": (2,), "b": (4,)}, r"b is \(4,\) in the checkpoint, \(3,\)"),
        ({"a": (2,)}, "b is missing in the checkpoint"),
    ],
)
def test_the_first_tensor_that_differs_is_named(stored: dict[str, tuple[int, ...]], words: str) -> None:
    own = {"a": (2,), "b": (3,)}
    with pytest.raises(CheckpointError, match=words):
        refuse_other_model(stored, own)
    with pytest.raises(CheckpointError, match="missing in the policy"):
        refuse_other_model({**own, "c": (1,)}, own)
    refuse_other_model(dict(own), own)
