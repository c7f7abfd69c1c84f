"""Texts about results, errors and prints; randomness that repeats; and state that lives on in an episode."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandbox import Limits, ToolExecutor
from tests.sandbox.asked import IMAGE, run
from tests.sandbox.machine import need, noise

RESULTS: dict[str, tuple[tuple[int, int], Any]] = {
    "result = np.zeros((4, 6), np.uint8) + 7": ((6, 4), (7, 7, 7)),
    "result = np.full((4, 6, 1), 9, np.uint8)": ((6, 4), (9, 9, 9)),
    "result = np.full((4, 6, 4), 9, np.uint8)": ((6, 4), (9, 9, 9)),
    "result = np.full((4, 6, 3), 0.5)": ((6, 4), (128, 128, 128)),
    "result = np.full((4, 6, 3), 300.0, np.float32)": ((6, 4), (255, 255, 255)),
    "result = np.full((4, 6, 3), -5)": ((6, 4), (0, 0, 0)),
    "result = np.full((4, 6), True)": ((6, 4), (255, 255, 255)),
    "result = np.full((4, 6, 3), 70, np.uint16)": ((6, 4), (70, 70, 70)),
    "result = image.convert('RGBA').resize((3, 2))": ((3, 2), None),
    "result = image.convert('P')": ((20, 12), None),
    "result = image.convert('CMYK')": ((20, 12), None),
    "result = Image.fromarray(np.full((4, 6), 0x8000, np.uint16))": ((6, 4), (128, 128, 128)),
    "output = Image.new('1', (3, 3), 1)": ((3, 3), (255, 255, 255)),
    "draw.rectangle((0, 0, 30, 30), fill=(1, 2, 3))": ((20, 12), (1, 2, 3)),
    "image.paste((4, 5, 6), (0, 0, 20, 12))": ((20, 12), (4, 5, 6)),
    "img = np.full((2, 2, 3), 5, np.uint8)": ((2, 2), (5, 5, 5)),
    "def f(n):\n    return image if n == 0 else f(n - 1).rotate(90, expand=True)\nresult = f(2)": ((20, 12), None),
    "result = Image.fromarray(cv2.Canny(np.array(images[1]), 9, 9))": ((9, 8), None),
    "result = image_1": ((9, 8), None),
}


@pytest.mark.parametrize("code", RESULTS)
def test_results_of_every_kind(code: str, executor: ToolExecutor) -> None:
    observation = run(executor, code, IMAGE, noise(9, 8, 5))
    size, color = RESULTS[code]
    assert observation.status == "ok", observation.text
    assert observation.image is not None
    assert (observation.image.mode, observation.image.size) == ("RGB", size)
    if color is not None:
        assert observation.image.getcolors() == [(size[0] * size[1], color)]


BAD_RESULTS = {
    "x = 1": "The code ran but gave no result",
    "result = 5": "`result` is of type int: assign a Pillow image",
    "result = np.zeros((3, 3), complex)": "`result` is an array of complex128",
    "result = np.full((3, 3), np.nan)": "`result` holds values that are not finite",
    "result = np.array([[object()]])": "`result` is an array of object",
    "result = np.zeros(5)": "`result` is an array of shape (5,)",
    "result = np.zeros((2, 2, 2))": "`result` is an array of shape (2, 2, 2)",
    "result = np.zeros((0, 4, 3))": "The result has no pixels",
    "result = image.crop((1, 1, 1, 5))": "The result has no pixels: its size is 0x4.",
    "result = np.zeros((2, 2000, 3), np.uint8)": "The result is too thin: 2000x2 pixels",
    "result = np.zeros((6000, 6000, 3), np.uint8)": "The result is too large: 6000x6000 pixels",
    "a = [1]\nb = 2\na[b]": "IndexError: list index out of range\n  line 3: a[b]",
    "def f():\n    return 1 / 0\n\nf()": "ZeroDivisionError: division by zero\n  line 2: return 1 / 0",
    "print('before')\nresult = imag": "before\nNameError: name 'imag' is not defined\n  line 2: result = imag",
    "result = (": "SyntaxError: '(' was never closed\n  line 1: result = (",
    "raise SystemExit": "SystemExit\n  line 1: raise SystemExit",
    "import scipy": "ModuleNotFoundError: No module named 'scipy'",
    "cv2.medianBlur(np.array(image), 4)": "cv2.error: (-215:Assertion failed)",
}


@pytest.mark.parametrize("code", BAD_RESULTS)
def test_bad_results_have_their_own_text(code: str, executor: ToolExecutor) -> None:
    observation = run(executor, code)
    assert observation.status == "error"
    assert observation.image is None
    assert observation.text.startswith(BAD_RESULTS[code])


def test_text_is_bounded_clean_and_names_no_place_of_the_host(executor: ToolExecutor) -> None:
    assert len(run(executor, "print('x' * 10 ** 7)").text) == 8000
    assert "<|" not in run(executor, "print('<|im_start|>system')\nresult = image").text
    shown = run(
        executor,
        "import sys\nprint(np.__file__, PIL.__file__, sys.prefix, sys.path, sys.argv)\nraise ValueError(cv2.__file__)",
    ).text
    for place in (sys.prefix, str(Path(__file__).parents[3]), str(Path(np.__file__).parents[1])):
        assert place not in shown


def test_input_is_never_changed(executor: ToolExecutor) -> None:
    image = noise(30, 20)
    before = image.tobytes()
    observation = run(executor, "image.paste((0, 0, 0), (0, 0, 9, 9))\nresult = image", image)
    assert image.tobytes() == before
    assert observation.image is not None
    assert observation.image.getpixel((2, 2)) == (0, 0, 0)


RANDOM = (
    "import random\na = np.random.default_rng().integers(0, 255, (4, 4, 3))\nb = np.random.randint(0, 255, (4, 4, 3))\n"
    "print(random.random(), hash('x'), list({'a', 'b', 'c'}), cv2.randu(np.zeros((2, 2)), 0, 9).tolist())\n"
    "result = np.hstack([a, b]).astype(np.uint8)"
)


def test_randomness_repeats(executor: ToolExecutor) -> None:
    one, other = run(executor, RANDOM), run(executor, RANDOM)
    with ToolExecutor(lane="confined", workers=1) as another:
        third = run(another, RANDOM)
    for observation in (other, third):
        assert observation.text == one.text
        assert one.image is not None
        assert observation.image is not None
        assert observation.image.tobytes() == one.image.tobytes()


def test_stale_results_do_not_count_in_an_episode(quick: ToolExecutor) -> None:
    assert run(quick, "result = image.rotate(180)", episode="stale").status == "ok"
    assert run(quick, "y = 1", episode="stale").text.startswith("The code ran but gave no result")


def test_an_image_that_a_variable_holds_outlives_the_memory_of_its_call() -> None:
    need()
    first, second = noise(300, 200, 1), noise(300, 200, 2)
    with ToolExecutor(lane="confined", workers=1, limits=Limits(wall_s=10), fresh="episode") as executor:
        run(executor, "kept = image\nprint(1)", first, episode="a")
        for _ in range(2):
            shown = run(executor, "result = kept", second, episode="a")
            assert shown.image is not None
            assert shown.image.tobytes() == first.tobytes()
        plain = run(executor, "del kept\nresult = image", second, episode="a")
    assert plain.image is not None
    assert plain.image.tobytes() == second.tobytes(), "and the next call sees its own"
