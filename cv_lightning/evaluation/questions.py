"""The questions of an evaluation, each combined with every condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from cv_lightning.data.source import SampleSource, Split, check_seed
from cv_lightning.errors import ConfigError
from cv_lightning.evaluation.conditions import ORIENTATION_CONDITIONS, Condition, make_conditions
from cv_lightning.types import Sample


@dataclass(frozen=True)
class EvaluationItem:
    """A question and its condition, which is applied only when the question is asked.

    Attributes:
        base: The sample, either upright or as its row gives it, depending on the condition.
        condition: The change to its image.
        seed: Seed of the corruption.
    """

    base: Sample
    condition: Condition
    seed: int

    def sample(self) -> Sample:
        """The sample as the policy sees it."""
        return self.condition.apply(self.base, self.seed)


class ConditionSet(Dataset[EvaluationItem]):
    """All conditions of the first question, then all of the second, so that an interrupted run has complete pairs."""

    def __init__(
        self, source: SampleSource, split: Split, conditions: Sequence[Condition], n_questions: int, seed: int
    ) -> None:
        self._source = source
        self._split: Split = split
        self._conditions = conditions
        self._n_questions = n_questions
        self._seed = seed
        self._last: tuple[int, bool, Sample] | None = None

    def __len__(self) -> int:
        return self._n_questions * len(self._conditions)

    def __getitem__(self, index: int) -> EvaluationItem:
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0 <= index < {len(self)}, got {index}")
        question, place = divmod(index, len(self._conditions))
        condition = self._conditions[place]
        return EvaluationItem(self._base(question, condition.transforms is None), condition, self._seed)

    def _base(self, question: int, as_recorded: bool) -> Sample:
        if self._last is None or self._last[:2] != (question, as_recorded):
            sample = self._source.sample(self._split, question, None if as_recorded else ())
            self._last = question, as_recorded, sample
        return self._last[2]


class RobustnessDataModule(LightningDataModule):
    """Questions of any source under orientations and corruptions, for `test`.

    Args:
        source: The source of the questions.
        orientations: Rows of the table: "upright", "rot90", "rot180", "rot270", "hflip", "vflip"; "recorded" leaves
            images as their rows give them (for MVToolBench, whose rows name their transforms).
        corruptions: More rows: names of `cv_lightning.data.corruption.CORRUPTIONS`, each at each severity.
        severities: 1 (weak) to 5 (strong).
        n_questions: Number of questions, each asked under every condition; None for all of the source.
        batch_size: Number of questions times conditions that are asked at once.
        split: The part of the source to use.
        seed: Seed of the corruptions.

    Raises:
        ConfigError: A value is not possible.
    """

    def __init__(
        self,
        source: SampleSource,
        orientations: Sequence[str] = tuple(ORIENTATION_CONDITIONS),
        corruptions: Sequence[str] = (),
        severities: Sequence[int] = (1, 3, 5),
        n_questions: int | None = None,
        batch_size: int = 120,
        split: Split = "test",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.conditions = make_conditions(orientations, corruptions, severities)
        check_seed("RobustnessDataModule.seed", seed)
        if batch_size < 1 or (n_questions is not None and n_questions < 1):
            raise ConfigError(
                f"RobustnessDataModule: expected batch_size >= 1 and n_questions >= 1, got {batch_size}, {n_questions}"
            )
        self.source = source
        self.n_questions = n_questions
        self.batch_size = batch_size
        self.split: Split = split
        self.seed = seed

    def test_dataloader(self) -> DataLoader[EvaluationItem]:
        """Batches of `EvaluationItem`s.

        Raises:
            ConfigError: The source has no such split, or it is endless and `n_questions` is None.
        """
        size = self.source.size(self.split)
        if size == 0:
            raise ConfigError(
                f"{type(self.source).__name__} has no {self.split} samples. Give it a file for that split."
            )
        if size is None and self.n_questions is None:
            raise ConfigError(f"{type(self.source).__name__} never ends. Set data.n_questions.")
        n_questions = min(size for size in (size, self.n_questions) if size is not None)
        items = ConditionSet(self.source, self.split, self.conditions, n_questions, self.seed)
        return DataLoader(items, batch_size=self.batch_size, collate_fn=list)
