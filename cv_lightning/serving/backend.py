"""The interface between the chat server and whoever writes its replies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cv_lightning.serving.request import ChatRequest


@dataclass(frozen=True)
class ReplySoFar:
    """How far a reply is.

    Attributes:
        text: All of it so far.
        n_output: Its tokens so far.
        end: "stop", "length", or None while it is being written.
    """

    text: str
    n_output: int
    end: str | None


class RunningReply(Protocol):
    """A reply that is being written."""

    n_input: int

    def read(self) -> ReplySoFar | None:
        """The reply as it is now, None if nothing is new; does not wait. Raises `BadRequest` if it failed."""

    def cancel(self) -> None:
        """Nobody waits for the reply."""


class Backend(Protocol):
    """Writes replies, for many clients at the same time."""

    name: str

    def start(self, request: ChatRequest, notify: Callable[[], None]) -> RunningReply:
        """Start a reply; `notify` is called, from any thread, whenever it has something new.

        Raises:
            BadRequest: It cannot be written.
        """
