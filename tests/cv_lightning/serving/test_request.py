"""The parts of OpenAI's request that are read, and the requests that are refused with a reason."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from cv_lightning.serving.request import read_request
from cv_lightning.tools.code import CODE_SCHEMA
from tests.cv_lightning.serving.clients import Client, body, image_part, picture


def test_images_and_calls_of_a_request_are_read() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Read."}]},
        {"role": "user", "content": [image_part(picture()), {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "words", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]
    request = read_request(json.dumps(body(messages=messages, max_completion_tokens=5, seed=3)).encode())
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "tool"]
    assert [image.size for image in request.messages[1].images] == [(8, 6)]
    assert request.messages[2].text == 'words\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert (request.max_new_tokens, request.seed, request.temperature) == (5, 3, 1.0)


def test_an_image_of_a_request_is_upright_as_its_exif_tag_says() -> None:
    exif, buffer = Image.Exif(), BytesIO()
    exif[0x0112] = 6
    stored = Image.radial_gradient("L").convert("RGB").crop((0, 0, 90, 60))
    stored.save(buffer, "PNG", exif=exif)
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    content = [{"type": "text", "text": "Which?"}, image_part(url), {"type": "text", "text": "This."}]
    request = read_request(json.dumps(body(messages=[{"role": "user", "content": content}])).encode())
    first, image, last = request.messages[0].parts
    assert (first, last) == ("Which?", "This."), "images stay between the words"
    assert isinstance(image, Image.Image)
    assert image.tobytes() == stored.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_places_in_the_text_of_a_request_are_those_of_its_images() -> None:
    pictures = [image_part(picture(8, 6)), image_part(picture(10, 6))]

    def parts(text: str) -> list[Any]:
        content = [*pictures, {"type": "text", "text": text}]
        request = read_request(json.dumps(body(messages=[{"role": "user", "content": content}])).encode())
        return [part if isinstance(part, str) else part.size for part in request.messages[0].parts]

    monday = ["Which? ", (8, 6), " is Monday, ", (10, 6), " is Friday"]
    assert parts("Which? <image> is Monday, <image> is Friday") == monday
    assert parts("What does <image> mean in HTML?") == [(8, 6), (10, 6), "What does <image> mean in HTML?"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model": "gpt-4o"}, "no model 'gpt-4o'"),
        ({"messages": []}, "messages: .*at least 1"),
        ({"messages": "hi"}, "messages: .*array"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages\\[0\\].role"),
        ({"messages": ["hi"]}, "messages\\[0\\]: .*object|dictionary"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages\\[0\\].content"),
        ({"messages": [{"role": "user"}]}, "messages\\[0\\].content"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "last message must have"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}, "only the first"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "content\\[0\\].type: .*text"),
        ({"messages": [{"role": "user", "content": [image_part("http://10.0.0.1/x.png")]}]}, "fetches nothing"),
        ({"messages": [{"role": "user", "content": [image_part("file:///etc/passwd")]}]}, "fetches nothing"),
        ({"messages": [{"role": "user", "content": [image_part(None)]}]}, "fetches nothing"),
        ({"messages": [{"role": "user", "content": [image_part("data:image/png;base64,@@@")]}]}, "base64"),
        ({"messages": [{"role": "user", "content": [image_part("data:image/png;base64,aGk=")]}]}, "image"),
        ({"messages": [{"role": "user", "content": [image_part(picture()[:90])]}]}, "image|base64"),
        ({"messages": [{"role": "user", "content": [image_part(picture(11_000, 10_000))]}]}, "megapixels"),
        ({"messages": [{"role": "user", "content": [image_part(picture(9_000, 9_000))] * 3}]}, "together"),
        ({"messages": [{"role": "user", "content": [image_part(picture())] * 65}]}, "more than 64 images"),
        ({"messages": [{"role": "assistant", "tool_calls": 3}, {"role": "user", "content": "a"}]}, "tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [3]}, {"role": "user", "content": "a"}]}, "tool_calls"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "hex escape"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"n": 0}, "n: .*greater than or equal to 1"),
        ({"n": 129}, "n: .*less than or equal to 128"),
        ({"n": 1.5}, "n: "),
        ({"top_p": 0.5}, "top_p: this server supports only 1"),
        ({"top_p": 2, "temperature": 0}, "top_p"),
        ({"stop": ""}, "stop\\[0\\]: .*at least 1"),
        ({"stop": ["x"] * 17}, "stop: .*at most 16"),
        ({"stop": 3}, "stop"),
        ({"logprobs": 2}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 5}, "top_logprobs: this server supports only 0"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"name": "x"}]}, "tools"),
        ({"tools": "all"}, "tools"),
        ({"tools": [CODE_SCHEMA], "tool_choice": "required"}, "tool_choice"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(client: Client, wrong: dict[str, Any], words: str) -> None:
    status, reply = client.ask(body=body(**wrong))
    assert status == (404 if "model" in wrong else 400)
    assert reply["error"]["type"] == "invalid_request_error"
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(reply["error"]["message"])
    assert not client.backend.requests


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 50_000, b'"hi"', b"NaN"])
def test_what_is_no_request_is_refused(client: Client, data: bytes) -> None:
    status, reply = client.ask(body=data)
    assert status == 400
    assert reply["error"]["message"]
