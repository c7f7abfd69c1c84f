"""A conversation in a terminal: text as it is sampled, images next to it, and commands between questions."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType

from PIL import Image
from rich.console import Console
from rich.text import Text

from cv_lightning.chat.reply_parts import Part, printable, read_parts
from cv_lightning.chat.talk import NO_ANSWER, Talk
from cv_lightning.chat.terminal_images import Show, can_show, half_blocks
from cv_lightning.data.rows import MAX_MEGAPIXELS, open_image
from cv_lightning.errors import ConfigError, CVLightningError, DataError
from cv_lightning.types import Trajectory, Turn
from cv_lightning.viewer.recording import save_image, write_records

HELP = """/image PATH   the next question is about this image (the earlier ones stay in the conversation)
/new          begin a new conversation with the same image
/save         write the conversation as a page and as records
/quit         end; Ctrl-D does the same, Ctrl-C stops an answer"""

_STYLES = {"thought": "dim", "code": "cyan", "call": "cyan", "answer": "bold green", "text": ""}
_HEADS = {"code": "  ", "call": "  ", "answer": "answer: "}


def load_photo(path: Path, option: str) -> Image.Image:
    """Load the image at a path as RGB pixels; `option` names it in errors.

    Raises:
        ConfigError: The file does not exist, is no image, or is too large.
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise ConfigError(f"{option} {path}: {what} (working directory {Path.cwd()}).")
    try:
        return open_image(path, option)
    except DataError as error:
        if error.__cause__ is None:
            remedy = str(error).partition(": image ")[2]
        elif isinstance(error.__cause__, Image.DecompressionBombError):
            remedy = f"has more than {MAX_MEGAPIXELS} megapixels ({error.__cause__}). Reduce it."
        elif isinstance(error.__cause__, PermissionError):
            remedy = "may not be read. Change its permissions."
        else:
            remedy = f"is not an image, or is broken ({error.__cause__}). Convert it to PNG or JPEG."
        raise ConfigError(f"{option} {path}: {remedy}") from error


