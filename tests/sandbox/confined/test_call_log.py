"""The log of library calls: it writes down what was done, and nobody can tell that it is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sandbox import ToolExecutor, ToolRequest
from sandbox.confined.call_log import CallLog, _OpaqueError, _Owner, _view
from tests.sandbox.effects.matrix import confined_executor
from tests.sandbox.machine import need, noise

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


@pytest.fixture(scope="module")
def confined() -> Iterator[ToolExecutor]:
    need()
    with confined_executor() as made:
        yield made


SHOWN = {
    "print(type(np.array(image)[1:]).__name__, type(image.copy()).__name__)": "ndarray Image",
    "import inspect\nprint(*list(inspect.signature(Image.Image.rotate).parameters)[:3])": "self angle resample",
    "import traceback\ntry:\n    image.point(lambda x: 1 / 0)\nexcept ZeroDivisionError:\n"
    "    print(traceback.format_exc().count('wrappers'), traceback.format_exc().count('File'))": "0 4",
    "image.point()": "TypeError: Image.point() missing 1 required positional argument: 'lut'\n  line 1: image.point()",
    "a = np.zeros((2, 2))\na.copy(1, 2)": "TypeError: copy() takes from 0 to 1 positional arguments but 2 were given\n"
    "  line 2: a.copy(1, 2)",
    "class Steps:\n    shrink, load = cv2.resize, np.array\nprint(Steps().shrink(Steps().load(image), (5, 4)).shape)"
    "": "(4, 5, 3)",
    "import copy, types\nprint(cv2.resize, isinstance(np.array, types.BuiltinFunctionType), "
    "copy.deepcopy(cv2.resize) is cv2.resize)": "<built-in function resize> True True",
    "import pickle\nprint(pickle.loads(pickle.dumps(np.asarray)) is np.asarray)": "True",
    "import weakref, gc\nr = weakref.ref(image.rotate(5))\nprint(r())": "None",
    "print(sum(len(np.array(image)[y:, x]) for y in range(20) for x in range(30)))": "6300",
}


@pytest.mark.parametrize("code", SHOWN)
def test_nobody_can_tell_that_calls_are_logged(code: str, confined: ToolExecutor) -> None:
    assert confined.execute([ToolRequest(code, [IMAGE])])[0].text.strip() == SHOWN[code]


CHANGED = {
    "a = np.array(image)\na[3:9, 4:9] = 0\nresult = a": (),
    "c = image.crop((2, 2, 22, 18))\nc.paste((1, 2, 3), (0, 0, 20, 16))\nresult = c": (),
    "c = image.crop((2, 2, 22, 18))\nd = image.rotate(180)\nresult = c": ("crop",),
    "v = image\nfor _ in range(3):\n    v = v.rotate(90, expand=True)\nresult = v": ("rotate_270",),
    "def f(n):\n    return image if n == 0 else f(n - 1).transpose(0)\nresult = f(5)": ("flip_horizontal",),
}


@pytest.mark.parametrize("code", CHANGED)
def test_what_was_done_last_decides(code: str, confined: ToolExecutor) -> None:
    assert confined.execute([ToolRequest(code, [IMAGE])])[0].tools == CHANGED[code]
