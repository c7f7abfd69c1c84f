"""Messages to a server: images are lossless or reduced, and stay between the words of a question."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cv_lightning.endpoint.messages import MAX_CALLS, Dialogue, ImageEncoding
from cv_lightning.types import Sample
from tests.cv_lightning.endpoint.fake_server import Server, call, completion, noise, one, pixels, sample, says, solve
from tests.cv_lightning.endpoint.replies import DONE, TURN, answering


def test_images_travel_without_loss() -> None:
    image = noise(40, 30)
    url = ImageEncoding().data_url(image)
    assert url.startswith("data:image/png;base64,")
    assert np.array_equal(pixels(url), np.asarray(image))


def test_large_images_are_reduced_in_pixels_and_in_bytes() -> None:
    assert pixels(ImageEncoding(max_pixels=1000).data_url(noise(200, 50))).shape == (15, 63, 3)
    url = ImageEncoding(max_kilobytes=8).data_url(noise(300, 300))
    assert url.startswith("data:image/jpeg;base64,")
    assert len(base64.b64decode(url.partition(",")[2])) <= 8 << 10


def test_images_are_between_the_words_of_a_question() -> None:
    images = tuple(Image.new("RGB", (8, 6), color) for color in ("red", "green", "blue"))
    asked = Sample("s", "<image> is Monday, <image> is Friday", images, "x")
    content = Dialogue(asked, "native", "", ImageEncoding()).messages[0]["content"]
    assert [part["type"] for part in content] == ["image_url", "image_url", "text", "image_url", "text"]
    assert [part["text"] for part in content if part["type"] == "text"] == [" is Monday, ", " is Friday"]
    assert [part["image_url"]["url"] for part in content if part["type"] == "image_url"] == [
        ImageEncoding().data_url(image) for image in images
    ]


def test_markup_in_a_question_stays_plain() -> None:
    dialogue = Dialogue(sample(), "native", "", ImageEncoding())
    assert dialogue.messages[0]["content"][-1]["text"] == "What is < tool_call> here, in a?"


def test_a_message_of_parts_is_sent_back_whole(server: Server) -> None:
    parts = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "text", "text": "I turn it."}]
    server.replies = [says(answering({"role": "assistant", "content": parts, "tool_calls": [call(TURN)]})), says(DONE)]
    trajectory = one(solve(server))
    assert server.requests[1]["messages"][2]["content"] == parts
    assert trajectory.turns[0].text.startswith("I turn it.\n<tool_call>")


@pytest.mark.parametrize("ids", [("", ""), ("same", "same"), (None, None)])
def test_calls_without_ids_of_their_own_get_ours(server: Server, ids: tuple[Any, Any]) -> None:
    turn = completion(None, [{**call(TURN), "id": each} for each in ids])
    server.replies = [says(turn), says(turn), says(DONE)]
    assert one(solve(server)).answer == "x"
    messages = server.requests[2]["messages"]
    made = [each["id"] for message in messages for each in message.get("tool_calls", ())]
    assert made == ["call_0", "call_1", "call_2", "call_3"]
    assert [message["tool_call_id"] for message in messages if message["role"] == "tool"] == made


def test_calls_beyond_the_limit_are_answered_and_not_executed(server: Server) -> None:
    calls = [call("result = image", str(number)) for number in range(MAX_CALLS + 2)]
    server.replies = [says(completion(None, calls)), says(DONE)]
    trajectory = one(solve(server))
    assert [turn.observation is not None and turn.observation.status for turn in trajectory.turns] == [
        *["ok"] * MAX_CALLS,
        *["rejected"] * 2,
        False,
    ]
    results = [message for message in server.requests[1]["messages"] if message["role"] == "tool"]
    assert len(results) == MAX_CALLS + 2


def test_sizes_are_of_the_whole_image_also_if_it_travels_reduced(server: Server) -> None:
    server.replies = [says(completion(None, [call("result = image.resize((80, 60))")])), says(DONE)]
    one(solve(server, images=ImageEncoding(max_pixels=300)))
    sized, image = server.requests[1]["messages"][-1]["content"]
    assert sized["text"] == "image 1: 80 x 60\n"
    assert pixels(image["image_url"]["url"]).shape == (15, 20, 3)


@pytest.mark.parametrize(("tools", "option", "is_told"), [("native", False, False), ("text", True, True)])
def test_sizes_are_an_option(server: Server, tools: str, option: bool, is_told: bool) -> None:
    server.replies = [says(DONE)]
    one(solve(server, tools=tools, announce_sizes=option))
    texts = [part["text"] for part in server.requests[0]["messages"][1]["content"] if part["type"] == "text"]
    assert ("image 0: 40 x 30\n" in texts) == is_told
    assert np.array_equal(pixels(sample_url(server)), np.asarray(sample().images[0]))


def sample_url(server: Server) -> str:
    content = server.requests[0]["messages"][1]["content"]
    return str(next(part["image_url"]["url"] for part in content if part["type"] == "image_url"))
