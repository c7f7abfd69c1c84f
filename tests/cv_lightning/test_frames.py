"""The place of each image in the question's image, checked against the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.frames import see_result, view_question, view_result
from cv_lightning.types import Reply, Sample, ToolCall, Trajectory, Turn, ViewedImage
from sandbox import Affine, Observation, ToolExecutor, ToolRequest

CODES = (
    "result = image.rotate(90, expand=True)",
    "result = image.transpose(Image.Transpose.ROTATE_270)",
    "result = ImageOps.mirror(image)",
    "result = ImageOps.flip(image)",
    "result = image.rotate(180)",
    "result = image.crop((2, 1, image.width - 3, image.height - 1))",
    "result = image.crop((0, 0, 9, 8))",
)


def coordinates(width: int, height: int, marker: int) -> Image.Image:
    """An image in which every pixel encodes its place: (x, y, marker)."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns, rows, np.full_like(rows, marker)], -1).astype(np.uint8))


def question(n_images: int = 2) -> Trajectory:
    images = tuple(coordinates(40 + 3 * index, 30, index) for index in range(n_images))
    return Trajectory(sample := Sample("s", "?", images, "x"), images=view_question(sample))


def look(trajectory: Trajectory, code: str, image_index: int, turn: int) -> ViewedImage | None:
    images = [viewed.image for viewed in trajectory.images]
    with ToolExecutor(lane="pillow") as executor:
        (observation,) = executor.execute([ToolRequest(code, images, image_index)])
    if observation.image is None:
        return None
    trajectory.images.append(view_result(trajectory, ToolCall(code, "", image_index), observation, turn))
    return trajectory.images[-1]


def test_question_images_are_their_own_roots() -> None:
    trajectory = question(3)
    assert [(viewed.root, viewed.turn, viewed.orientation) for viewed in trajectory.images] == [
        (0, -1, "identity"),
        (1, -1, "identity"),
        (2, -1, "identity"),
    ]


@given(st.lists(st.tuples(st.sampled_from(CODES), st.integers(0, 10)), min_size=1, max_size=5))
def test_frame_leads_to_the_pixels_that_are_shown(steps: list[tuple[str, int]]) -> None:
    trajectory = question()
    for turn, (code, choice) in enumerate(steps):
        viewed = look(trajectory, code, choice % len(trajectory.images), turn)
        if viewed is None:  # the crop of a crop was empty
            continue
        assert viewed.turn == turn
        assert viewed.frame is not None
        for x, y in ((0, 0), (viewed.image.width - 1, 0), (2, 1), (viewed.image.width - 1, viewed.image.height - 1)):
            column, row, marker = viewed.image.getpixel((x, y))  # type: ignore[misc]
            assert marker == viewed.root
            # A pixel's center maps to the center of the pixel that it shows.
            at_x, at_y = viewed.frame.point(x + 0.5, y + 0.5)
            assert (at_x, at_y) == pytest.approx((column + 0.5, row + 0.5))


def test_orientation_is_the_net_of_all_turns() -> None:
    trajectory = question(1)
    for turn, code in enumerate((CODES[0], CODES[2], CODES[3], CODES[0])):
        look(trajectory, code, turn, turn)
    assert [viewed.orientation for viewed in trajectory.images][-2:] == ["rotate_270", "identity"]


def test_unknown_stays_unknown() -> None:
    trajectory = question(1)
    image = coordinates(5, 5, 0)
    trajectory.images.append(view_result(trajectory, ToolCall("x"), Observation("ok", image), 0))
    assert trajectory.images[1].frame is None
    assert trajectory.images[1].orientation is None
    turned = look(trajectory, CODES[0], 1, 1)
    assert turned is not None
    assert (turned.frame, turned.orientation, turned.root) == (None, None, 0)


def test_result_without_image_has_no_place() -> None:
    with pytest.raises(ValueError, match="status='error'"):
        view_result(question(), ToolCall("x"), Observation("error"), 0)


def test_a_result_is_seen_once_and_only_if_a_call_made_one() -> None:
    image = Image.new("RGB", (6, 4))
    sample = Sample("s", "?", (image,), "A")
    trajectory = Trajectory(sample, images=view_question(sample))
    cut, call = Observation("ok", image.crop((1, 1, 4, 3)), frame=Affine(c=1, f=1)), Reply(call=ToolCall("x"))
    for reply, observation in (
        (call, Observation("error", text="no")),
        (call, None),
        (Reply(fault="what?"), Observation("rejected", text="what?")),
        (call, cut),
        (Reply(answer="A"), None),
    ):
        trajectory.turns.append(Turn("", reply, observation))
        see_result(trajectory)
    assert [(viewed.turn, viewed.image.size) for viewed in trajectory.images] == [(-1, (6, 4)), (3, (3, 2))]
    assert trajectory.images[1].frame == Affine(c=1, f=1)
