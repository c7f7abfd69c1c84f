"""Conversations are answered in turn, stay within their limits, and are forgotten when idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from cv_lightning.chat.page.rooms import RoomLimits, Rooms, RunningAnswer
from cv_lightning.chat.talk import AnswerLimits, Talk, Watcher
from cv_lightning.conversation import parse_reply
from cv_lightning.rollout import Sampling
from cv_lightning.serving.request import BadRequest
from cv_lightning.types import StopReason, Trajectory, Turn
from tests.cv_lightning.scripted import ANSWER, photo


class SlowTalk(Talk):
    """Answers after `may_answer` is set; the question `broken` raises an error of ours."""

    may_answer = threading.Event()
    n_asked = 0

    def __init__(self) -> None:
        nobody: Any = SimpleNamespace(conversation=None)
        super().__init__(nobody, nobody, AnswerLimits(Sampling()))

    def _answer(self, trajectory: Trajectory, images: Sequence[Image.Image], watcher: Watcher) -> None:
        SlowTalk.n_asked += 1
        watcher.on_text("<think>Up")
        while not (watcher.is_stopped() or SlowTalk.may_answer.is_set()):
            time.sleep(0.005)
        if watcher.is_stopped():
            return
        if trajectory.sample.question == "broken":
            raise RuntimeError("a mistake of ours")
        trajectory.turns.append(Turn(ANSWER, parse_reply(ANSWER)))
        trajectory.stop_reason = StopReason.ANSWERED
        watcher.on_turn(trajectory)


LIMITS = RoomLimits(conversations=3, talk_megapixels=0.01, total_megapixels=0.02, waiting=2)


@pytest.fixture
def rooms() -> Iterator[Rooms]:
    SlowTalk.may_answer.clear()
    SlowTalk.n_asked = 0
    rooms = Rooms(SlowTalk, LIMITS)
    yield rooms
    rooms.close()


def end_of(answer: RunningAnswer) -> dict[str, Any]:
    """The last news of an answer."""
    version, news = 0, {"state": "waiting"}
    while news["state"] in ("waiting", "writing"):
        fresh = answer.news(version, 10.0)
        assert fresh is not None, "nothing new for ten seconds"
        version, news = fresh
    return news


def begun(rooms: Rooms, question: str = "What?", **image: int) -> RunningAnswer:
    """An answer that has its first words."""
    answer = rooms.ask(None, question, [photo(**image)])
    version = 0
    while not (fresh := answer.news(version, 10.0)) or not fresh[1]["parts"]:
        assert fresh is not None
        version = fresh[0]
    return answer


def refusal(rooms: Rooms, room_id: str | None, *images: Image.Image) -> tuple[int, str | None]:
    with pytest.raises(BadRequest) as caught:
        rooms.ask(room_id, "What?", list(images))
    return caught.value.status, caught.value.code


def test_words_come_before_the_turn_and_the_turn_before_the_end(rooms: Rooms) -> None:
    answer = begun(rooms)
    version, news = answer.news(0, 0.0) or (0, {})
    assert (news["state"], news["record"]) == ("writing", None)
    assert [(kind, text) for kind, text in news["parts"]] == [("thought", "Up")]
    assert answer.news(version, 0.01) is None
    SlowTalk.may_answer.set()
    news = end_of(answer)
    assert (news["state"], news["parts"]) == ("done", [])
    assert news["message"].startswith("1 turn, ")
    assert news["record"]["answer"] == "64P"
    assert [image["file"] for image in news["record"]["images"]] == list(answer.room.images)


def test_one_question_at_a_time_in_a_conversation_and_the_next_right_after_the_end(rooms: Rooms) -> None:
    answer = begun(rooms)
    assert refusal(rooms, answer.room.id) == (409, "busy")
    SlowTalk.may_answer.set()
    for _ in range(20):
        end_of(answer)
        answer = rooms.ask(answer.room.id, "And now?", [])
    assert end_of(answer)["record"]["first_image"] == 1


def test_others_wait_for_their_turn_and_too_many_are_turned_away(rooms: Rooms) -> None:
    first = begun(rooms)
    second, third = (rooms.ask(None, "What?", [photo()]) for _ in range(2))
    assert [rooms.ahead(one) for one in (first, second, third)] == [0, 1, 2]
    assert refusal(rooms, None, photo()) == (429, "queue_full")
    SlowTalk.may_answer.set()
    assert [end_of(one)["state"] for one in (first, second, third)] == ["done"] * 3


def test_a_stopped_answer_leaves_the_conversation_as_it_was(rooms: Rooms) -> None:
    answer = begun(rooms)
    rooms.stop(answer.room.id)
    news = end_of(answer)
    assert (news["state"], news["message"], news["record"]) == ("done", "stopped before the first word", None)
    assert answer.room.talk.trajectories == []
    news = end_of(rooms.ask(answer.room.id, "And without an image?", []))
    assert (news["state"], news["message"]) == ("failed", "There is no image to talk about. Name one first.")


def test_a_mistake_of_ours_is_told_and_the_next_question_is_answered(
    rooms: Rooms, caplog: pytest.LogCaptureFixture
) -> None:
    SlowTalk.may_answer.set()
    broken = rooms.ask(None, "broken", [photo()])
    assert end_of(broken)["message"] == "The answer could not be written; the terminal says why."
    assert "a mistake of ours" in caplog.text
    assert end_of(rooms.ask(broken.room.id, "What?", [photo()]))["state"] == "done"


def test_the_most_silent_conversation_makes_room(rooms: Rooms) -> None:
    SlowTalk.may_answer.set()
    ids = []
    for _ in range(4):
        answer = rooms.ask(None, "What?", [photo(10, 10)])
        end_of(answer)
        ids.append(answer.room.id)
    assert len(rooms) == 3
    assert refusal(rooms, ids[0]) == (404, "no_conversation")
    assert end_of(rooms.ask(ids[1], "And now?", []))["state"] == "done"


def test_pixels_are_bounded_in_one_conversation_and_in_all(rooms: Rooms) -> None:
    SlowTalk.may_answer.set()
    large = rooms.ask(None, "What?", [photo(120, 100)])
    end_of(large)
    assert refusal(rooms, large.room.id) == (409, "full")
    end_of(rooms.ask(None, "What?", [photo(120, 100)]))
    assert refusal(rooms, large.room.id) == (404, "no_conversation")


def test_silent_conversations_are_forgotten_but_not_one_that_is_answered() -> None:
    SlowTalk.may_answer.clear()
    rooms = Rooms(SlowTalk, RoomLimits(idle_s=0.05))
    try:
        answer = begun(rooms)
        time.sleep(0.1)
        assert len(rooms) == 1
        SlowTalk.may_answer.set()
        end_of(answer)
        deadline = time.monotonic() + 60
        while rooms._rooms and time.monotonic() < deadline:  # no request comes: the thread checks by itself
            time.sleep(0.01)
        assert not rooms._rooms
        assert refusal(rooms, answer.room.id) == (404, "no_conversation")
    finally:
        rooms.close()


def test_closing_stops_what_is_written_and_ends_what_waits(rooms: Rooms) -> None:
    first = begun(rooms)
    second = rooms.ask(None, "What?", [photo()])
    rooms.close()
    assert end_of(first)["state"] == "done"
    assert end_of(second)["message"] == "The server is shutting down."
    assert SlowTalk.n_asked == 1
    assert refusal(rooms, None, photo()) == (503, "closed")
