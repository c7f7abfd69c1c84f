"""The conversations of a page: answered one after the other, with limits on their number, pixels and time."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from cv_lightning.chat.reply_parts import Part, read_parts
from cv_lightning.chat.talk import NO_ANSWER, Talk
from cv_lightning.errors import ConversationError
from cv_lightning.serving.request import BadRequest
from cv_lightning.types import Trajectory
from cv_lightning.viewer.pictures import Stored, store
from cv_lightning.viewer.recording import image_name

_LOG = logging.getLogger(__name__)

_CLOSED = "The server is shutting down."


@dataclass(frozen=True)
class RoomLimits:
    """Limits of the conversations.

    Attributes:
        conversations: Number of conversations to keep; the one that was silent for longest is dropped first.
        idle_s: A conversation that was silent for this many seconds is dropped.
        image_megapixels: Largest image of a question.
        talk_megapixels: All images of a conversation, including results of calls.
        total_megapixels: All images of all conversations.
        waiting: Number of questions that may wait for their turn; further ones are refused.
        question_chars: Longest question.
    """

    conversations: int = 32
    idle_s: float = 1800.0
    image_megapixels: float = 40.0
    talk_megapixels: float = 160.0
    total_megapixels: float = 480.0
    waiting: int = 16
    question_chars: int = 8000


@dataclass
class Room:
    """One conversation; its `id` is a secret that only its starter knows."""

    talk: Talk
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    used: float = field(default_factory=time.monotonic)
    answer: RunningAnswer | None = None
    images: dict[str, Stored] = field(default_factory=dict)

    def megapixels(self) -> float:
        """Megapixels of all its images."""
        trajectories = self.talk.trajectories
        images = trajectories[-1].images if trajectories else []
        return sum(viewed.image.width * viewed.image.height for viewed in images) / 1e6


class RunningAnswer:
    """An unfinished answer: the worker fills it (it is the conversation's watcher), and a connection reads it.

    Args:
        room: Its conversation.
        question: The question.
        images: New images for the question.
    """

    def __init__(self, room: Room, question: str, images: list[Image.Image]) -> None:
        self.room = room
        self.question = question
        self.images = images
        self._changed = threading.Condition()
        self._version = 0
        self._is_stopped = False
        self._started = 0.0
        self._parts: list[Part] = []
        self._record: dict[str, Any] | None = None
        self._state = "waiting"
        self._message = ""

    def on_text(self, text: str) -> None:
        """Store the text of a turn so far."""
        with self._changed:
            self._parts = read_parts(text, is_whole=False)
            self._note()

    def on_turn(self, trajectory: Trajectory) -> None:
        """Store a complete turn and its result."""
        record = self.room.talk.record(trajectory, self._keep)
        with self._changed:
            self._parts, self._record = [], record
            self._note()

    def is_stopped(self) -> bool:
        """Whether the answer was stopped."""
        return self._is_stopped

    def stop(self) -> None:
        """Stop the answer after the current token or call."""
        self._is_stopped = True

    def begin(self) -> None:
        """Mark the answer as being written."""
        with self._changed:
            self._state, self._started = "writing", time.perf_counter()
            self._note()

    def end(self, state: str, message: str = "") -> None:
        """Mark the answer as complete or failed; `message` says why."""
        with self._changed:
            self._state, self._message, self._parts = state, message, []
            self._note()

    def news(self, seen: int, timeout_s: float) -> tuple[int, dict[str, Any]] | None:
        """The current version and its content; None if no version after `seen` comes within `timeout_s`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._version > seen, timeout_s):
                return None
            parts = [[part.kind, part.text] for part in self._parts]
            return self._version, {
                "state": self._state,
                "message": self._message,
                "parts": parts,
                "record": self._record,
            }

    def summary(self, trajectory: Trajectory) -> str:
        """How it ended, in one line."""
        seconds = time.perf_counter() - self._started
        if self._is_stopped:
            return "stopped" + ("; the text so far is kept" if trajectory.turns else " before the first word")
        reason = NO_ANSWER.get(trajectory.stop_reason) if trajectory.stop_reason is not None else None
        n_turns = len(trajectory.turns)
        return (f"no answer: {reason}; " if reason else "") + f"{n_turns} turn{'s' * (n_turns != 1)}, {seconds:.1f} s"

    def _keep(self, image: Image.Image) -> str:
        name = image_name(image)
        if name not in self.room.images:
            self.room.images |= store([(name, image)])
        return name

    def _note(self) -> None:
        self._version += 1
        self._changed.notify_all()


