"""A conversation grows by appending, remembers its images, and survives being stopped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image, ImageChops

from cv_lightning.conversation import Conversation
from cv_lightning.errors import ConversationError
from cv_lightning.types import StopReason
from sandbox import ToolExecutor
from tests.cv_lightning.scripted import ANSWER, BREAK, TURN, Notes, Script, a_conversation, a_talk, photo


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor(lane="pillow") as executor:
        yield executor


@pytest.fixture(scope="module")
def conversation() -> Conversation:
    return a_conversation(max_context_tokens=2000)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


def test_an_answer_shows_reasoning_code_and_result_as_they_come(
    conversation: Conversation, executor: ToolExecutor
) -> None:
    notes = Notes()
    trajectory = a_talk(Script(conversation, TURN, ANSWER), executor).ask("What?", [photo()], notes)
    assert (trajectory.answer, trajectory.stop_reason) == ("64P", StopReason.ANSWERED)
    assert notes.n_turns == [1, 2]
    assert TURN in notes.texts
    assert ANSWER in notes.texts
    assert len(notes.texts) > len(TURN) + len(ANSWER) - 1  # letter by letter
    result = trajectory.images[1]
    assert (result.image.size, result.orientation, result.turn) == ((40, 60), "rotate_270", 0)


def test_what_was_sampled_is_never_encoded_again(conversation: Conversation, executor: ToolExecutor) -> None:
    script = Script(conversation, TURN, ANSWER, ANSWER)
    talk = a_talk(script, executor)
    first = talk.ask("What?", [photo()], Notes())
    second = talk.ask("And now?", [], Notes())
    letters = [i for letter in TURN for i in conversation.tokenizer.encode(letter, add_special_tokens=False)]
    assert conversation.tokenizer.encode(TURN, add_special_tokens=False) != letters
    start = len(script.contexts[0])
    assert second.tokens.ids[start : start + len(letters)] == letters
    assert script.contexts[2][: len(first.tokens.ids)] == first.tokens.ids
    added = conversation.tokenizer.decode(script.contexts[2][len(first.tokens.ids) :], skip_special_tokens=False)
    assert added == "\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    assert sum(second.tokens.is_trained) == sum(first.tokens.is_trained) + len(ANSWER) + 1


def test_later_questions_see_earlier_images_and_new_ones(conversation: Conversation, executor: ToolExecutor) -> None:
    crop_second = TURN.replace('"image_index": 0', '"image_index": 2')
    talk = a_talk(Script(conversation, TURN, ANSWER, crop_second, ANSWER), executor)
    talk.ask("What?", [photo()], Notes())
    later = talk.ask("And on this?", [photo(80, 44, seed=1)], Notes())
    assert [viewed.turn for viewed in later.images] == [-1, -1, -1, 0]
    assert [viewed.root for viewed in later.images] == [0, 0, 1, 1]
    assert same(later.images[3].image, photo(80, 44, seed=1).rotate(270, expand=True))
    assert [viewed.image.size for viewed in later.tokens.images] == [(60, 40), (40, 60), (80, 44), (44, 80)]
    assert len(later.sample.images) == 2


def test_every_question_is_drawn_with_the_same_seed(conversation: Conversation, executor: ToolExecutor) -> None:
    script = Script(conversation, ANSWER, ANSWER)
    talk = a_talk(script, executor)
    talk.ask("What?", [photo()], Notes())
    talk.ask("What?", [], Notes())
    assert [sampling.seed for sampling in script.samplings] == [3, 3]


def test_a_stopped_answer_is_kept_and_the_conversation_goes_on(
    conversation: Conversation, executor: ToolExecutor
) -> None:
    script = Script(conversation, TURN, ANSWER)
    talk = a_talk(script, executor)
    stopped = talk.ask("What?", [photo()], Notes(stop_at=12))
    assert [turn.text for turn in stopped.turns] == [TURN[:12]]
    assert stopped.stop_reason == StopReason.MAX_TOKENS
    assert talk.ask("Go on.", [], Notes()).answer == "64P"
    text = conversation.tokenizer.decode(script.contexts[1], skip_special_tokens=False)
    assert f"assistant\n{TURN[:12]}<|im_end|>\n<|im_start|>user\nGo on.<|im_end|>" in text


def test_an_answer_stopped_before_its_first_word_leaves_no_trace(
    conversation: Conversation, executor: ToolExecutor
) -> None:
    script = Script(conversation, ANSWER)
    talk = a_talk(script, executor)
    tired = Notes()
    tired.is_tired = True
    assert talk.ask("What?", [photo()], tired).turns == []
    assert talk.trajectories == []
    assert talk.ask("What?", [photo()], Notes()).answer == "64P"
    assert conversation.tokenizer.decode(script.contexts[0]).count("user") == 1


def test_a_question_after_a_stop_between_turns_takes_the_place_of_the_opening(
    conversation: Conversation, executor: ToolExecutor
) -> None:
    class AfterOne(Notes):
        def is_stopped(self) -> bool:
            return bool(self.n_turns)

    script = Script(conversation, TURN, ANSWER)
    talk = a_talk(script, executor)
    assert len(talk.ask("What?", [photo()], AfterOne()).turns) == 1
    talk.ask("Well?", [], Notes())
    text = conversation.tokenizer.decode(script.contexts[1], skip_special_tokens=False)
    assert "</tool_response><|im_end|>\n<|im_start|>user\nWell?" in text.replace(
        "\n</tool_response>", "</tool_response>"
    )


def test_an_exception_in_the_middle_leaves_the_conversation_as_it_was(
    conversation: Conversation, executor: ToolExecutor
) -> None:
    script = Script(conversation, ANSWER, TURN, ANSWER)
    talk = a_talk(script, executor)
    first = talk.ask("What?", [photo()], Notes())
    ids = [*first.tokens.ids]

    def interrupt(n: int) -> None:
        if n == 5:
            raise KeyboardInterrupt

    script.before_token = interrupt
    with pytest.raises(KeyboardInterrupt):
        talk.ask("Again?", [photo(seed=2)], Notes())
    script.before_token = lambda n: None
    assert talk.trajectories == [first]
    assert first.tokens.ids == ids
    assert talk.ask("Again?", [], Notes()).answer == "64P"


def test_a_failed_call_is_told_and_turns_are_counted(conversation: Conversation, executor: ToolExecutor) -> None:
    trajectory = a_talk(Script(conversation, BREAK, TURN), executor, max_turns=2).ask("What?", [photo()], Notes())
    assert trajectory.turns[0].observation is not None
    assert trajectory.turns[0].observation.status == "error"
    assert trajectory.stop_reason == StopReason.MAX_TURNS
    assert trajectory.turns[1].observation is None


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(conversation: Conversation, executor: ToolExecutor, question: str) -> None:
    with pytest.raises(ConversationError, match="The question is empty"):
        a_talk(Script(conversation), executor).ask(question, [photo()], Notes())


def test_a_question_without_any_image_is_refused(conversation: Conversation, executor: ToolExecutor) -> None:
    with pytest.raises(ConversationError, match="no image"):
        a_talk(Script(conversation), executor).ask("What?", [], Notes())


def test_a_question_that_is_no_unicode_is_asked_all_the_same(
    conversation: Conversation, executor: ToolExecutor
) -> None:
    assert a_talk(Script(conversation, ANSWER), executor).ask("Wh\udcffat?", [photo()], Notes()).answer == "64P"


def test_a_full_conversation_says_so_and_stays_as_it_was(executor: ToolExecutor) -> None:
    conversation = a_conversation(max_context_tokens=150)
    talk = a_talk(Script(conversation, ANSWER, ANSWER), executor)
    talk.ask("What?", [photo()], Notes())
    with pytest.raises(
        ConversationError, match="conversation is full: with this question it is longer than 150 tokens"
    ):
        talk.ask("why " * 100, [photo()], Notes())
    assert talk.ask("Why?", [], Notes()).answer == "64P"
