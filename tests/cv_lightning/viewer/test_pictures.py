"""Images of a page are stored once, within a budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cv_lightning.viewer.pictures import store


def test_images_are_encoded_once_and_made_small_enough_for_the_budget(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 600, 700, 3), dtype=np.uint8)
    sources = [(f"{index}.png", Image.fromarray(pixels)) for index, pixels in enumerate(noise)]
    stored = store(sources + sources, budget=300_000)
    assert len(stored) == 20
    assert 100_000 < sum(len(str(image["uri"])) * 3 / 4 for image in stored.values()) < 310_000
    assert {(image["width"], image["height"]) for image in stored.values()} == {(700, 600)}


def test_extreme_and_broken_images_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    extreme = {"long": Image.new("L", (60_000, 2)), "dot": Image.new("1", (1, 1)), "palette": Image.new("P", (9, 9))}
    Image.new("1", (20_000, 7_000)).save(tmp_path / "huge.png")
    files = [(name, tmp_path / f"{name}.png") for name in ("broken", "gone", "huge")]
    stored = store([*files, *extreme.items()])
    assert set(stored) == set(extreme)
    assert stored["long"]["width"] == 60_000
