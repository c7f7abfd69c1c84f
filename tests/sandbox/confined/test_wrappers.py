"""Library calls are logged, and no code can tell."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import pytest

from sandbox import ToolExecutor, ToolRequest
from tests.sandbox.effects.matrix import confined_executor
from tests.sandbox.machine import need, noise

IMAGE = noise(30, 20)


@pytest.fixture(scope="module")
def confined() -> Iterator[ToolExecutor]:
    need()
    with confined_executor() as made:
        yield made


def n_frames() -> int:
    """Traceback frames of an error in `Image.point` without logging; Python 3.12 and later have fewer."""
    try:
        IMAGE.point(lambda x: 1 / 0)
    except ZeroDivisionError:
        return traceback.format_exc().count("File")
    raise AssertionError("the function was not called")


SHOWN = {
    "print(type(np.array(image)[1:]).__name__, type(image.copy()).__name__)": "ndarray Image",
    "import inspect\nprint(*list(inspect.signature(Image.Image.rotate).parameters)[:3])": "self angle resample",
    "import traceback\ntry:\n    image.point(lambda x: 1 / 0)\nexcept ZeroDivisionError:\n"
    "    print(traceback.format_exc().count('wrappers'), traceback.format_exc().count('File'))": f"0 {n_frames()}",
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
