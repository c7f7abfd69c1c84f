"""`serve --tools loop`: one request runs the whole rollout, for the client and for requests of harnesses."""

from __future__ import annotations

import base64
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any

import openai
import pytest
from PIL import Image

from cv_lightning.conversation import Conversation, format_answer, format_call
from cv_lightning.driver import roll_out
from cv_lightning.rollout import Sampling
from cv_lightning.serving.replies import QueuedReply
from cv_lightning.serving.tool_loop import ToolLoop
from cv_lightning.types import Sample, TokenSequence, ToolCall
from sandbox import ToolExecutor
from tests.cv_lightning.scripted import ANSWER, BREAK, TURN, a_conversation, photo
from tests.cv_lightning.serving.spoken import Spoken, serving


@pytest.fixture(scope="module")
def conversation() -> Conversation:
    return a_conversation(max_context_tokens=2000)


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor(workers=1) as executor:
        yield executor


def data_url(image: Image.Image, kind: str = "PNG") -> str:
    buffer = BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def in_turn(conversation: Conversation, *texts: str) -> Callable[[TokenSequence, int], str]:
    """A `say` function that gives the n-th text in turn n of any conversation."""
    opening = conversation.opening()

    def say(context: TokenSequence, seed: int) -> str:
        starts = range(len(context.ids) - len(opening) + 1)
        n_turns = sum(context.ids[start : start + len(opening)] == opening for start in starts)
        return texts[n_turns - 1]

    return say


def question(text: str = "What?", images: Sequence[Image.Image] = ()) -> list[Any]:
    parts = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def ask(client: openai.OpenAI, **changes: Any) -> Any:
    asked = {"model": "spoken", "messages": question(images=[photo()]), "temperature": 0, **changes}
    return client.chat.completions.create(**asked)


def test_an_answer_is_that_of_a_rollout(conversation: Conversation, executor: ToolExecutor) -> None:
    policy = Spoken(conversation, in_turn(conversation, TURN, BREAK, ANSWER))
    sample = Sample("request", "What?", (photo(),), "")
    (group,) = roll_out([sample], policy, executor, Sampling(0.0, 400))
    expected, policy.contexts = policy.contexts, []
    with serving(policy, ToolLoop(executor), max_new_tokens=400) as (client, _):
        reply = ask(client)
    (choice,) = reply.choices
    assert policy.contexts == expected, "token for token"
    assert (choice.message.content, choice.finish_reason) == ("64P", "stop")
    assert choice.message.tool_calls is None
    record = choice.trajectory
    (trajectory,) = group.trajectories
    assert [turn["text"] for turn in record["turns"]] == [turn.text for turn in trajectory.turns]
    assert [turn["observation"] and turn["observation"]["status"] for turn in record["turns"]] == ["ok", "error", None]
    assert record["turns"][0]["observation"]["tools"] == ["rotate_270"]
    assert [(image["width"], image["height"], image["turn"]) for image in record["images"]] == [
        (60, 40, -1),
        (40, 60, 0),
    ]
    assert (record["stop_reason"], record["answer"]) == ("answered", "64P")
    assert reply.usage.prompt_tokens == len(expected[0])
    assert reply.usage.completion_tokens == sum(trajectory.tokens.is_trained)


def test_a_stream_gives_the_turns_and_then_the_answer(conversation: Conversation, executor: ToolExecutor) -> None:
    policy = Spoken(conversation, in_turn(conversation, TURN, ANSWER))
    with serving(policy, ToolLoop(executor), max_new_tokens=400) as (client, _):
        choices = [chunk.choices[0] for chunk in ask(client, stream=True)]
    assert "".join(choice.delta.content or "" for choice in choices) == "64P"
    assert [choice.turn for choice in choices if "turn" in choice.model_extra] == [TURN]
    assert choices[-1].finish_reason == "stop"
    assert len(choices[-1].trajectory["turns"]) == 2


@pytest.mark.parametrize(
    ("texts", "words", "end", "reason"),
    [
        ([TURN] * 3, "", "length", "max_turns"),
        (["<think>Hm.</think>It is 7."], "It is 7.", "stop", "no_action"),
        (["<think>" + "long " * 200], "", "length", "max_tokens"),
        ([format_answer("Read.", "7 STOP 8")], "7 ", "stop", "answered"),
        ([f"{TURN}{BREAK}", ANSWER], "64P", "stop", "answered"),
    ],
)
def test_every_end_is_an_answer(
    conversation: Conversation, executor: ToolExecutor, texts: list[str], words: str, end: str, reason: str
) -> None:
    policy = Spoken(conversation, in_turn(conversation, *texts))
    with serving(policy, ToolLoop(executor, max_turns=3), max_new_tokens=500) as (client, _):
        (choice,) = ask(client, stop="STOP").choices
    assert (choice.message.content, choice.finish_reason) == (words, end)
    assert choice.trajectory["stop_reason"] == reason


