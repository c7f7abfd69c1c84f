"""`python -m cv_lightning chat`: talk with a policy about images, in the terminal or in a browser. See docs/chat.md."""

from __future__ import annotations

import argparse
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from cv_lightning.chat.talk import AnswerLimits, Talk
from cv_lightning.chat.terminal import TerminalChat, load_photo
from cv_lightning.chat.terminal_images import SHOWS
from cv_lightning.console.quiet import is_quiet
from cv_lightning.errors import ConfigError
from cv_lightning.rollout import Sampling
from cv_lightning.serving.command import add_policy_options, command_line, load_policy
from sandbox import ConfinementError, ToolExecutor
from sandbox.executor import LaneName


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = command_line(
        "chat", "Talk with a policy about an image, and see its reasoning, its code, the results and its answer."
    )
    add = options.add_argument
    add("question", nargs="?", help="if left out, questions are read from the terminal")
    add("--image", type=Path, help="the image that the question is about")
    add("--interactive", action="store_true", help="read more questions after that of the command line")
    add_policy_options(options)
    add("--temperature", type=float, default=0.0, help="sampling temperature; 0 takes the most probable token")
    add("--seed", type=int, default=0, help="sampling seed: the same question gets the same answer")
    add("--max-turns", type=int, default=4, help="turns of the policy for one question")
    add("--lane", choices=get_args(LaneName), default="auto", help="where its code runs: see sandbox.ToolExecutor")
    add("--out", type=Path, help="folder of images and conversations (default: runs/chat/<date and time>)")
    add("--serve", action="store_true", help="serve a page for the browser instead, on this machine only")
    add("--port", type=int, default=8766, help="port of the page; 0 takes a free one")
    add("--show", choices=SHOWS, default="auto", help="images in the terminal; auto shows them if it has 24-bit colors")
    return options


def main(arguments: Sequence[str]) -> int:
    """Answer questions until there are no more; returns 1 if the question on the command line got no answer.

    Raises:
        ConfigError: An option has a wrong value.
        CVLightningError: The policy cannot be loaded, or the question cannot be asked.
    """
    options = parser().parse_args(arguments)
    _check(options)
    if options.serve:
        with open_talks(options) as new_talk:
            return serve_page(new_talk, f"Chat with {Path(options.policy).resolve().name}", options.port)
    photo = load_photo(options.image, "--image") if options.image is not None else None
    folder = options.out or Path("runs/chat") / time.strftime("%Y-%m-%d_%H-%M-%S")
    with open_talks(options) as new_talk:
        chat = TerminalChat(new_talk, folder, options.show, is_quiet())
        if photo is not None:
            chat.take_image(photo)
        has_answer = chat.ask(options.question) if options.question is not None else True
        if chat.stop.is_set and not options.interactive:
            raise KeyboardInterrupt
        if options.question is None or options.interactive:
            chat.loop()
    return 0 if has_answer else 1


def _check(options: argparse.Namespace) -> None:
    for name in ("max_context_tokens", "max_new_tokens", "max_turns"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(options, name)}")
    if not 0 <= options.temperature <= 100:
        raise ConfigError(f"--temperature: expected a number from 0 to 100, got {options.temperature:g}")
    if not -(1 << 63) <= options.seed < 1 << 63:
        raise ConfigError(f"--seed: expected a signed 64-bit number, got {options.seed}")
    if options.question is not None and not options.question.strip():
        raise ConfigError(
            "The question is empty. Ask something about the image, or leave the question out and type it later."
        )
    if options.serve and (options.question is not None or options.image is not None or options.interactive):
        raise ConfigError("--serve takes questions and images in the browser: leave them out here.")
    if not 0 <= options.port < 1 << 16:
        raise ConfigError(f"--port: expected a number from 0 to 65535, got {options.port}")
    if options.question is not None and options.image is None:
        raise ConfigError("--image is missing: name the image that the question is about.")


@contextlib.contextmanager
def open_talks(options: argparse.Namespace) -> Iterator[Callable[[], Talk]]:
    """Load the policy and its executor, which ends with the block; yields a function that starts a conversation.

    Raises:
        CVLightningError: The policy, its device or the lane is not available.
    """
    from modules.samplers.speaking import speaking

    limits = AnswerLimits(Sampling(options.temperature, options.max_new_tokens, options.seed), options.max_turns)
    policy = load_policy(options)
    is_on_device = policy.device is not None and policy.device.type != "cpu" and options.lane in ("auto", "kornia")
    on_device: Any = str(policy.device) if is_on_device else None
    try:
        executor = ToolExecutor(lane=options.lane, device=on_device)
    except (ValueError, ConfinementError) as error:
        raise ConfigError(f"--lane {options.lane}: {error}") from error
    with executor, speaking(policy, options.engine) as speaker:
        yield lambda: Talk(speaker, executor, limits)


def serve_page(new_talk: Callable[[], Talk], title: str, port: int) -> int:
    """Serve the page until Ctrl-C.

    Raises:
        ConfigError: The port is in use, or not allowed.
    """
    from cv_lightning.chat.page.rooms import Rooms
    from cv_lightning.chat.page.server import PageServer

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    rooms = Rooms(new_talk)
    try:
        server = PageServer(rooms, title, port)
    except OSError as error:
        rooms.close()
        raise ConfigError(
            f"--port {port}: cannot listen there ({error.strerror}). Name another port, or 0 for a free one."
        ) from error
    print(f"http://127.0.0.1:{server.port}/ (Ctrl-C ends it)", flush=True)
    server.serve_until_interrupted()
    return 0
