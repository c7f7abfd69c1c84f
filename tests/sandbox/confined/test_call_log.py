"""The log of library calls: it records the calls, and no code can tell that it is there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sandbox.confined.call_log import CallLog, _OpaqueError, _Owner, _view
from tests.sandbox.machine import noise

IMAGE = noise(30, 20)
STEPS = {
    "rows": lambda a: a[2:-1],
    "columns": lambda a: a[:, 1:9],
    "upside down": lambda a: a[::-1],
    "mirrored": lambda a: np.fliplr(a),
    "turned": lambda a: np.rot90(a),
    "turned back": lambda a: np.rot90(a, -1),
    "swapped": lambda a: np.swapaxes(a, 0, 1),
    "a row": lambda a: a[3:4],
    "channels": lambda a: a[..., ::-1],
}


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=4), st.booleans())
def test_a_view_tells_where_it_lies(names: list[str], is_gray: bool) -> None:
    shape = (9, 12) if is_gray else (9, 12, 3)
    array: Any = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    owner = _Owner(lambda: array, "v1", array.__array_interface__["data"][0], shape, array.strides, array.dtype)  # type: ignore[arg-type]
    view = array
    for name in names:
        view = STEPS[name](view)  # type: ignore[no-untyped-call]
    if view.size and not (is_gray and "channels" in names and view.ndim < 2):
        text = _view(view, owner)
        assert text
        assert (eval(text, {"v1": array}) == view).all()  # our own text


def test_a_claim_holds_only_what_leads_to_the_result() -> None:
    log = CallLog()
    log.begin([IMAGE, noise(5, 5)], 0)
    half, other, result = IMAGE.copy(), IMAGE.copy(), IMAGE.copy()
    log.note(".crop", (IMAGE, (0, 0, 9, 9)), {}, half)
    log.note(".rotate", (IMAGE, 90), {"expand": True}, other)
    log.note(".resize", (half, (np.int64(18), 18), Image.Resampling.LANCZOS), {}, result)
    log.note(".paste", (other, half, (1, 2)), {}, None)
    assert log.end(result) == "v1 = image.crop((0, 0, 9, 9))\nv3 = v1.resize((18, 18), 1)\nresult = v3"
    log.begin([IMAGE], 0)
    with pytest.raises(_OpaqueError):  # the wrapper drops it
        log.note(".crop", (noise(4, 4), (0, 0, 2, 2)), {}, half)
    assert log.end(half) == ""
    log.begin([IMAGE], 0)
    for _ in range(300):
        log.note(".copy", (IMAGE,), {}, half)
    assert log.is_busy, "a long log is none"
