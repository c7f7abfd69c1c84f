"""Transforms of a sample's image and of its box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cv_lightning.errors import DataError
from cv_lightning.types import TRANSFORMS, Box, Sample
from sandbox import inverse, orient, orientation_frame


def check_transforms(names: Sequence[str], where: str) -> None:
    """Raise `DataError` for a name that is not a transform.

    Args:
        names: Names of transforms in a data set.
        where: The row, for the message.
    """
    for name in names:
        if name not in TRANSFORMS:
            raise DataError(f"{where}: transforms: expected one of {', '.join(TRANSFORMS)}, got {name!r}.")


def turn_box(box: Box, name: str, size: tuple[int, int]) -> Box:
    """A box of an image of `size` (width, height) after an orientation."""
    return orientation_frame(name, size).inverse().box(box)


def transform_sample(sample: Sample, names: Sequence[str]) -> Sample:
    """Turn the first image of a sample and its box; a sample without images stays unchanged.

    Args:
        sample: The sample.
        names: Orientations of `TRANSFORMS`, in order; they are appended to the transforms of the sample.

    Raises:
        DataError: A name is unknown, or is "crop", which only marks samples and cannot be applied to an image.
    """
    check_transforms(names, f"Sample {sample.id!r}")
    if "crop" in names:
        raise DataError(f"Sample {sample.id!r}: 'crop' cannot be applied to an image; it only marks samples.")
    if not sample.images:
        return sample
    image, box = sample.images[0], sample.box
    for name in names:
        box = None if box is None else turn_box(box, name, image.size)
        image = orient(image, name)
    return replace(sample, images=(image, *sample.images[1:]), box=box, transforms=(*sample.transforms, *names))


def restore_sample(sample: Sample) -> Sample:
    """Undo the orientations of a sample, last first; "crop" stays, because the answer still needs it."""
    turns = [inverse(name) for name in reversed(sample.transforms) if name != "crop"]
    needs = tuple(name for name in sample.transforms if name == "crop")
    return replace(transform_sample(sample, turns), transforms=needs) if turns else sample
