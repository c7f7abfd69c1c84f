"""Batches: fast, balanced in evaluation, exact after a resume, shared out among processes."""

from __future__ import annotations

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
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from cv_lightning.data.datamodules import EVALUATED, BatchStream, EpisodeDataModule, EvaluationSet, PromptDataModule
from cv_lightning.data.oracle import EpisodeBuilder
from cv_lightning.data.source import SampleSource, Split
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.errors import ConfigError, DataError
from cv_lightning.types import Sample, Trajectory

WORLD = PlateWorld(seed=2)


class Recorder(LightningModule):
    """Learns nothing and keeps what it was shown."""

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
        return batch  # as the modules do: samples stay on the host

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Interruption(Callback):
    """Ends a run in the middle, as Ctrl-C does after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step


def data(kind: str) -> LightningDataModule:
    if kind == "prompts":
        return PromptDataModule(WORLD, batch_size=3, n_validation_per_orientation=1, eval_batch_size=4)
    return EpisodeDataModule(EpisodeBuilder(WORLD), batch_size=3, n_validation_per_orientation=1, eval_batch_size=4)


def fit(kind: str, folder: Path, max_steps: int, *, ckpt_path: str | None = None, **changes: Any) -> Recorder:
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
    trainer.fit(recorder, datamodule=data(kind), ckpt_path=ckpt_path)
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
    assert len({identity for batch in whole.batches for identity in batch}) == 21


def test_a_resume_is_exact_with_validation_in_between(tmp_path: Path) -> None:
    checks = {"val_check_interval": 2, "check_val_every_n_epoch": None}
    whole = fit("prompts", tmp_path / "whole", 6, **checks)
    callbacks = [ModelCheckpoint(tmp_path / "part", save_last=True, every_n_train_steps=1), Interruption(3)]
    first = fit("prompts", tmp_path / "part", 6, callbacks=callbacks, **checks)
    rest = fit("prompts", tmp_path / "part", 6, ckpt_path=str(tmp_path / "part" / "last.ckpt"), **checks)
    assert first.batches + rest.batches == whole.batches


class Notes(Recorder):
    """Writes what each process was shown to a file."""

    def __init__(self, folder: str, name: str) -> None:
        super().__init__()
        self.folder, self.name = folder, name

    def on_train_end(self) -> None:
        path = Path(self.folder) / f"{self.name}-{self.global_rank}.json"
        path.write_text(json.dumps(self.batches))


def _fit_on_two(folder: Path, name: str, stop: int, ckpt_path: Path | None = None) -> list[list[list[str]]]:
    """What each of two processes was shown; a run that stops at 6 of 6 steps is a whole one."""
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
    seen = [identity for share in whole for batch in share for identity in batch]
    assert len(seen) == len(set(seen)) == 36
    first = _fit_on_two(tmp_path, "first", 2)
    rest = _fit_on_two(tmp_path, "rest", 6, tmp_path / "first" / "last.ckpt")
    assert [before + after for before, after in zip(first, rest, strict=True)] == whole


@given(
    batch_size=st.integers(1, 5),
    world_size=st.integers(1, 4),
    first_index=st.integers(0, 10**6),
    empty=st.sets(st.integers(0, 60)),
)
def test_processes_share_the_indices_out_and_go_on_from_one_state(
    batch_size: int, world_size: int, first_index: int, empty: set[int]
) -> None:
    def make(index: int) -> int | None:
        return None if index - first_index in empty else index

    def streams() -> list[BatchStream[int]]:
        return [BatchStream(make, batch_size, first_index, rank, world_size) for rank in range(world_size)]

    whole = [[next(iterator) for iterator in map(iter, streams())]]
    running = streams()
    iterators = [iter(stream) for stream in running]
    before = [[next(iterator) for iterator in iterators] for _ in range(3)]
    assert before[0] == whole[0]
    seen = [index for step in before for batch in step for index in batch]
    assert len(set(seen)) == len(seen) == 3 * world_size * batch_size, "no index twice"
    plain = {index for index in seen if index < first_index + 10**6}
    expected = {first_index + offset for offset in range(len(seen)) if offset not in empty}
    assert plain == expected, "every index that gives something is used"

    state = running[0].state_dict()  # Lightning stores the state of process 0 only
    after = [next(iterator) for iterator in iterators]
    resumed = streams()
    for stream in resumed:
        stream.load_state_dict(state)
    assert [next(iter(stream)) for stream in resumed] == after


def test_a_source_that_gives_nothing_is_named_and_does_not_hang() -> None:
    stream: BatchStream[int] = BatchStream(lambda index: None, 2, 40)
    with pytest.raises(DataError, match=r"Index 40 .*Look at the source"):
        next(iter(stream))


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
    assert Counter(sample.transforms for sample in samples) == dict.fromkeys(EVALUATED, 4)
    assert len(EVALUATED) == 6
    assert {sample.id for sample in samples} == {f"plates-2-{split}-{index}" for index in range(4)}
    again = module.val_dataloader() if split == "validation" else module.test_dataloader()
    assert [s.images[0].tobytes() for b in again for s in b] == [s.images[0].tobytes() for s in samples]


def test_the_default_test_has_300_plates_in_each_orientation() -> None:
    assert len(PromptDataModule(WORLD).test_dataloader().dataset) == 1800  # type: ignore[arg-type]


class Three(SampleSource):
    """A source of three rows in training and none to test."""

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
    with pytest.raises(ConfigError, match="no test samples"):
        PromptDataModule(Three()).predict_dataloader()


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


def test_batches_before_setup_say_what_to_call() -> None:
    module = EpisodeDataModule(EpisodeBuilder(WORLD))
    with pytest.raises(ValueError, match=r"setup\('fit'\)"):
        next(iter(module.train_dataloader()))
    module.setup("fit")
    module.teardown("fit")
    module.teardown("fit")


def test_a_batch_of_two_turn_episodes_leaves_the_cores_to_the_trainer(episodes: EpisodeDataModule) -> None:
    batches = iter(episodes.train_dataloader())
    next(batches)
    seconds = []
    for _ in range(9):
        start = time.process_time()
        next(batches)
        seconds.append(time.process_time() - start)
    # About 0.025 s of processor time on the machine where it was written; the bound leaves room for a slower one.
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
