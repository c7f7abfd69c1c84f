"""Operations as Python statements."""

from __future__ import annotations

import ast

import pytest

from sandbox.geometry import PILLOW_TRANSPOSE
from sandbox.operations.operation import Operation
from sandbox.operations.table import OPERATIONS, write_statement
from tests.sandbox.operations.edges import calls


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_a_statement_that_gives_its_name_a_new_value(name: str) -> None:
    for values, _ in calls(name, 6):
        text = write_statement(Operation(name, values), "picture")
        tree = ast.parse(text)
        stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        assert "picture" in stored | read
        assert "picture" in stored or "\n" in text
        assert read - stored <= {
            "picture",
            "Image",
            "ImageOps",
            "ImageFilter",
            "ImageEnhance",
            "ImageDraw",
            "cv2",
            "np",
        }


@pytest.mark.parametrize("orientation", PILLOW_TRANSPOSE)
def test_an_orientation_is_written_by_pillows_name(orientation: str) -> None:
    written = write_statement(Operation("orient", (orientation,)), "x")
    assert written == f"x = x.transpose(Image.Transpose.{PILLOW_TRANSPOSE[orientation].name})"


def test_defaults_are_left_out_and_numbers_of_another_type_are_not() -> None:
    assert write_statement(Operation("cv2.GaussianBlur", ((3, 3), 1.5, 0)), "x").endswith("(3, 3), sigmaX=1.5))")
    assert "sigmaY=0.0" in write_statement(Operation("cv2.GaussianBlur", ((3, 3), 1.5, 0.0)), "x")