class Rooms:
    """All conversations of a page, and the one thread that answers them.

    Args:
        new_talk: Starts a conversation.
        limits: Limits of the conversations.
    """

    def __init__(self, new_talk: Callable[[], Talk], limits: RoomLimits | None = None) -> None:
        self.limits = limits or RoomLimits()
        self._new_talk = new_talk
        self._rooms: dict[str, Room] = {}
        self._waiting: deque[RunningAnswer] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()

    def ask(self, room_id: str | None, question: str, images: list[Image.Image]) -> RunningAnswer:
        """Put a question in the queue.

        Args:
            room_id: Id of its conversation; None starts one.
            question: The question.
            images: New images for the question.

        Raises:
            BadRequest: The conversation is missing, busy or full; too many questions wait; or the page is closed.
        """
        with self._changed:
            self._forget_silent()
            room = self._find(room_id) if room_id is not None else Room(self._new_talk())
            if room.answer is not None:
                raise BadRequest("The previous answer is still being written. Stop it first.", code="busy", status=409)
            if room.megapixels() > self.limits.talk_megapixels:
                raise BadRequest("The conversation holds too many pixels. Begin a new one.", code="full", status=409)
            if self._is_closed:
                raise BadRequest(_CLOSED, code="closed", status=503)
            if len(self._waiting) >= self.limits.waiting:
                raise BadRequest(
                    "Too many questions are waiting. Ask again in a moment.", code="queue_full", status=429
                )
            self._rooms[room.id] = room
            room.used = time.monotonic()
            room.answer = RunningAnswer(room, question, images)
            self._make_room(room)
            self._waiting.append(room.answer)
            self._changed.notify_all()
            return room.answer

    def stop(self, room_id: str) -> None:
        """End the answer of a conversation; raises `BadRequest` if there is no such conversation."""
        with self._changed:
            answer = self._find(room_id).answer
        if answer is not None:
            answer.stop()

    def ahead(self, answer: RunningAnswer) -> int:
        """Number of questions that are answered before this one."""
        with self._changed:
            waiting = [*self._waiting]
        return waiting.index(answer) + 1 if answer in waiting else 0

    def __len__(self) -> int:
        with self._changed:
            self._forget_silent()
            return len(self._rooms)

    def close(self) -> None:
        """Stop every answer; the thread ends after the current token or call."""
        with self._changed:
            self._is_closed = True
            for room in self._rooms.values():
                if room.answer is not None:
                    room.answer.stop()
            self._changed.notify_all()
        self._thread.join(timeout=60)

    def _find(self, room_id: str) -> Room:
        room = self._rooms.get(room_id)
        if room is None:
            raise BadRequest(
                "This conversation has ended: it was silent for too long, or others needed its place. Begin a new one.",
                code="no_conversation",
                status=404,
            )
        return room

    def _forget_silent(self) -> None:
        now = time.monotonic()
        for room in [*self._rooms.values()]:
            if room.answer is None and now - room.used > self.limits.idle_s:
                del self._rooms[room.id]

    def _make_room(self, kept: Room) -> None:
        """Drop conversations, longest silent first, until number and pixels are within the limits."""
        idle = sorted(
            (room for room in self._rooms.values() if room.answer is None and room is not kept),
            key=lambda room: room.used,
        )
        new = sum(image.width * image.height for image in kept.answer.images) / 1e6 if kept.answer else 0.0
        while idle and (
            len(self._rooms) > self.limits.conversations
            or new + sum(room.megapixels() for room in self._rooms.values()) > self.limits.total_megapixels
        ):
            del self._rooms[idle.pop(0).id]

    def _run(self) -> None:
        while (answer := self._next()) is not None:
            answer.begin()
            state, message = self._write(answer)
            with self._changed:
                answer.room.answer = None  # before the end is announced, because the next question may follow at once
                answer.room.used = time.monotonic()
            answer.end(state, message)
        for answer in self._waiting:
            answer.end("failed", _CLOSED)

    def _next(self) -> RunningAnswer | None:
        with self._changed:
            while not self._waiting and not self._is_closed:
                # Silent conversations are dropped even if no question comes.
                self._changed.wait(timeout=min(self.limits.idle_s, 60.0))
                self._forget_silent()
            return None if self._is_closed else self._waiting.popleft()

    def _write(self, answer: RunningAnswer) -> tuple[str, str]:
        """Write an answer; returns its final state and a line about it."""
        try:
            trajectory = answer.room.talk.ask(answer.question, answer.images, answer)
        except ConversationError as error:
            return "failed", str(error)
        except Exception:  # noqa: BLE001 - the page gets an error and the next question is answered
            _LOG.exception("an answer failed")
            return "failed", "The answer could not be written; the terminal says why."
        return "done", answer.summary(trajectory)
