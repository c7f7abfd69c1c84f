"""Slices and calls of arrays do what NumPy and OpenCV do."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sandbox.effects.outcome import run_program
from sandbox.lift.array_calls import ARRAY_FUNCTIONS, ARRAY_METHODS, sliced
from sandbox.lift.values import Arguments, Name, NotLiftableError, Picture
from sandbox.operations.operation import State
from sandbox.operations.program import ToolProgram

WIDTH, HEIGHT = 7, 5
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def start(mode: str = "RGB") -> Picture:
    return Picture(0, (State((WIDTH, HEIGHT), mode),), is_array=True)


def pixels_of(picture: Any, image: Image.Image) -> Any:
    outcome = run_program(ToolProgram(picture.operations), image)
    assert outcome is not None
    assert outcome.image.size == picture.state.size
    return np.asarray(outcome.image)


ENDS = st.none() | st.integers(-9, 9)
SLICES = st.builds(slice, ENDS, ENDS, st.sampled_from([None, 1, -1, 2]))


@given(st.lists(SLICES, max_size=2), st.sampled_from([None, slice(None), slice(None, None, -1)]))
def test_a_slice_is_numpys_or_is_not_read(parts: list[slice], channels: slice | None) -> None:
    index = (*parts, *[slice(None)] * (2 - len(parts)), channels) if channels is not None else tuple(parts)
    expected = PIXELS[index]
    skips = any(part.step == 2 for part in parts)
    if expected.size == 0 or skips:
        with pytest.raises(NotLiftableError, match="skips pixels or holds none"):
            sliced(start(), index)
    else:
        assert (pixels_of(sliced(start(), index), Image.fromarray(PIXELS)) == expected).all()


@pytest.mark.parametrize("index", [(0,), (slice(None), 2), (slice(None),) * 4, ("a",)])
def test_an_index_that_is_no_slice_is_not_read(index: tuple[Any, ...]) -> None:
    with pytest.raises(NotLiftableError, match="no slice"):
        sliced(start(), index)


def test_channels_are_all_or_swapped() -> None:
    with pytest.raises(NotLiftableError, match="slice of channels"):
        sliced(start(), (slice(None), slice(None), slice(0, 2)))
    with pytest.raises(NotLiftableError, match="no slice"):
        sliced(start("L"), (slice(None),) * 3)


CALLS: list[tuple[str, tuple[Any, ...], Any]] = [
    *((f"np.rot90 {k}", (k,), np.rot90(PIXELS, k)) for k in range(-8, 9)),
    ("np.rot90", (), np.rot90(PIXELS)),
    ("np.fliplr", (), np.fliplr(PIXELS)),
    ("np.flipud", (), np.flipud(PIXELS)),
    *((f"cv2.flip {code}", (code,), cv2.flip(PIXELS, code)) for code in (-1, 0, 1)),
    *((f"cv2.rotate {code}", (code,), cv2.rotate(PIXELS, code)) for code in range(3)),
    ("cv2.transpose", (), cv2.transpose(PIXELS)),
    ("cv2.cvtColor", (cv2.COLOR_RGB2BGR,), PIXELS[..., ::-1]),
    ("cv2.resize", ((3, 4),), cv2.resize(PIXELS, (3, 4))),
]


@pytest.mark.parametrize(("call", "arguments", "expected"), CALLS, ids=[name for name, _, _ in CALLS])
def test_a_call_is_the_librarys(call: str, arguments: tuple[Any, ...], expected: Any) -> None:
    read = ARRAY_FUNCTIONS[call.split()[0]](start(), Arguments(arguments))
    assert (pixels_of(read, Image.fromarray(PIXELS)) == expected).all()


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("np.rot90", (9,)),
        ("np.rot90", (1.0,)),
        ("cv2.flip", (2,)),
        ("cv2.rotate", (3,)),
        ("cv2.cvtColor", (-1,)),
        ("cv2.resize", (None,)),
        ("cv2.resize", ((3, 4), 0.5, 0.5)),
        ("cv2.Sobel", (-1, 0, 0)),
        ("cv2.GaussianBlur", ((0, 0), 0)),
        ("cv2.fastNlMeansDenoising", (3,)),
    ],
)
def test_a_call_that_may_fail_is_not_read(call: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(NotLiftableError):
        ARRAY_FUNCTIONS[call](start(), Arguments(arguments))


def test_axes_are_swapped_and_bytes_stay_bytes() -> None:
    read = ARRAY_METHODS["transpose"](start(), Arguments((1, 0, 2)))
    assert (pixels_of(read, Image.fromarray(PIXELS)) == PIXELS.transpose(1, 0, 2)).all()
    for axes in ((0, 1, 2), (2, 1, 0), (1, 0), (True, False, 2)):
        with pytest.raises(NotLiftableError, match="axes"):
            ARRAY_METHODS["transpose"](start(), Arguments(axes))
    assert ARRAY_METHODS["astype"](start(), Arguments((Name("np.uint8"),))).operations == ()  # type: ignore[union-attr]
    with pytest.raises(NotLiftableError, match="another type"):
        ARRAY_METHODS["astype"](start(), Arguments(("float32",)))