class Stop:
    """Handles Ctrl-C: the first ends the answer after the current token or call; the second ends the program."""

    def __init__(self) -> None:
        self.is_set = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Handle Ctrl-C in this context; only in the main thread, because Python allows it nowhere else."""
        self.is_set = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self._request)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _request(self, signal_number: int, frame: FrameType | None) -> None:
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True


class AnswerPrinter:
    """Prints an answer as it comes: letter by letter in a terminal, turn by turn elsewhere.

    Args:
        console: Console to print to.
        stop: Tells whether Ctrl-C was pressed.
        folder: Folder for the images.
        show: How images are shown.
        n_given: Number of images before the answer.
        is_quiet: Print only the answer itself.
    """

    def __init__(self, console: Console, stop: Stop, folder: Path, show: Show, n_given: int, is_quiet: bool) -> None:
        self._console = console
        self._stop = stop
        self._folder = folder
        self._show_images = can_show(console, show)
        self._n_images = n_given
        self._is_quiet = is_quiet
        self._is_live = console.is_terminal and not is_quiet
        self._n_parts = 0  # parts of the turn that have been started
        self._n_letters = 0  # letters of the last of them that have been shown
        self._waiting = console.status("reading")
        self.wait()

    def wait(self) -> None:
        """Show a spinner until the first word comes."""
        if self._is_live:
            self._waiting.start()

    def end_wait(self) -> None:
        """Remove the spinner."""
        self._waiting.stop()

    def on_text(self, text: str) -> None:
        """Print the new text of a turn."""
        if self._is_live:
            self._show(read_parts(text, is_whole=False))

    def on_turn(self, trajectory: Trajectory) -> None:
        """Print the rest of a turn, the result of its call, and its image."""
        turn = trajectory.turns[-1]
        self.end_wait()
        if not self._is_quiet:
            self._show(read_parts(turn.text))
            if self._n_parts:
                self._console.print()
        self._n_parts = self._n_letters = 0
        self._show_observation(turn)
        for index in range(self._n_images, len(trajectory.images)):
            self._show_image(index, trajectory.images[index].image)
        self._n_images = len(trajectory.images)
        if trajectory.stop_reason is None and not self._stop.is_set:
            self.wait()

    def is_stopped(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._stop.is_set

    def _show(self, parts: list[Part]) -> None:
        for index in range(max(0, self._n_parts - 1), len(parts)):
            part = parts[index]
            if index >= self._n_parts:
                self.end_wait()
                if self._n_parts:
                    self._write("\n", "")
                self._write(_HEADS.get(part.kind, ""), _STYLES[part.kind])
                self._n_parts, self._n_letters = index + 1, 0
            new = part.text[self._n_letters :]
            self._n_letters = len(part.text)
            is_code = part.kind in ("code", "call")
            self._write(printable(new).replace("\n", "\n  ") if is_code else printable(new), _STYLES[part.kind])

    def _write(self, text: str, style: str) -> None:
        if text:
            self._console.print(Text(text, style=style), end="", soft_wrap=True)

    def _line(self, text: str, style: str = "") -> None:
        if not self._is_quiet:
            self._console.print(Text(printable(text), style=style), soft_wrap=True)

    def _show_observation(self, turn: Turn) -> None:
        seen = turn.observation
        if seen is None:
            return
        if seen.status != "ok":
            self._line(f"-> {seen.status}: {seen.text or turn.reply.fault or ''}", "red")
            return
        tools = ", ".join(seen.tools) or "no verified effect"
        on = f" on image {turn.reply.call.image_index}" if turn.reply.call is not None else ""
        self._line(f"-> ok: {tools}{on} ({seen.lane} lane, {1000 * seen.wall_s:.0f} ms)", "green")
        if seen.text:
            self._line(seen.text)

    def _show_image(self, index: int, image: Image.Image) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"image_{index}.png"
        image.save(path)
        self._line(f"-> image {index}, {image.width} x {image.height}: {path}")
        if self._show_images and not self._is_quiet:
            self._console.print(half_blocks(image, self._console.width), end="")


class TerminalChat:
    """Asks questions, shows answers, and saves the conversation.

    Args:
        new_talk: Starts a conversation.
        folder: For images and saved conversations; created when first needed.
        show: How images are shown.
        is_quiet: Whether only answers are printed.
        console: Console to print to; standard output by default.
    """

    def __init__(
        self,
        new_talk: Callable[[], Talk],
        folder: Path,
        show: Show = "none",
        is_quiet: bool = False,
        console: Console | None = None,
    ) -> None:
        self._new_talk = new_talk
        self._talk = new_talk()
        self._n_conversations = 0
        self._folder = folder
        self._show: Show = show
        self._is_quiet = is_quiet
        self._console = console or Console(highlight=False)
        self._image: Image.Image | None = None
        self._is_new_image = False
        self.stop = Stop()

    def take_image(self, image: Image.Image) -> None:
        """Use this image for the next question."""
        self._image, self._is_new_image = image, True

    def ask(self, question: str) -> bool:
        """Ask a question, show the answer, and return whether there is one.

        Raises:
            CVLightningError: The question cannot be asked.
            KeyboardInterrupt: Ctrl-C was pressed twice.
        """
        images = [self._image] if self._image is not None and self._is_new_image else []
        n_given = len(self._talk.trajectories[-1].images) if self._talk.trajectories else 0
        started = time.perf_counter()
        with self.stop.watching():
            printer = AnswerPrinter(
                self._console, self.stop, self.folder, self._show, n_given + len(images), self._is_quiet
            )
            try:
                trajectory = self._talk.ask(question, images, printer)
            finally:
                printer.end_wait()
        self._is_new_image = self._is_new_image and not trajectory.turns
        self._conclude(trajectory, time.perf_counter() - started)
        return trajectory.answer is not None

    @property
    def folder(self) -> Path:
        """The folder of this conversation."""
        return self._folder / f"conversation_{self._n_conversations + 1}"

    def _conclude(self, trajectory: Trajectory, seconds: float) -> None:
        if self._is_quiet:
            if trajectory.answer is not None:
                self._console.print(Text(printable(trajectory.answer)), soft_wrap=True)
            return
        if self.stop.is_set:
            kept = "the text so far is kept" if trajectory.turns else "nothing was said yet"
            self._console.print(Text(f"stopped: {kept}", style="yellow"))
        elif trajectory.stop_reason in NO_ANSWER:
            self._console.print(Text(f"no answer: {NO_ANSWER[trajectory.stop_reason]}", style="yellow"))
        n_turns = len(trajectory.turns)
        facts = [f"{n_turns} turn{'s' * (n_turns != 1)}", f"{seconds:.1f} s"]
        n_tokens = sum(trajectory.tokens.is_trained) - self._tokens_before()
        if n_tokens:
            facts[1:1] = [f"{n_tokens} tokens", f"{n_tokens / max(seconds, 1e-9):,.0f} tokens/s"]
        self._console.print(Text(", ".join(facts), style="dim"))

    def _tokens_before(self) -> int:
        earlier = self._talk.trajectories[:-1]
        return sum(earlier[-1].tokens.is_trained) if earlier else 0

    def save(self) -> Path | None:
        """Write the conversation for `python -m cv_lightning view`; returns its page, or None if it is empty.

        Raises:
            DataError: The conversation cannot be written.
        """
        if not self._talk.trajectories:
            return None
        folder = self.folder
        try:
            name = partial(save_image, folder=folder)
            records = [self._talk.record(trajectory, name) for trajectory in self._talk.trajectories]
            return write_records(records, folder, "Conversation")
        except OSError as error:
            raise DataError(f"{folder}: cannot be written ({error}). Name another folder with --out.") from error

    def loop(self) -> None:
        """Read questions and commands until the input ends."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - input() then has a history and can be edited
        if sys.stdin.isatty():
            self._console.print(Text("Ask about the image; /help lists the commands.", style="dim"))
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                self._console.print(Text("\n/quit or Ctrl-D ends the chat", style="dim"))
                continue
            try:
                if line in ("/quit", "/exit", "/q"):
                    return
                if line:
                    self._take(line)
            except CVLightningError as error:
                self._console.print(Text(f"error: {printable(str(error))}", style="red"), soft_wrap=True)

    def _take(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "/image":
            self.take_image(load_photo(Path(rest.strip()).expanduser(), "/image"))
        elif command == "/new":
            self._n_conversations += bool(self._talk.trajectories)
            self._talk = self._new_talk()
            self._is_new_image = self._image is not None
        elif command == "/save":
            page = self.save()
            self._console.print(Text(str(page) if page else "nothing was said yet"), soft_wrap=True)
        elif command == "/help":
            self._console.print(Text(HELP))
        elif command.startswith("/"):
            raise ConfigError(f"No command {command!r}.\n{HELP}")
        else:
            self.ask(line)
