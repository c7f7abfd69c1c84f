"""Each operation compared with its library, its documentation, and the bound on its cost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sandbox.lanes.tensor.images import to_pillow
from sandbox.lanes.tensor.kinds import KINDS, TensorKind
from sandbox.lanes.tensor.selfcheck import operations_of
from sandbox.lanes.tensor.table import DECLINED, PARTLY_DECLINED, kind_of
from sandbox.operations.arrays import Table
from sandbox.operations.operation import State
from sandbox.operations.table import OPERATIONS
from sandbox.types import Exactness
from tests.sandbox import strategies
from tests.sandbox.lanes.tensor import kornia_table
from tests.sandbox.lanes.tensor.agreement import (
    CONTRACTS,
    DEVICES,
    as_tensor,
    noise,
    picture,
)
from tests.sandbox.operations.edges import calls


def differences(kind: TensorKind, values: Any, image: Image.Image, expected: Image.Image, device: str) -> Any:
    """Differences from `expected`, of all values of the second image in a batch of three."""
    mine, other = as_tensor(image, device), as_tensor(noise(*image.size).convert(image.mode), device)
    result = to_pillow(kind.call(torch.stack([other, mine, other]), [values] * 3)[1])
    assert (result.size, result.mode) == (expected.size, expected.mode)
    return np.abs(np.asarray(result).astype(int) - np.asarray(expected).astype(int))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("exactness", CONTRACTS)
@pytest.mark.parametrize("name", sorted(operations_of("close")))
@given(data=st.data())
def test_operation_is_that_of_the_library(name: str, exactness: Exactness, device: str, data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from([mode for mode in ("RGB", "L") if mode in OPERATIONS[name].modes]))
    operation = data.draw(strategies.operations_named(name))
    image = data.draw(strategies.images()).convert(mode)
    kind = kind_of(name, operation.values, State(image.size, mode), exactness)
    if isinstance(kind, str):
        return
    try:
        expected = OPERATIONS[name].call(image, operation.values)
    except (ValueError, TypeError, cv2.error):  # a color of three numbers for a gray image
        return
    assert exactness == "close" or kind.is_exact(operation.values)
    found = differences(kind, operation.values, image, expected, device)
    few = 2 if kind.far(operation.values) else 0  # a single tie is a large share of a tiny image
    assert (found > kind.most(operation.values)).sum() <= kind.far(operation.values) * found.size + few


LARGE = [
    ("Image.resize", ((613, 401), 3, None, None)),
    ("Image.resize", ((1999, 1500), 1, None, None)),
    ("Image.resize", ((7, 1999), 2, (3.25, 8.5, 601.75, 300), None)),
    ("Image.resize", ((1024, 1), 5, None, None)),
    ("Image.resize", ((333, 222), 0, None, None)),
    ("Image.rotate", (33.3, 2, False, (1250, 20), (-999, 100), "red")),
    ("Image.rotate", (-7, 2, False, (100, 900.5), (12, -3.5), None)),
    ("Image.rotate", (211, 0, True, None, None, (1, 2, 3))),
    ("ImageFilter.GaussianBlur", (17.3,)),
    ("ImageFilter.BoxBlur", (49.9,)),
    ("ImageFilter.UnsharpMask", (4, 200, 2)),
    ("ImageFilter.SMOOTH_MORE", ()),
    ("ImageOps.equalize", ()),
    ("ImageOps.autocontrast", (3.5, 17, None, True)),
    ("ImageEnhance.Contrast", (2.71,)),
    ("ImageOps.pad", ((1700, 300), 3, (9, 8, 7), (0.3, 0.9))),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("exactness", CONTRACTS)
@pytest.mark.parametrize(("name", "values"), LARGE)
def test_large_images(name: str, values: Any, exactness: Exactness, device: str) -> None:
    image = picture(1300, 977) if exactness == "exact" else picture(700, 377)
    kind = kind_of(name, values, State(image.size), exactness)
    if isinstance(kind, str):
        assert exactness == "exact"
        assert not KINDS[name][0].is_exact(values)
        return
    found = differences(kind, values, image, OPERATIONS[name].call(image, values), device)
    assert (found > kind.most(values)).mean() <= kind.far(values)


def test_every_operation_that_lifts_is_done_or_declined_by_name() -> None:
    assert set(operations_of("close")) | set(DECLINED) == set(OPERATIONS)
    assert not set(operations_of("close")) & set(DECLINED)
    assert len(operations_of("close")) >= 0.9 * len(OPERATIONS)
    name = "cv2.fastNlMeansDenoising"
    assert kind_of(name, (1, 3, 3), State((9, 9)), "close") == f"{name}: {DECLINED[name]}"
    kernel = Table(((1,) * 31,) * 31, "uint8")
    assert "grows with the elements" in str(kind_of("cv2.erode", (kernel, 20), State((9, 9)), "close"))


def rows_of(heading: str, columns: int) -> list[list[str]]:
    """Rows of the tables below a heading of the documentation; one row per name in the first cell, without quotes."""
    text = (Path(__file__).parents[4] / "docs/kornia_lane.md").read_text(encoding="utf-8")
    part = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [re.findall(r"[^|]+", line) for line in part.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row][:columns] for row in rows]
    return [[name.strip("`"), *rest] for first, *rest in cells for name in first.split(", ")]


def assert_documented(name: str) -> None:
    """Check a row with the calls of the printed table; another processor may round a mean differently."""
    (row,) = [row for row in rows_of("How close it is", 7) if row[0] == name]
    found = kornia_table.measured(name)
    assert row[1] == found.backend
    assert [float(value) for value in row[5:]] == [round(found.exact), round(found.close)]
    if found.close:
        assert int(row[2]) == found.most
        assert [float(value) for value in row[3:5]] == pytest.approx([found.mean, found.beyond], rel=0.02, abs=2e-4)
    assert found.most <= 2 or (name == "ImageFilter.UnsharpMask" and found.beyond <= 2)  # ties at its threshold


#: An operation for each file, contract and kind of difference.
SAMPLED = [
    *("orient", "Image.rotate", "Image.resize", "ImageOps.posterize", "ImageFilter.DETAIL", "ImageFilter.GaussianBlur"),
    *("ImageFilter.UnsharpMask", "ImageFilter.BoxBlur", "Image.transform", "cv2.resize", "cv2.GaussianBlur"),
    *("cv2.BGR2LAB", "cv2.filter2D", "cv2.createCLAHE", "cv2.warpAffine"),
]


@pytest.mark.parametrize("name", SAMPLED)
def test_documented_differences_are_those_that_are_measured(name: str) -> None:
    """`python -m tests.sandbox.lanes.tensor.kornia_table` prints the table."""
    assert_documented(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in SAMPLED])
def test_all_documented_differences_are_those_that_are_measured(name: str) -> None:
    """The rest of the table."""
    assert_documented(name)


def test_the_table_has_a_row_for_each_operation() -> None:
    rows = [row for row in rows_of("How close it is", 7) if len(row) == 7]  # the table of files follows
    assert [row[0] for row in rows] == list(OPERATIONS)
    counts = [sum(1 for row in rows if float(row[column])) for column in (5, 6)]
    text = " ".join((Path(__file__).parents[4] / "docs/kornia_lane.md").read_text(encoding="utf-8").split())
    assert f'"exact" does some calls of {counts[0]} operations, "close" of {counts[1]} (of {len(OPERATIONS)})' in text


def test_documented_reasons_are_those_that_are_given() -> None:
    assert sorted(rows_of("Calls it declines", 2)) == sorted(
        [name, reason] for reasons in (DECLINED, PARTLY_DECLINED) for name, reason in reasons.items()
    )


@pytest.mark.parametrize(
    ("name", "values", "size"),
    [
        ("Image.resize", ((10, 10), 3, None, 1.5), (400, 300)),
        ("Image.rotate", (60, 0, False, (99999, 0), None, None), (40, 30)),
        ("ImageOps.pad", ((1, 900), 3, None, (0.5, 0.5)), (9000, 1)),
        ("ImageFilter.Kernel", ((3, 3), (1e6,) * 9, 1, 0), (40, 30)),
        ("ImageFilter.UnsharpMask", (2, 900, 3), (40, 30)),
        ("cv2.GaussianBlur", ((3, 3), 1e-9, 0), (40, 30)),
        ("cv2.filter2D", (-1, None), (40, 30)),
        ("cv2.warpAffine", (Table(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), "float64"), (9, 9), 4, 0, 0), (40, 30)),
    ],
)
@pytest.mark.parametrize("exactness", CONTRACTS)
def test_calls_that_are_declined(exactness: Exactness, name: str, values: Any, size: tuple[int, int]) -> None:
    assert kind_of(name, values, State(size), exactness) == f"{name}: {PARTLY_DECLINED[name]}"


@pytest.mark.parametrize("exactness", CONTRACTS)
def test_opencv_copies_what_a_factor_leaves_as_long(exactness: Exactness) -> None:
    """2 pixels by 1.25 are 2 pixels: OpenCV would copy such an axis alone, but resamples it in a taller image."""
    for factors in ((1.25, 2.0), (1.25, 1.25)):
        assert "leaves a side" in str(kind_of("cv2.resize", (None, *factors, 0), State((2, 1)), exactness))
    kind = kind_of("cv2.resize", (None, 1.0, 2.0, 0), State((2, 1)), exactness)
    assert isinstance(kind, TensorKind)
    assert kind.is_exact((None, 1.0, 2.0, 0))


class Written(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the values that torch writes, and the largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, torch.Tensor):
                self.total, self.largest = self.total + made.numel(), max(self.largest, made.numel())
        return result


#: Most values that a call writes per value of the images before and after, and most in one tensor (matrices, windows).
MOST_WRITTEN, LARGEST = 60_000, 1 << 25


@pytest.mark.parametrize("name", sorted(operations_of("close")))
def test_what_runs_on_tensors_is_bounded(name: str) -> None:
    """With arguments at the edges: the number of written values grows only with the number of pixels."""
    for values, image in calls(name, 12, 0):
        state = State(image.size, image.mode)
        kind = kind_of(name, values, state, "close")
        if isinstance(kind, str):
            continue
        after = OPERATIONS[name].after(values, state)
        n_values = 3 * sum(width * height for width, height in (image.size, after.size))
        with Written() as written:
            try:
                kind.call(as_tensor(image, "cpu")[None], [values])
            except (RuntimeError, ValueError, TypeError):
                continue
        assert written.total <= MOST_WRITTEN * (n_values + 1000), values
        assert written.largest <= LARGEST + 100 * n_values, values
