"""A common OCR engine reads turned but not mirrored pages, in its own process and without a download."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from importlib.metadata import requires
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from cv_lightning.data.worlds.families import CODE_ALPHABET, WORDS
from cv_lightning.data.worlds.page import load_font
from cv_lightning.errors import ConfigError
from cv_lightning.tools import CodeTools
from cv_lightning.tools import read_text as module
from cv_lightning.tools.choose import restore_toolbox
from cv_lightning.tools.read_text import ReadText, TextLine, parse_lines
from sandbox import ORIENTATIONS, Observation, ToolExecutor, ToolRequest, orient

needs_ocr = pytest.mark.skipif(find_spec("rapidocr") is None, reason="needs pip install -e '.[ocr]'")

#: Words of five or more letters that no mirror leaves unchanged. The box of a shorter word is nearly square, and its
#: quarter turns are not recognized.
CHIRAL_WORDS = [word for word in WORDS if len(word) >= 5 and set(word) & set(CODE_ALPHABET)]

SIDES = st.tuples(*[st.integers(0, 99_999)] * 4)


@given(st.lists(st.builds(TextLine, SIDES, st.integers(0, 100).map(lambda score: score / 100), st.text())))
def test_what_is_written_for_a_policy_reads_back(lines: list[TextLine]) -> None:
    assert parse_lines("printed\n" + "\n".join(line.write() for line in lines)) == lines


def test_a_line_that_was_cut_off_is_left_out() -> None:
    assert [line.text for line in parse_lines('[1, 2, 3, 4] 0.98 "EXIT"\n[1, 9, 3, 12] 0.9')] == ["EXIT"]


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'cv-lightning[ocr]'")):
        ReadText()


@needs_ocr
def test_the_extra_brings_no_second_opencv() -> None:
    wanted = {re.split(r"[^\w-]", requirement)[0].lower() for requirement in requires("rapidocr") or ()}
    assert {name for name in wanted if "opencv" in name} == {"opencv-python-headless"}


def page(seed: int) -> tuple[Image.Image, list[str]]:
    """Eight words in two columns."""
    words = [CHIRAL_WORDS[n] for n in np.random.default_rng(seed).permutation(len(CHIRAL_WORDS))[:8]]
    image = Image.new("RGB", (480, 320), "white")
    for number, word in enumerate(words):
        at = (30 + 230 * (number % 2), 20 + 75 * (number // 2))
        ImageDraw.Draw(image).text(at, word, font=load_font("DejaVuSans", 32), fill="black")
    return image, words


@pytest.fixture(scope="module")
def tool() -> ReadText:
    tool = ReadText()
    tool.load()
    return tool


@needs_ocr
@pytest.mark.parametrize("orientation", ["identity", "rotate_90", "rotate_180", "rotate_270"])
def test_the_words_of_a_turned_page_are_read(tool: ReadText, orientation: str) -> None:
    image, words = page(1)
    lines = parse_lines(tool(orient(image, orientation)).text)
    assert len(lines) == 8
    assert len({line.text for line in lines} & set(words)) >= 7  # it sometimes doubles a letter


@needs_ocr
@pytest.mark.parametrize("orientation", sorted({*ORIENTATIONS} - {"identity", "rotate_90", "rotate_180", "rotate_270"}))
def test_no_word_of_a_mirrored_page_is_read(tool: ReadText, orientation: str) -> None:
    image, words = page(1)
    assert not set(words) & {line.text for line in parse_lines(tool(orient(image, orientation)).text)}


@needs_ocr
def test_it_loads_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    offline = ReadText()
    offline.load()
    assert "ALDER" in offline(word("ALDER", (40, 20))).text


def word(text: str, at: tuple[int, int], size: tuple[int, int] = (240, 80)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text(at, text, font=load_font("DejaVuSans", 32), fill="black")
    return image


@needs_ocr
def test_boxes_are_pixels_of_the_image_however_large(tool: ReadText) -> None:
    small = word("ALDER", (300, 20), (550, 75))
    for scale in (1, 4):
        image = small.resize((550 * scale, 75 * scale))
        (line,) = parse_lines(tool(image).text)
        ink = np.argwhere(np.asarray(image.convert("L")) < 128)
        expected = np.array([*ink.min(axis=0)[::-1], *ink.max(axis=0)[::-1]])
        assert np.abs(np.array(line.box) - expected).max() <= 16 * scale


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor(lane="pillow") as executor:
        yield executor


def read(executor: ToolExecutor, image: Image.Image) -> Observation:
    call = CodeTools([ReadText()]).read('{"name": "read_text", "arguments": {}}').call
    assert call is not None
    (observation,) = executor.execute([ToolRequest(call.code, [image], call.image_index, model=call.model)])
    assert observation.status == "ok"
    return observation


@needs_ocr
def test_a_policy_reads_what_was_found_in_a_process_of_its_own(executor: ToolExecutor) -> None:
    seen = read(executor, word("ALDER", (40, 20)))
    assert [line.text for line in parse_lines(seen.text)] == ["ALDER"]
    assert (seen.tools, seen.image) == (("read_text",), None)
    seen = read(executor, Image.new("RGB", (64, 64), "red"))
    assert (seen.text, seen.tools) == ("read_text found nothing.", ())


@needs_ocr
@pytest.mark.parametrize("size", [(1, 1), (900, 5), (5, 900), (3, 599)], ids=str)
def test_images_of_any_shape_are_answered(tool: ReadText, size: tuple[int, int]) -> None:
    assert tool(Image.new("RGB", size, "red")).text == ""


@needs_ocr
def test_an_exported_policy_gets_it_again() -> None:
    box = CodeTools([ReadText()])
    assert restore_toolbox(box.describe()).names == box.names == ["code_image_tool", "read_text"]
