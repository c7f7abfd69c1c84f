"""A snippet that lifts gives Python's result, bit for bit; code that cannot be read with certainty does not lift."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sandbox import Limits, ToolExecutor, ToolRequest
from sandbox.lift.reader import Fault, Unliftable, lift
from sandbox.operations.program import ToolProgram
from tests.sandbox.idioms import IDIOMS, Idiom, snippet_of
from tests.sandbox.machine import need


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(17, 12), (12, 17), (14, 14), (300, 200)], ids=str)
@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda idiom: idiom.__name__)
def test_idiom_gives_what_python_gives(idiom: Idiom, size: tuple[int, int]) -> None:
    images = [noise(*size), noise(size[0] + 3, size[1], 1)]
    expected = idiom(images[0].copy(), [image.copy() for image in images])
    (observation,) = ToolExecutor(lane="pillow").execute([ToolRequest(snippet_of(idiom), images)])
    assert observation.status == "ok", observation.text
    assert observation.level == "lifted"
    assert observation.image is not None
    assert observation.image.size == expected.size
    assert observation.image.tobytes() == expected.convert("RGB").tobytes()


UNREADABLE = {
    "a loop without an end": "while True:\n    image = image.rotate(90)\nresult = image",
    "a loop that is left": "for i in range(2):\n    image = image.rotate(90)\n    break\nresult = image",
    "a long loop": "for i in range(200):\n    for j in range(200):\n        x = 1\nresult = image",
    "a change in place of an array": "a = np.array(image)\na += 1\nresult = Image.fromarray(a)",
    "a change in place of a list": "a = b = [1]\na += [2]\nresult = image.rotate(len(b))",
    "bytes that overflow": "result = Image.fromarray(np.array(image) + 300)",
    "floats as pixels": "result = Image.fromarray(np.array(image) / 2)",
    "arithmetic of two images": "result = Image.fromarray(np.array(images[0]) + np.array(images[1]))",
    "arithmetic with a moved image": "a = np.array(image)\nresult = Image.fromarray(cv2.absdiff(a, np.fliplr(a)))",
    "a mean of floats": "a = np.array(image) / 3\nresult = (a - a.mean()).clip(0, 255).astype(np.uint8)",
    "an empty canvas": "result = Image.new('RGB', (5, 5))",
    "a second image on a canvas": (
        "c = Image.new('RGB', (50, 50))\nc.paste(image, (0, 0))\nc.paste(image, (20, 0))\nresult = c"
    ),
    "drawing that may change nothing": "draw.rectangle((0, 0, 5, 5))",
    "drawing on what was replaced": "image.thumbnail((9, 9))\ndraw.line((0, 0, 5, 5))\nresult = image",
    "a matrix with a slice": "m = np.eye(3)\nm[0] = 2\nresult = image.rotate(m[0, 0])",
    "a table with a fault": "result = image.point(lambda x: 100 / x)",
    "a pixel": "result = image.rotate(image.getpixel((0, 0))[0])",
    "a function": "def f(x):\n    return x\nresult = f(image)",
    "an unknown method": "result = image.quantize(4)",
    "a data dependent value": "result = image.rotate(np.array(image).mean())",
    "in place drawing": "draw.text((0, 0), 'a')\nresult = image",
    "an array written to": "a = np.array(image)\na[0] = 0\nresult = Image.fromarray(a)",
    "a filter of unknown cost": "result = image.filter(ImageFilter.MedianFilter(101))",
    "an unknown keyword": "result = image.rotate(90, resize=True)",
    "unpacking": "result = image.crop(*[(0, 0, 5, 5)])",
    "an import": "import os\nresult = image",
    "a file": "result = Image.open('/etc/passwd')",
    "a walk to the system": "Image.os.system('true')\nresult = image",
    "dunder": "result = image.__class__.__mro__",
    "a walrus": "result = (x := image.rotate(90))",
    "a rebound library": "np = image\nresult = np.rot90(image)",
    "a try": "try:\n    result = image.rotate(90)\nexcept Exception:\n    pass",
    "a slice that skips": "result = Image.fromarray(np.array(image)[::2])",
    "an empty slice": "result = Image.fromarray(np.array(image)[5:5])",
    "a large power": "result = image.rotate(9 ** 9 ** 9)",
    "a result that is no image": "result = 5",
    "gray pixels with a color": "result = image.convert('L').rotate(5, fillcolor=(1, 2, 3))",
    "OpenCV's dst by position": "result = Image.fromarray(cv2.convertScaleAbs(np.array(image), 1.5, 10))",
    "OpenCV's dst of resize": "result = Image.fromarray(cv2.resize(np.array(image), (5, 5), cv2.INTER_AREA))",
    "OpenCV on booleans": "result = cv2.convertScaleAbs(cv2.Laplacian(np.array(image) > 9, cv2.CV_64F))",
    "OpenCV on long integers": "result = cv2.convertScaleAbs(np.array(image).astype(np.int64))",
    "a warning of what is not used": "x = 1 / np.array(image)\nresult = image.rotate(90)",
    "a warning before a fault": "x = 1 / np.array(image)\ny = 1 / 0",
    "a warning of the compiler": "x = 5 is None\nresult = image",
    "a chain with in": "x = 1 in (1, 2) == True\nresult = image",
    "an annotation": "result: Foo = image.rotate(90)",
    "a closure in a list": "f = [lambda x: x * k for k in [1, 2]]\nresult = image.point(f[0])",
    "a table of large numbers": "result = image.point(lambda x: x ** 5)",
    "a number of few bits": "result = ImageOps.expand(image, np.array([250], dtype=np.uint8)[0])",
    "a message with a type of NumPy": "result = image.resize((np.sqrt(16), 5))",
    "a name that Pillow does not have": "from PIL import math\nresult = image",
    "a keyword that stands twice": "result = image.rotate(90, expand=True, expand=False)",
    "a changed enhancer": "e = ImageEnhance.Color(image)\nimage.thumbnail((5, 5))\nresult = e.enhance(2)",
}


@pytest.mark.parametrize("code", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_uncertain_does_not_lift(code: str) -> None:
    lifted = lift(code, ((20, 16),), 0)
    assert isinstance(lifted, Unliftable | Fault)
    (observation,) = ToolExecutor(lane="pillow").execute([ToolRequest(code, [noise(20, 16)])])
    assert observation.image is None
    assert observation.status in ("rejected", "error")
    assert observation.tools == ()


FAULTS = {
    "result = imag.rotate(90)": "NameError: name 'imag' is not defined",
    "result = image.rotat(90)": "AttributeError: 'Image' object has no attribute 'rotat'",
    "result = np.array(image).rotate(90)": "AttributeError: 'numpy.ndarray' object has no attribute 'rotate'",
    "result = image.transpose(Image.Transpose.ROTATE_45)": "AttributeError: ",
    "result = image.transpose(Image.ROTATE_45)": "AttributeError: module 'PIL.Image' has no attribute 'ROTATE_45'",
    "result = cv2.rotate(np.array(image), cv2.ROTATE_45)": "AttributeError: module 'cv2' has no attribute 'ROTATE_45'",
    "result = image.crop((9, 1, 3, 8))": "ValueError: Coordinate 'right' is less than 'left'",
    "result = image.resize((0, 8))": "ValueError: height and width must be > 0",
    "result = image.resize((8, 8), 99)": "ValueError: Unknown resampling filter (99).",
    "result = image.transpose(77)": "ValueError: No such transpose operation",
    "result = image.rotate(1 / 0)": "ZeroDivisionError: division by zero",
    "result = image.rotate(5, fillcolor='blurple')": "ValueError: unknown color specifier: 'blurple'",
    "x = image.size[2]\nresult = image": "IndexError: tuple index out of range",
    "result = image.rotate(90": "SyntaxError: '(' was never closed",
}


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    """An executor: code that does not lift runs confined, with the messages of Python itself."""
    need()
    with ToolExecutor(workers=1, limits=Limits(wall_s=10)) as executor:
        yield executor


@pytest.mark.parametrize("code", FAULTS)
def test_error_is_the_librarys_and_names_the_line(code: str, executor: ToolExecutor) -> None:
    (observation,) = executor.execute([ToolRequest(code, [noise(20, 16)])])
    assert observation.status == "error"
    assert observation.text.startswith(FAULTS[code])
    assert observation.text.endswith(f"line 1: {code.splitlines()[0]}")


@pytest.mark.parametrize("code", [code for code, text in FAULTS.items() if text.startswith(("Name", "Attr", "Syn"))])
def test_names_that_do_not_exist_are_faults_without_a_run(code: str) -> None:
    assert isinstance(lift(code, ((20, 16),)), Fault)


WRITTEN_OUT = {
    "result = imag.rotate(90)": lambda image: imag.rotate(90),  # noqa: F821
    "result = image.rotat(90)": lambda image: image.rotat(90),
    "result = np.array(image).rotate(90)": lambda image: np.array(image).rotate(90),
    "result = image.transpose(Image.Transpose.ROTATE_45)": lambda image: image.transpose(Image.Transpose.ROTATE_45),
    "result = image.transpose(Image.ROTATE_45)": lambda image: image.transpose(Image.ROTATE_45),
    "result = image.crop((9, 1, 3, 8))": lambda image: image.crop((9, 1, 3, 8)),
    "result = image.resize((0, 8))": lambda image: image.resize((0, 8)),
    "result = image.resize((8, 8), 99)": lambda image: image.resize((8, 8), 99),
    "result = image.transpose(77)": lambda image: image.transpose(77),
    "result = image.rotate(1 / 0)": lambda image: image.rotate(1 / 0),
    "result = image.rotate(5, fillcolor='blurple')": lambda image: image.rotate(5, fillcolor="blurple"),
}


@pytest.mark.parametrize("code", WRITTEN_OUT)
def test_fault_is_what_python_raises(code: str, executor: ToolExecutor) -> None:
    """The kind and text of each fault, compared with the same call written out here."""
    image = noise(20, 16)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the exception itself is compared
        WRITTEN_OUT[code](image)
    (observation,) = executor.execute([ToolRequest(code, [image])])
    assert observation.text.splitlines()[0] == f"{type(caught.value).__name__}: {caught.value}"


def test_a_later_statement_that_raises_fails_the_whole(executor: ToolExecutor) -> None:
    code = "result = image.rotate(90)\nprint(image.size)\nx = image.crop((5, 5, 1, 1))"
    (observation,) = executor.execute([ToolRequest(code, [noise(20, 16)])])
    assert observation.status == "error"
    assert observation.image is None
    assert observation.text.startswith("(20, 16)\nValueError")
    assert "line 3" in observation.text


@pytest.mark.parametrize(
    ("code", "turned"),
    [
        ("result = image.rotate(180)\noutput = image", "rotate_180"),
        ("output = image.rotate(180)\nimage = ImageOps.flip(image)", "rotate_180"),
        ("processed_image = image.rotate(180)\nimg = ImageOps.flip(image)", "rotate_180"),
        ("img = image.rotate(180)\nimage = ImageOps.flip(image)", "rotate_180"),
        ("image = image.rotate(180)", "rotate_180"),
        ("result = None\noutput = image.rotate(180)", "rotate_180"),
    ],
)
def test_result_names_in_order(code: str, turned: str) -> None:
    (observation,) = ToolExecutor(lane="pillow").execute([ToolRequest(code, [noise(8, 6)])])
    assert observation.orientation == turned


def test_prints_are_shown_with_and_without_a_result() -> None:
    code = "print('size', image.size)\nprint(f'mode={image.mode}', 1.5, True)"
    without, with_result = ToolExecutor(lane="pillow").execute(
        [ToolRequest(code, [noise(8, 6)]), ToolRequest(code + "\nresult = image", [noise(8, 6)])]
    )
    assert (without.status, without.text, without.image) == ("ok", "size (8, 6)\nmode=RGB 1.5 True", None)
    assert (with_result.status, with_result.text) == ("ok", without.text)
    assert with_result.image is not None


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(code: str) -> None:
    assert isinstance(lift(code, ((9, 7),), 0), ToolProgram | Unliftable | Fault)


@given(
    st.lists(
        st.sampled_from(
            [
                "image",
                "result",
                "=",
                ".",
                "rotate",
                "(",
                ")",
                "[",
                "]",
                ":",
                "90",
                "-",
                ",",
                "\n",
                "crop",
                "np",
                "*",
                "if ",
                "'",
            ]
        ),
        max_size=30,
    )
)
def test_any_tokens_are_read_or_refused(tokens: list[str]) -> None:
    assert isinstance(lift("".join(tokens), ((9, 7),), 0), ToolProgram | Unliftable | Fault)


@pytest.mark.parametrize(
    "code", ["-" * 2000 + "1", "(" * 500, "[" * 90 + "]" * 90, "a." * 900 + "a", "1" * 2000, "x=" * 900 + "1"]
)
def test_deep_nesting_is_refused(code: str) -> None:
    assert isinstance(lift(code, ((9, 7),), 0), ToolProgram | Unliftable | Fault)


@pytest.mark.parametrize(
    "code",
    [
        "draw.ellipse((-1000000, -1000000, 1000000, 1000000), fill='red')\nresult = image",
        "draw.line((0, 0, 900000, 900000), fill='red', width=200)\nresult = image",
        "arr = np.array(image)\nresult = (np.sqrt(arr) * np.sqrt(255)).astype(np.uint8)",
        "arr = np.array(image)\nresult = np.uint8(255 * np.log1p(arr) / np.log(256))",
        "arr = np.array(image)\nresult = cv2.erode(arr, np.ones((3, 3), np.uint8), None, 2)",
        "x = " + 1000 * "-" + "1\nresult = image",
        "arr = np.array(image)\nresult = np.minimum(arr, x2=200)",
        "arr = np.array(image)\nresult = np.where(arr > 100, x=arr, y=0).astype(np.uint8)",
        "arr = np.array(image)\nresult = np.clip(arr, 10, 200, dst=None)",
        "arr = np.array(image)\nresult = np.invert(arr, dst=None)",
        "arr = np.array(image)\nresult = np.concatenate(arrays=[arr, arr], axis=1)",
        "arr = np.array(image)\nresult = np.concatenate([arr, arr], axis=True)",
        "x = cv2.GaussianBlur(np.array(image), (0, 3), 0)\nresult = image",
        "result = cv2.rotate(np.array(image), 3)",
        "result = Image.new('RGB', (5, 5), None)",
        "c = Image.new('RGB', (50, 50), None)\nc.paste(image, (0, 0))\nresult = c",
        "x = Image.rotate\nresult = image",
        "arr = np.array(image)\nresult = np.swapaxes(arr, 0.0, 1)",
        "arr = np.array(image)\nresult = np.rot90(arr, 1, (False, True))",
    ],
)
def test_what_a_review_found_does_not_lift(code: str) -> None:
    assert isinstance(lift(code, ((64, 64),), 0), Unliftable)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_is_forked_while_threads_read_can_read() -> None:
    stop = threading.Event()

    def work(seed: int) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            lift(f"result = image.rotate({seed} + {number}, expand=True)", ((9, 7),))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        children = [os.fork() or os._exit(_status_of_child()) for _ in range(16)]
        deadline = time.monotonic() + 60
        left = set(children)
        while left and time.monotonic() < deadline:
            for child in list(left):
                done, status = os.waitpid(child, os.WNOHANG)
                assert status == 0
                left -= {done}
            time.sleep(0.01)
        for child in left:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert not left
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _status_of_child() -> int:
    lift.cache_clear()
    (observation,) = ToolExecutor(lane="pillow").execute([ToolRequest("result = image.rotate(180)", [noise(9, 7)])])
    return 0 if observation.status == "ok" else 1


def test_what_cannot_run_says_which_line_and_what_to_write() -> None:
    code = "w = image.width\nif w > 5:\n    image = image.rotate(90)\nresult = image"
    read = lift(code, ((9, 7),))
    assert read == Unliftable("a condition", 2, "decide from the image size that you were told")
    (observation,) = ToolExecutor(lane="pillow").execute([ToolRequest(code, [noise(9, 7)])])
    assert observation.text.startswith("line 2: a condition cannot run here; decide from the image size")
