"""What the chat server needs of whoever writes the replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cv_lightning.serving.request import ChatRequest


@dataclass(frozen=True)
class Progress:
    """How far a reply is.

    Attributes:
        text: All of it so far.
        n_output: Its tokens so far.
        end: "stop", "length", or None while it is being written.
    """

    text: str
    n_output: int
    end: str | None


class Running(Protocol):
    """A reply that is being written."""

    n_input: int

    def poll(self, timeout_s: float) -> Progress | None:
        """What is new, None where nothing is within `timeout_s`; raises `BadRequest` for what failed."""

    def cancel(self) -> None:
        """Nobody waits for it any more."""


class Backend(Protocol):
    """Who writes the replies. It is used from many threads."""

    name: str

    def start(self, request: ChatRequest) -> Running:
        """Start a reply; raises `BadRequest` where it cannot be written."""
