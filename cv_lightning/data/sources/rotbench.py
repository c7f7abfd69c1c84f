"""RotBench (arXiv 2508.13968): how far is an image rotated? The hub's Parquet, `tianyin/RotBench:large` or `:small`.

The columns are `image` and `image_name`, as in the data card; the images are upright. As in the authors' scripts, each
image is asked in four rotations, 0, 90, 180 and 270 degrees counter-clockwise, with four choices in shuffled order.
Here the order is a function of the image's name and rotation; the authors' order is random in each run. The wording of
the question is ours. Row n is image n // 4; families name the rotations, because the authors report accuracy by
rotation.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_lightning.data.rows import open_image
from cv_lightning.data.sources.formats import LETTERS, Format, columns, unwrap_image, with_choices
from cv_lightning.data.sources.records import Record, Records
from cv_lightning.errors import DataError
from sandbox import orient

ROTATIONS = (0, 90, 180, 270)

_QUESTION = "By how many degrees was this image rotated counter-clockwise from its upright position?"


class FourRotations(Records):
    """Each record four times, with different values of `rotation`.

    Args:
        upright: Records of upright images.
    """

    def __init__(self, upright: Records) -> None:
        self._upright = upright
        self.folder = upright.folder

    def __len__(self) -> int:
        return len(ROTATIONS) * len(self._upright)

    def read(self, index: int) -> Record:
        """The record at `index`; raises `DataError` if it cannot be read."""
        place, turn = divmod(index, len(ROTATIONS))
        return {**self._upright.read(place), "rotation": ROTATIONS[turn]}

    def where(self, index: int) -> str:
        """File, row and rotation, for messages."""
        place, turn = divmod(index, len(ROTATIONS))
        return f"{self._upright.where(place)}, rotation {ROTATIONS[turn]}"

    def columns(self) -> tuple[str, ...]:
        """The columns of the upright records."""
        return self._upright.columns()

    def windows(self, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """The windows of the upright records, each image in its four rotations."""
        for window in self._upright.windows(rng):
            yield (len(ROTATIONS) * window[:, None] + np.arange(len(ROTATIONS))).ravel()


def fields(record: Record, where: str, folder: Path) -> dict[str, Any]:
    """The fields of a row; its image is decoded and rotated."""
    source, rotation = unwrap_image(record.get("image"), where), record["rotation"]
    if source is None:
        raise DataError(f"{where}: the row has no image. Add one or remove the row.")
    image = open_image(folder / source if isinstance(source, str) else source, where)
    transforms = [f"rotate_{rotation}"] if rotation else []
    for name in transforms:
        image = orient(image, name)
    row_id = f"{record.get('image_name')}-{rotation}"
    order = np.random.default_rng(zlib.crc32(row_id.encode())).permutation(ROTATIONS)
    options = {letter: str(degrees) for letter, degrees in zip(LETTERS, order, strict=False)}
    letter = next(letter for letter, degrees in options.items() if degrees == str(rotation))
    return {
        "id": row_id,
        "question": with_choices(_QUESTION, options),
        "images": [image],
        "answer": letter,
        "alternatives": [f"{rotation}{unit}" for unit in ("", "°", " degrees")],
        "transforms": transforms,
        "family": f"rotated by {rotation}",
        "rule": "choice",
    }


FORMAT = Format("rotbench", "RotBench", [columns("image", "image_name")], fields, FourRotations)
