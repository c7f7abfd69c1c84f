"""A conversation in a terminal, in a pipe, and in quiet mode."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from cv_lightning.chat.terminal import TerminalChat, load_photo
from cv_lightning.conversation import Conversation
from cv_lightning.errors import ConfigError
from cv_lightning.viewer.records import FILE, read
from sandbox import ToolExecutor
from tests.cv_lightning.scripted import ANSWER, BREAK, TURN, Script, a_conversation, a_talk, photo


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor(lane="pillow") as executor:
        yield executor


@pytest.fixture(scope="module")
def conversation() -> Conversation:
    return a_conversation(max_context_tokens=2000)


def talk_in(console: Console, conversation: Conversation, executor: ToolExecutor, folder: Path, **options: Any) -> str:
    """The output of a conversation of one question."""
    script = Script(conversation, BREAK, TURN, ANSWER)
    chat = TerminalChat(lambda: a_talk(script, executor), folder, console=console, **options)
    chat.take_image(photo())
    assert chat.ask("What?")
    assert chat.save() == folder / "conversation_1" / "index.html"
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_pipe_gets_plain_lines(conversation: Conversation, executor: ToolExecutor, tmp_path: Path) -> None:
    lines = talk_in(Console(file=io.StringIO()), conversation, executor, tmp_path, show="blocks").splitlines()
    assert "\x1b" not in "".join(lines)
    assert lines[0] == "Closer."
    assert lines[2].startswith("-> error: ")
    assert any(line.startswith("-> ok: rotate_270 on image 0") for line in lines)
    image = tmp_path / "conversation_1" / "image_1.png"
    assert f"-> image 1, 40 x 60: {image}" in lines
    assert Image.open(image).size == (40, 60)
    assert "answer: 64P" in lines
    assert lines[-1].startswith("3 turns, ")
    assert [record["answer"] for record in read([tmp_path / "conversation_1" / FILE]).records] == ["64P"]


def test_a_terminal_gets_words_as_they_come_and_images(
    conversation: Conversation, executor: ToolExecutor, tmp_path: Path
) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=30)
    text = talk_in(console, conversation, executor, tmp_path, show="auto")
    assert text.count("\u2580") == 30 * 23, "40 x 60 pixels in 30 columns, two rows a line"
    assert "\x1b[38;2;" in text


def test_quiet_prints_the_answer_alone(conversation: Conversation, executor: ToolExecutor, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    assert talk_in(console, conversation, executor, tmp_path, is_quiet=True) == "64P\n"


@pytest.mark.parametrize(("content", "words"), [(None, "does not exist"), (b"no image", "is not an image")])
def test_a_photo_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "photo.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"--image .*photo.png: {words}"):
        load_photo(path, "--image")


def test_a_photo_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.setattr(Image, "open", refuse)  # root may read everything
    with pytest.raises(ConfigError, match=r"a\.png: may not be read\. Change its permissions\."):
        load_photo(tmp_path / "a.png", "--image")


def test_a_photo_is_upright_as_its_exif_tag_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.radial_gradient("L").convert("RGB").crop((0, 0, 90, 60))
    stored.save(tmp_path / "photo.png", exif=exif)
    read = load_photo(tmp_path / "photo.png", "--image")
    assert read.size == (60, 90)
    assert read.tobytes() == stored.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_an_image_that_is_a_line_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (603, 3)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="has 603 x 3 pixels; expected sides that differ by a factor of 200"):
        load_photo(tmp_path / "a.png", "--image")