def test_code_is_confined(conversation: Conversation, executor: ToolExecutor) -> None:
    spy = format_call("Look.", ToolCall("print(open('/etc/passwd').read())\nresult = image"))
    policy = Spoken(conversation, in_turn(conversation, spy, ANSWER))
    with serving(policy, ToolLoop(executor), max_new_tokens=400) as (client, _):
        (choice,) = ask(client).choices
    seen = choice.trajectory["turns"][0]["observation"]
    assert seen["status"] in ("error", "rejected")
    assert "root:" not in seen["text"]


def test_a_client_that_leaves_ends_its_loop(
    conversation: Conversation, executor: ToolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_second, has_left, ends = threading.Event(), threading.Event(), threading.Semaphore(0)
    cancel = QueuedReply.cancel
    monkeypatch.setattr(QueuedReply, "cancel", lambda reply: (cancel(reply), ends.release()))

    def say(context: TokenSequence, seed: int) -> str:
        if len(policy.contexts) == 2:
            is_second.set()
            assert has_left.wait(60)
        return ANSWER if has_left.is_set() else TURN

    policy = Spoken(conversation, say)
    with serving(policy, ToolLoop(executor, max_turns=50), max_new_tokens=400) as (client, _):
        stream = ask(client, stream=True)
        assert is_second.wait(60)
        stream.close()
        assert all(ends.acquire(timeout=60) for _ in range(2)), "the first turn is over, the second cancelled"
        has_left.set()
        assert ask(client).choices[0].message.content == "64P"
    assert len(policy.contexts) == 3, "there is no third turn of the first client"


def test_n_answers_are_loops_of_their_own(conversation: Conversation, executor: ToolExecutor) -> None:
    policy = Spoken(conversation, in_turn(conversation, TURN, ANSWER))
    with serving(policy, ToolLoop(executor), max_new_tokens=400) as (client, _):
        choices = ask(client, n=3, temperature=1, seed=1).choices
    assert [choice.message.content for choice in choices] == ["64P"] * 3
    assert [len(choice.trajectory["turns"]) for choice in choices] == [2] * 3


def test_a_clients_system_message_follows_the_policys(conversation: Conversation, executor: ToolExecutor) -> None:
    policy = Spoken(conversation, in_turn(conversation, ANSWER))
    with serving(policy, ToolLoop(executor), max_new_tokens=400) as (client, _):
        ask(client, messages=[{"role": "system", "content": "Be brief."}, *question()])
        with pytest.raises(openai.BadRequestError, match="runs its own tools"):
            ask(client, tools=[{"type": "function", "function": {"name": "f"}}])
    text = conversation.tokenizer.decode(policy.contexts[0])
    assert text.startswith("<|im_start|>system\nRead.\n\nBe brief.<|im_end|>\n")


def vlmevalkit(url: str) -> dict[str, Any]:
    """The body that VLMEvalKit's wrappers post: text and JPEG parts, `n`, and the data set's name (lmdeploy.py)."""
    image = {"url": data_url(photo(), "JPEG"), "detail": "high"}
    content = [{"type": "image_url", "image_url": image}, {"type": "text", "text": "What? A. 64P B. 65P"}]
    messages = [{"role": "user", "content": content}]
    return {"messages": messages, "n": 1, "temperature": 0.0, "max_tokens": 1024, "dataset": "MMBench_DEV_EN"}


def lmms_eval(url: str) -> dict[str, Any]:
    """The body that lmms-eval's openai_compatible model sends: one text, then PNG parts."""
    content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": data_url(photo())}}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 4096, "temperature": 0}


@pytest.mark.parametrize("harness", [vlmevalkit, lmms_eval])
def test_the_requests_of_harnesses_get_the_final_answer(
    conversation: Conversation, executor: ToolExecutor, harness: Callable[[str], dict[str, Any]]
) -> None:
    policy = Spoken(conversation, in_turn(conversation, TURN, ANSWER))
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-local"}
    with serving(policy, ToolLoop(executor), max_new_tokens=400) as (_, url):
        with urllib.request.urlopen(f"{url}/models", timeout=60) as response:
            model = json.load(response)["data"][0]["id"]
        body = json.dumps(harness(url) | {"model": model}).encode()
        with urllib.request.urlopen(
            urllib.request.Request(f"{url}/chat/completions", body, headers), timeout=60
        ) as response:
            assert json.load(response)["choices"][0]["message"]["content"].strip() == "64P"
