"""OpenCV's operations give the same bits as the calls that they are written as."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sandbox.operations.opencv import OPENCV_OPERATIONS, SPACES
from tests.sandbox.machine import noise
from tests.sandbox.operations.as_written import differing


@pytest.mark.parametrize("name", OPENCV_OPERATIONS)
def test_an_operation_is_the_call_that_it_is_written_as(name: str) -> None:
    assert differing(name, 2 if "Means" in name else 12) == []


def test_every_color_space_is_there_in_both_orders_and_ways() -> None:
    assert len(SPACES) == len(set(SPACES)) == 2 * 5 * 2
    image = noise(9, 7)
    for name in SPACES:
        found = OPENCV_OPERATIONS[f"cv2.{name}"].call(image, ())
        np.testing.assert_array_equal(np.asarray(found), cv2.cvtColor(np.asarray(image), getattr(cv2, f"COLOR_{name}")))
