"""Batches are fast, balanced in evaluation, exact after a resume, and divided among processes."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from cv_lightning.data.datamodules import EpisodeDataModule, EvaluationSet, PromptDataModule
from cv_lightning.data.oracle import EpisodeBuilder
from cv_lightning.data.source import SampleSource, Split
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.errors import ConfigError, ConversationError
from cv_lightning.types import Sample, Trajectory

WORLD = PlateWorld(seed=2)


class Recorder(LightningModule):
    """Learns nothing and records the samples of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[list[str]] = []

    def training_step(self, batch: list[Sample] | list[Trajectory], batch_idx: int) -> None:
        samples = [item.sample if isinstance(item, Trajectory) else item for item in batch]
        self.batches.append([f"{sample.id} {sample.transforms}" for sample in samples])
        self.optimizers().step()  # type: ignore[union-attr]

    def validation_step(self, batch: list[Sample], batch_idx: int) -> None:
        assert all(sample.id.startswith("plates-2-validation-") for sample in batch)

    def test_step(self, batch: list[Sample], batch_idx: int) -> None:
        self.batches.append([f"{sample.id} {sample.transforms}" for sample in batch])

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # samples stay on the host, as in the real modules

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Interruption(Callback):
    """Ends a run in the middle, as Ctrl-C does after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step


SIZES: dict[str, Any] = {"batch_size": 3, "n_validation_per_orientation": 1, "eval_batch_size": 4}


def data(kind: str, n_workers: int = 0) -> LightningDataModule:
    if kind == "prompts":
        return PromptDataModule(WORLD, **SIZES, n_workers=n_workers)
    return EpisodeDataModule(EpisodeBuilder(WORLD), **SIZES, n_workers=n_workers)


def fit(
    kind: str, folder: Path, max_steps: int, *, ckpt_path: str | None = None, n_workers: int = 0, **changes: Any
) -> Recorder:
    recorder = Recorder()
    arguments: dict[str, Any] = {"callbacks": [ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)]}
    arguments |= changes
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        max_steps=max_steps,
        max_epochs=-1,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **arguments,
    )
    trainer.fit(recorder, datamodule=data(kind, n_workers), ckpt_path=ckpt_path)
    return recorder


@pytest.mark.parametrize("kind", ["prompts", "episodes"])
def test_a_resumed_run_sees_exactly_what_the_whole_run_sees(kind: str, tmp_path: Path) -> None:
    quiet = {"num_sanity_val_steps": 0, "limit_val_batches": 0}
    whole = fit(kind, tmp_path / "whole", 7, **quiet)
    assert len(whole.batches) == 7
    callbacks = [ModelCheckpoint(tmp_path / "part", save_last=True, every_n_train_steps=1), Interruption(3)]
    first = fit(kind, tmp_path / "part", 7, callbacks=callbacks, **quiet)
    assert len(first.batches) == 3
    rest = fit(kind, tmp_path / "part", 7, ckpt_path=str(tmp_path / "part" / "last.ckpt"), **quiet)
    assert first.batches + rest.batches == whole.batches
    ahead = fit(kind, tmp_path / "ahead", 3, n_workers=2, **quiet)
    rest = fit(kind, tmp_path / "ahead", 7, ckpt_path=str(tmp_path / "ahead" / "last.ckpt"), n_workers=1, **quiet)
    assert ahead.batches + rest.batches == whole.batches, "workers are ahead, the stored position is not"
    assert len({identity for batch in whole.batches for identity in batch}) == 21


def test_a_resume_is_exact_with_validation_in_between(tmp_path: Path) -> None:
    checks = {"val_check_interval": 2, "check_val_every_n_epoch": None}
    whole = fit("prompts", tmp_path / "whole", 6, **checks)
    callbacks = [ModelCheckpoint(tmp_path / "part", save_last=True, every_n_train_steps=1), Interruption(3)]
    first = fit("prompts", tmp_path / "part", 6, callbacks=callbacks, **checks)
    rest = fit("prompts", tmp_path / "part", 6, ckpt_path=str(tmp_path / "part" / "last.ckpt"), **checks)
    assert first.batches + rest.batches == whole.batches


class Choosy(Recorder):
    """Cannot use upright images; prepares the others."""

    def prepare_row(self, row: Any) -> Any:
        if not (row.sample if isinstance(row, Trajectory) else row).transforms:
            raise ConversationError("an upright image")
        return row


@pytest.mark.parametrize("n_workers", [0, 1])
@pytest.mark.parametrize("kind", ["prompts", "episodes"])
def test_rows_that_the_policy_cannot_use_are_left_out(kind: str, n_workers: int) -> None:
    module = data(kind, n_workers)
    module.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    module.trainer.strategy.connect(Choosy())
    stream = module.train_dataloader()
    with pytest.warns(UserWarning, match="Left out a row. PlateWorld: an upright image"):
        batches = list(itertools.islice(stream, 4))
    samples = [row.sample if isinstance(row, Trajectory) else row for batch in batches for row in batch]
    assert len(samples) == 12
    assert all(sample.transforms for sample in samples)
    module.teardown("fit")


class Notes(Recorder):
    """Writes the samples of each process to a file; leaves out the last of the six rows of a step."""

    def __init__(self, folder: str, name: str) -> None:
        super().__init__()
        self.folder, self.name = folder, name

    def on_train_end(self) -> None:
        path = Path(self.folder) / f"{self.name}-{self.global_rank}.json"
        left_out: Any = self.trainer.train_dataloader
        path.write_text(json.dumps([self.batches, [*left_out.left_out]]))

    def prepare_row(self, row: Sample) -> Sample:
        if int(row.id.rpartition("-")[2]) % 6 == 5:
            raise ConversationError(f"{row.id}: one in six")
        return row


def _fit_on_two(folder: Path, name: str, stop: int, ckpt_path: Path | None = None) -> list[Any]:
    """The batches and the left-out rows of each of two processes; a complete run has `stop` 6."""
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        logger=False,
        max_steps=6,
        max_epochs=-1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[ModelCheckpoint(folder / name, save_last=True, every_n_train_steps=1), Interruption(stop)],
    )
    trainer.fit(Notes(str(folder), name), datamodule=data("prompts"), ckpt_path=ckpt_path)
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="ddp_fork needs fork")
def test_two_processes_resume_each_with_its_own_share(tmp_path: Path) -> None:
    whole = _fit_on_two(tmp_path, "whole", 6)
    seen = {identity for share, _ in whole for batch in share for identity in batch}
    assert sum(len(batch) for share, _ in whole for batch in share) == 36
    assert len(seen) == 31, "the next row of the process takes the place of one that was left out"
    assert [len(left_out) for _, left_out in whole] == [0, 6]
    first = _fit_on_two(tmp_path, "first", 2)
    rest = _fit_on_two(tmp_path, "rest", 6, tmp_path / "first" / "last.ckpt")
    assert [before + after for (before, _), (after, _) in zip(first, rest, strict=True)] == [row for row, _ in whole]
    assert [left_out for _, left_out in rest] == [left_out for _, left_out in whole], "counted on, on each process"


@pytest.mark.parametrize("kind", ["prompts", "episodes"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_is_balanced_paired_and_held_out(kind: str, split: Literal["validation", "test"]) -> None:
    sizes = {"n_validation_per_orientation": 4, "n_test_per_orientation": 4}
    module = (
        PromptDataModule(WORLD, eval_batch_size=5, **sizes)
        if kind == "prompts"
        else EpisodeDataModule(EpisodeBuilder(WORLD), eval_batch_size=5, **sizes)
    )
    loader = module.val_dataloader() if split == "validation" else module.test_dataloader()
    batches = list(loader)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 4]
    samples = [sample for batch in batches for sample in batch]
    assert all(isinstance(sample, Sample) for sample in samples)
    assert Counter(sample.transforms for sample in samples) == dict.fromkeys(SampleSource.conditions, 4)
    assert len(SampleSource.conditions) == 6
    assert {sample.id for sample in samples} == {f"plates-2-{split}-{index}" for index in range(4)}
    again = module.val_dataloader() if split == "validation" else module.test_dataloader()
    assert [s.images[0].tobytes() for b in again for s in b] == [s.images[0].tobytes() for s in samples]


def test_the_default_test_has_300_plates_in_each_orientation() -> None:
    assert len(PromptDataModule(WORLD).test_dataloader().dataset) == 1800  # type: ignore[arg-type]


class Three(SampleSource):
    """A source of three training and three validation rows, without test rows."""

    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        return WORLD.sample(split, index % 3, transforms)

    def size(self, split: Split) -> int:
        return 0 if split == "test" else 3


def test_evaluation_counts_no_row_twice() -> None:
    dataset = EvaluationSet(Three(), "validation", 300)
    samples = [dataset[index] for index in range(len(dataset))]
    assert len(samples) == 18
    assert len({(sample.id, sample.transforms) for sample in samples}) == 18


@pytest.mark.parametrize("index", [-1, 18, 10**6])
def test_evaluation_ends(index: int) -> None:
    with pytest.raises(IndexError, match="18"):
        EvaluationSet(Three(), "validation", 3)[index]


def test_a_test_of_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="Three has no test samples"):
        PromptDataModule(Three()).test_dataloader()


def test_the_trainer_tests_on_every_sample_once(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    trainer.test(
        recorder, datamodule=PromptDataModule(WORLD, n_test_per_orientation=3, eval_batch_size=7), verbose=False
    )
    seen = [identity for batch in recorder.batches for identity in batch]
    assert len(seen) == len(set(seen)) == 18


def test_stages_that_start_far_apart_share_no_plate() -> None:
    first, second = (
        {sample.id for sample in next(iter(PromptDataModule(WORLD, 8, first_index=start).train_dataloader()))}
        for start in (0, 1_000_000)
    )
    assert not first & second


@pytest.fixture
def episodes() -> Iterator[EpisodeDataModule]:
    module = EpisodeDataModule(EpisodeBuilder(WORLD, mix={"turn": 1.0}), batch_size=64)
    module.setup("fit")
    yield module
    module.teardown("fit")


def test_training_batches_hold_episodes_of_their_own(episodes: EpisodeDataModule) -> None:
    batches = iter(episodes.train_dataloader())
    first, second = next(batches), next(batches)
    assert len(first) == len(second) == 64
    assert all(isinstance(item, Trajectory) for item in first)
    assert not {item.sample.id for item in first} & {item.sample.id for item in second}


def test_a_data_module_is_closed_twice_without_harm(episodes: EpisodeDataModule) -> None:
    next(iter(episodes.train_dataloader()))
    episodes.teardown("fit")
    episodes.teardown("fit")
    assert next(iter(episodes.train_dataloader())), "it opens again"


def test_a_batch_of_two_turn_episodes_leaves_the_cores_to_the_trainer(episodes: EpisodeDataModule) -> None:
    batches = iter(episodes.train_dataloader())
    next(batches)
    seconds = []
    for _ in range(9):
        start = time.process_time()
        next(batches)
        seconds.append(time.process_time() - start)
    # About 0.025 s of CPU time on the author's machine; the bound leaves room for slower machines.
    assert statistics.median(seconds) < 0.25


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"eval_batch_size": 0},
        {"n_test_per_orientation": -1},
        {"n_validation_per_orientation": -1},
        {"first_index": -5},
    ],
)
def test_sizes_that_cannot_be_name_the_argument(arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        PromptDataModule(WORLD, **arguments)


def test_a_config_of_plain_values_builds_the_modules(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "rows.jsonl").write_text('{"question": "?", "images": "a.png", "answer": 1}\n')
    world = {
        "class_path": "cv_lightning.data.PlateWorld",
        "init_args": {"seed": 4, "weights": {"none": 1.0}},
    }
    rows = {"class_path": "cv_lightning.data.FileSource", "init_args": {"train": str(tmp_path / "rows.jsonl")}}
    parser = ArgumentParser(parser_mode="omegaconf")
    parser.add_subclass_arguments(LightningDataModule, "data")
    for source in (world, rows):
        config = {"class_path": "cv_lightning.data.PromptDataModule", "init_args": {"source": source}}
        built = parser.instantiate_classes(parser.parse_object({"data": config})).data
        assert isinstance(built, PromptDataModule)
        assert type(built.source).__name__ == source["class_path"].rpartition(".")[2]
        builder = {"class_path": "cv_lightning.data.EpisodeBuilder", "init_args": {"source": source}}
        builder["init_args"] |= {"mix": {"read": 1.0}, "n_wordings": 1}
        config = {"class_path": "cv_lightning.data.EpisodeDataModule", "init_args": {"builder": builder}}
        built = parser.instantiate_classes(parser.parse_object({"data": config})).data
        assert isinstance(built, EpisodeDataModule)
        assert built.builder.mix == {"read": 1.0}
