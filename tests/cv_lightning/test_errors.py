"""An error is quoted by its first line."""

from __future__ import annotations

import pytest

from cv_lightning.errors import first_line


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  two\nthree"), "two"),
        (TimeoutError(), "TimeoutError"),
        (OSError("  \n"), "OSError"),
    ],
)
def test_first_line(error: BaseException, expected: str) -> None:
    assert first_line(error) == expected
