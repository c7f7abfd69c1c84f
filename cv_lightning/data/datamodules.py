"""Data modules: endless training batches by index, and balanced evaluation over the six orientations."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from cv_lightning.data.oracle import EpisodeBuilder
from cv_lightning.data.source import SampleSource, Split
from cv_lightning.data.sources.episodes import RecordedEpisodes
from cv_lightning.data.strategy_oracle import StrategyEpisodes
from cv_lightning.data.stream import BatchStream, check_workers
from cv_lightning.errors import ConfigError, ConversationError, DataError, RowError
from cv_lightning.types import Sample, Trajectory
from sandbox import ToolExecutor

Item = TypeVar("Item")


class EvaluationSet(Dataset[Sample]):
    """Held-out samples, each under every condition of its source, so that drops against upright are paired."""

    def __init__(self, source: SampleSource, split: Split, n_per_orientation: int) -> None:
        self._source = source
        self._split: Split = split
        size = source.size(split)
        self._n = n_per_orientation if size is None else min(n_per_orientation, size)

    def __len__(self) -> int:
        return self._n * len(self._source.conditions)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0 <= index < {len(self)}, got {index}")
        number, place = divmod(index, len(self._source.conditions))
        return self._source.sample(self._split, number, self._source.conditions[place])


class PromptDataModule(LightningDataModule):
    """RL: batches of samples.

    Args:
        source: The source of the samples.
        batch_size: Prompts of a training batch, per process.
        eval_batch_size: Samples of an evaluation batch.
        n_validation_per_orientation: Number of validation samples in each of the six orientations, or under each
            condition of the source if it has other conditions.
        n_test_per_orientation: Number of test samples per orientation or condition.
        first_index: Training index to start from; stages that share a source should start far apart.
        n_workers: Processes that prepare training batches in advance: they decode images and encode conversations.
            0 prepares them between the steps, which is faster if the cores are busy and batches are cheap.
    """

    def __init__(
        self,
        source: SampleSource,
        batch_size: int = 64,
        eval_batch_size: int = 120,
        n_validation_per_orientation: int = 20,
        n_test_per_orientation: int = 300,
        first_index: int = 0,
        n_workers: int = 0,
    ) -> None:
        super().__init__()
        check_workers(n_workers)
        if min(batch_size, eval_batch_size) < 1:
            raise ConfigError(
                f"batch_size and eval_batch_size: expected at least 1, got {batch_size}, {eval_batch_size}"
            )
        if min(n_validation_per_orientation, n_test_per_orientation, first_index) < 0:
            raise ConfigError(
                "n_validation_per_orientation, n_test_per_orientation, first_index: expected at least 0, got "
                f"{n_validation_per_orientation}, {n_test_per_orientation}, {first_index}"
            )
        self.source = source
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.n_per_orientation: dict[Split, int] = {
            "validation": n_validation_per_orientation,
            "test": n_test_per_orientation,
        }
        self.first_index = first_index
        self.n_workers = n_workers

    def _stream(self, make: Callable[[int], Item | None], n_rows: int | None) -> BatchStream[Item]:
        """Batches of the items of `make`, prepared by the module; items that it cannot learn from raise `RowError`."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        prepare = getattr(self.trainer and self.trainer.lightning_module, "prepare_row", None)

        def prepared(index: int) -> Item | None:
            item = make(index)
            if item is None or prepare is None:
                return item
            try:
                ready: Item = prepare(item)
            except (ConversationError, DataError) as error:
                sample = item.sample if isinstance(item, Trajectory) else item
                raise RowError(f"{getattr(sample, 'source', '')}: {error}") from error
            return ready

        return BatchStream(prepared, self.batch_size, self.first_index, rank, world_size, self.n_workers, n_rows or 0)

    def _evaluation(self, split: Split) -> DataLoader[Sample]:
        samples = EvaluationSet(self.source, split, self.n_per_orientation[split])
        return DataLoader(samples, batch_size=self.eval_batch_size, collate_fn=list)

    def train_dataloader(self) -> Any:
        """Endless batches of samples."""
        return self._stream(lambda index: self.source.exactly("train", index), self.source.size("train"))

    def val_dataloader(self) -> DataLoader[Sample]:
        """Batches of held-out validation samples."""
        return self._evaluation("validation")

    def test_dataloader(self) -> DataLoader[Sample]:
        """Batches of held-out test samples.

        Raises:
            ConfigError: The source has no test samples; a test without samples would go unnoticed.
        """
        if self.source.size("test") == 0:
            raise ConfigError(f"{type(self.source).__name__} has no test samples. Give it a file for the test split.")
        return self._evaluation("test")


class EpisodeDataModule(PromptDataModule):
    """SFT: batches of recorded trajectories for training, of samples for evaluation.

    Args:
        builder: Writes the episodes, or reads recorded episodes; its source also gives the samples of evaluations.
        **sizes: Arguments of `PromptDataModule`; a training batch holds trajectories.
    """

    def __init__(self, builder: EpisodeBuilder | StrategyEpisodes | RecordedEpisodes, **sizes: Any) -> None:
        super().__init__(builder.source, **sizes)
        self.builder = builder
        self._executors: dict[int, ToolExecutor] = {}

    def teardown(self, stage: str) -> None:
        """Close the executor that ran the oracle's code in this process; executors of workers end with the workers."""
        executor = self._executors.pop(os.getpid(), None)
        if executor is not None:
            executor.close()

    def train_dataloader(self) -> Any:
        """Endless batches of trajectories."""
        return self._stream(self._episode, self.builder.size("train"))

    def _episode(self, index: int) -> Trajectory | None:
        return self.builder.episode("train", index, self._executor())

    def _executor(self) -> ToolExecutor:
        """The executor of this process: each worker is a fork and needs its own, because pipes cannot be shared."""
        process = os.getpid()
        if process not in self._executors:
            self._executors[process] = ToolExecutor(lane="pillow")
        return self._executors[process]
