"""Data modules: endless training batches by index, balanced evaluation over the six orientations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from cv_lightning.data.oracle import EpisodeBuilder
from cv_lightning.data.source import ORIENTATION_WEIGHTS, SampleSource, Split
from cv_lightning.data.sources.episodes import RecordedEpisodes
from cv_lightning.errors import ConfigError, DataError
from cv_lightning.types import Sample, Trajectory
from sandbox import ToolExecutor

Item = TypeVar("Item")

#: Transforms of the images of an evaluation, in the order of the report.
EVALUATED = tuple(() if name == "none" else (name,) for name in ORIENTATION_WEIGHTS)

#: An index that gives nothing is replaced by one this far on, which no run reaches by counting.
_STRIDE = 2**40
_MAX_ATTEMPTS = 100


class BatchStream(Generic[Item]):
    """Endless batches of consecutive indices with a position (Lightning stores and restores its state).

    The position counts the indices of all processes and moves by the same amount on each, so the one state in a
    checkpoint (of process 0) serves any number of processes.

    Args:
        make: Index -> item, or None if the index gives nothing.
        batch_size: Items of a batch of one process.
        first_index: First index of the stream.
        rank: This process takes every `world_size`-th index, from `rank` on.
        world_size: Number of processes.
    """

    def __init__(
        self,
        make: Callable[[int], Item | None],
        batch_size: int,
        first_index: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._make = make
        self._batch_size = batch_size
        self._next = first_index
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        """More than any run takes: with a length, Lightning does not fetch ahead, and the stored state is exact."""
        return 10**9

    def __iter__(self) -> Iterator[list[Item]]:
        while True:
            start = self._next + self._rank
            self._next += self._batch_size * self._world_size
            yield [self._item(start + offset * self._world_size) for offset in range(self._batch_size)]

    def _item(self, index: int) -> Item:
        for attempt in range(_MAX_ATTEMPTS):
            item = self._make(index + attempt * _STRIDE)
            if item is not None:
                return item
        raise DataError(
            f"Index {index} and {_MAX_ATTEMPTS - 1} others in its place gave no item that checks. Look at the source: "
            "are the recorded transforms of its rows true, and are there rows that need no crop?"
        )

    def state_dict(self) -> dict[str, int]:
        """The index that comes next."""
        return {"next": self._next}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue from a stored index."""
        self._next = state_dict["next"]


class EvaluationSet(Dataset[Sample]):
    """Held-out samples; each in every orientation, so drops against upright are paired."""

    def __init__(self, source: SampleSource, split: Split, n_per_orientation: int) -> None:
        self._source = source
        self._split: Split = split
        size = source.size(split)
        self._n = n_per_orientation if size is None else min(n_per_orientation, size)

    def __len__(self) -> int:
        return self._n * len(EVALUATED)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"Expected 0 <= index < {len(self)} but got {index}")
        return self._source.sample(self._split, index // len(EVALUATED), EVALUATED[index % len(EVALUATED)])


class PromptDataModule(LightningDataModule):
    """RL: batches of samples.

    Args:
        source: The source of the samples.
        batch_size: Prompts of a training batch, per process.
        eval_batch_size: Samples of an evaluation batch.
        n_validation_per_orientation: Validation samples in each of the six orientations.
        n_test_per_orientation: Test samples in each of them.
        first_index: Training index to start from; stages that share a source start far apart.
    """

    def __init__(
        self,
        source: SampleSource,
        batch_size: int = 64,
        eval_batch_size: int = 120,
        n_validation_per_orientation: int = 20,
        n_test_per_orientation: int = 300,
        first_index: int = 0,
    ) -> None:
        super().__init__()
        if min(batch_size, eval_batch_size) < 1:
            raise ConfigError(
                f"batch_size and eval_batch_size: expected at least 1 but got {batch_size}, {eval_batch_size}"
            )
        if min(n_validation_per_orientation, n_test_per_orientation, first_index) < 0:
            raise ConfigError(
                "n_validation_per_orientation, n_test_per_orientation, first_index: expected at least 0 but got "
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

    def _stream(self, make: Callable[[int], Item | None]) -> BatchStream[Item]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return BatchStream(make, self.batch_size, self.first_index, rank, world_size)

    def _evaluation(self, split: Split) -> DataLoader[Sample]:
        samples = EvaluationSet(self.source, split, self.n_per_orientation[split])
        return DataLoader(samples, batch_size=self.eval_batch_size, collate_fn=list)

    def train_dataloader(self) -> Any:
        """Endless batches of samples."""
        return self._stream(lambda index: self.source.sample("train", index))

    def val_dataloader(self) -> DataLoader[Sample]:
        """Batches of held-out validation samples."""
        return self._evaluation("validation")

    def test_dataloader(self) -> DataLoader[Sample]:
        """Batches of held-out test samples.

        Raises:
            ConfigError: The source has no test split, and a test of nothing would pass unnoticed.
        """
        if self.source.size("test") == 0:
            raise ConfigError(f"{type(self.source).__name__} has no test samples. Give it a file for the test split.")
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The test samples."""
        return self.test_dataloader()


class EpisodeDataModule(PromptDataModule):
    """SFT: batches of recorded trajectories for training, of samples for evaluation.

    Args:
        builder: Writes the episodes, or reads recorded ones; its source gives the evaluation's samples too.
        **sizes: As in `PromptDataModule`; a training batch holds trajectories.
    """

    def __init__(self, builder: EpisodeBuilder | RecordedEpisodes, **sizes: Any) -> None:
        super().__init__(builder.source, **sizes)
        self.builder = builder
        self._executor: ToolExecutor | None = None

    def setup(self, stage: str) -> None:
        """Start the executor that runs the oracle's code."""
        if stage == "fit" and self._executor is None:
            self._executor = ToolExecutor(lane="pillow")

    def teardown(self, stage: str) -> None:
        """Close the executor."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def train_dataloader(self) -> Any:
        """Endless batches of trajectories."""
        return self._stream(self._episode)

    def _episode(self, index: int) -> Trajectory | None:
        if self._executor is None:
            raise ValueError("Call setup('fit') before taking training batches")
        return self.builder.episode("train", index, self._executor)
