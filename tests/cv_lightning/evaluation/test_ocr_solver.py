"""An OCR policy fails on mirrored text; a script that also reads the mirrored image succeeds."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from PIL import Image

from cv_lightning.data.orientation import transform_sample
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.evaluation import OCRSolver
from cv_lightning.evidence import is_restored
from cv_lightning.types import Sample, StopReason

pytestmark = pytest.mark.skipif(find_spec("rapidocr") is None, reason="needs pip install -e '.[ocr]'")

WORLD = PlateWorld(width=256, height=128, min_length=6, max_length=8, min_font_size=24, max_font_size=36)
PLATES = [WORLD.sample("test", index, ()) for index in range(3)]


@pytest.fixture(scope="module", params=[False, True], ids=["once", "mirrors"])
def solver(request: pytest.FixtureRequest) -> Iterator[OCRSolver]:
    solver = OCRSolver(mirrors=request.param)
    yield solver
    solver.close()


def answers(solver: OCRSolver, samples: list[Sample]) -> list[str | None]:
    solved = solver.solve(samples)
    return [None if trajectory is None else trajectory.answer for trajectory in solved]


def test_what_is_not_mirrored_is_read_at_once(solver: OCRSolver) -> None:
    turned = [transform_sample(plate, ["rotate_180"]) for plate in PLATES]
    assert answers(solver, PLATES + turned) == [plate.answer for plate in PLATES] * 2
    (trajectory,) = solver.solve(PLATES[:1])
    assert trajectory is not None
    assert (len(trajectory.turns), len(trajectory.images)) == (2, 1)
    assert trajectory.stop_reason is StopReason.ANSWERED


def test_mirrored_text_is_read_only_by_the_script_that_mirrors(solver: OCRSolver) -> None:
    for transform in ("flip_horizontal", "flip_vertical"):
        mirrored = [transform_sample(plate, [transform]) for plate in PLATES]
        n_right = sum(got == plate.answer for got, plate in zip(answers(solver, mirrored), PLATES, strict=True))
        assert n_right == (3 if solver.mirrors else 0)


def test_the_mirrored_view_is_part_of_the_record(solver: OCRSolver) -> None:
    (trajectory,) = solver.solve([transform_sample(PLATES[0], ["flip_horizontal"])])
    assert trajectory is not None
    used = [turn.observation.tools for turn in trajectory.turns if turn.observation is not None]
    assert is_restored(trajectory) == solver.mirrors
    assert [tools for tools in used if "flip_horizontal" in tools] == [("flip_horizontal",)] * solver.mirrors


def test_several_images_and_none(solver: OCRSolver) -> None:
    first, second = PLATES[:2]
    both = Sample("both", "Read.", (*first.images, Image.new("RGB", (64, 64)), *second.images), "")
    assert answers(solver, [both, Sample("none", "Read.", (), "")]) == [f"{first.answer} {second.answer}", ""]


def test_the_fingerprint_tells_the_scripts_apart() -> None:
    assert OCRSolver().fingerprint() == OCRSolver().fingerprint() != OCRSolver(mirrors=True).fingerprint()
