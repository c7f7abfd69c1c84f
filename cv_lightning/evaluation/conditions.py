"""The conditions of an evaluation: a question's image turned, mirrored, corrupted, or unchanged."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cv_lightning.console.suggestions import did_you_mean
from cv_lightning.data.corruption import CORRUPTIONS, SEVERITIES, corrupt
from cv_lightning.data.orientation import transform_sample
from cv_lightning.errors import ConfigError
from cv_lightning.types import Sample

#: Label for the image as its row gives it, with its recorded transforms.
RECORDED = "recorded"

UPRIGHT = "upright"

#: Label -> transforms of the upright image, in the order of the paper's table.
ORIENTATION_CONDITIONS: dict[str, tuple[str, ...]] = {
    UPRIGHT: (),
    "rot90": ("rotate_90",),
    "rot180": ("rotate_180",),
    "rot270": ("rotate_270",),
    "hflip": ("flip_horizontal",),
    "vflip": ("flip_vertical",),
}


@dataclass(frozen=True)
class Condition:
    """A row of the table.

    Attributes:
        label: Its name in tables and metrics: "upright", "rot90", ..., "recorded", "gaussian_noise_3".
        transforms: Transforms of the upright image; None leaves the image as its row gives it.
        corruption: Name of the corruption, or None.
        severity: Severity of the corruption, 1 to 5.
    """

    label: str
    transforms: tuple[str, ...] | None = ()
    corruption: str | None = None
    severity: int = 0

    def apply(self, sample: Sample, seed: int = 0) -> Sample:
        """Return the sample under this condition.

        Args:
            sample: The upright sample, or the sample as its row gives it if `transforms` is None.
            seed: Seed of the corruption; combined with the sample's id.
        """
        if self.transforms:
            sample = transform_sample(sample, self.transforms)
        if self.corruption is not None:
            sample = corrupt_sample(sample, self.corruption, self.severity, seed)
        return sample


def corrupt_sample(sample: Sample, name: str, severity: int, seed: int = 0) -> Sample:
    """Corrupt the images of a sample. No pixel moves, so question, answer, transforms and box remain valid.

    The same seed and id give the same pixels, regardless of the other evaluated samples.
    """
    own = zlib.crc32(sample.id.encode("utf-8", "surrogatepass")) + (seed << 32)
    return replace(sample, images=tuple(corrupt(sample.images, name, severity, own)))


def make_conditions(
    orientations: Sequence[str], corruptions: Sequence[str] = (), severities: Sequence[int] = SEVERITIES
) -> list[Condition]:
    """The conditions of an evaluation, in the order of its table.

    Args:
        orientations: Labels of `ORIENTATION_CONDITIONS`, or "recorded".
        corruptions: Names of `CORRUPTIONS`; each is applied to the upright image at each severity.
        severities: 1 (weak) to 5 (strong).

    Raises:
        ConfigError: A name or severity does not exist or is given twice, or there is no condition.
    """
    known = [*ORIENTATION_CONDITIONS, RECORDED]
    for what, names, choices in (("orientations", orientations, known), ("corruptions", corruptions, CORRUPTIONS)):
        for name in names:
            if name not in choices:
                raise ConfigError(f"{what}: no {what[:-1]} {name!r}. {did_you_mean(name, choices)}")
    for severity in severities:
        if severity not in SEVERITIES:
            raise ConfigError(f"severities: expected numbers from 1 to 5, got {severity!r}")
    conditions = [Condition(name, None if name == RECORDED else ORIENTATION_CONDITIONS[name]) for name in orientations]
    conditions += [Condition(f"{name}_{level}", (), name, level) for name in corruptions for level in severities]
    if not conditions or len({condition.label for condition in conditions}) < len(conditions):
        raise ConfigError("orientations, corruptions, severities: expected at least one condition, and none twice.")
    return conditions
