"""The interface of sample sources for data modules, and their random numbers.

Every sample is a function of (seed, split, index). The splits use different streams of one counter-based generator, so
training, validation and test never share random numbers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from cv_lightning.errors import ConfigError
from cv_lightning.types import Sample

Split = Literal["train", "validation", "test"]

#: The second word of every generator's key; two splits never share a stream.
SPLITS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}

#: Weights for choosing a transform: "none" and the five orientations of the paper, equally often.
ORIENTATION_WEIGHTS = dict.fromkeys(
    ("none", "rotate_90", "rotate_180", "rotate_270", "flip_horizontal", "flip_vertical"), 1.0
)


#: Names of transforms, in order.
Transforms = tuple[str, ...]


class SampleSource(ABC):
    """A source of samples: any index of any split, reproducibly.

    Attributes:
        conditions: The transforms under which an evaluation asks each sample; by default the six orientations, in the
            order of the report. The condition None asks the sample with its own transforms.
    """

    conditions: ClassVar[tuple[Transforms | None, ...]] = tuple(
        () if name == "none" else (name,) for name in ORIENTATION_WEIGHTS
    )

    @abstractmethod
    def sample(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        """The sample at `index`; `transforms` sets its transforms."""

    def exactly(self, split: Split, index: int, transforms: Sequence[str] | None = None) -> Sample:
        """The sample at `index`, never a substitute; raises `RowError` if its row cannot be used."""
        return self.sample(split, index, transforms)

    def size(self, split: Split) -> int | None:
        """Number of different samples of a split; None if they never end."""
        return None


def check_weights(name: str, weights: Mapping[str, float], known: Sequence[str] = tuple(ORIENTATION_WEIGHTS)) -> None:
    """Raise `ConfigError` unless all names are known, all weights are at least 0, and one weight is positive."""
    is_known = set(weights) <= set(known) and all(math.isfinite(weight) and weight >= 0 for weight in weights.values())
    if not is_known or not any(weights.values()):
        raise ConfigError(
            f"{name}: expected weights of at least 0, not all 0, for names of {', '.join(known)}, got {dict(weights)}"
        )


def choose(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    """Draw a name with probability proportional to its weight."""
    names, values = list(weights), np.array(list(weights.values()), dtype=float)
    return names[int(rng.choice(len(names), p=values / values.sum()))]


def choose_transforms(rng: np.random.Generator, weights: Mapping[str, float]) -> tuple[str, ...]:
    """Draw the transforms of an image: no transform for "none", else a single one."""
    name = choose(rng, weights)
    return () if name == "none" else (name,)


def check_seed(name: str, seed: int) -> None:
    """Raise `ConfigError` for a seed that does not fit into the key of `generator`."""
    if not 0 <= seed < 2**48:
        raise ConfigError(f"{name}: expected 0 <= seed < 2**48, got {seed}")


def generator(seed: int, split: Split, index: int, stream: int = 0) -> np.random.Generator:
    """The random generator of one sample; `stream` separates its uses (drawing the sample, writing its episode)."""
    return np.random.Generator(np.random.Philox(key=[(seed << 8) | (SPLITS[split] << 4) | stream, index]))
