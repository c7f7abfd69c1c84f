"""A policy that sees 4032 x 4032 pixels in one megapixel crops the intended box, in any kind of coordinates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.conversation import Conversation, announce_images, format_answer, format_tool_call
from cv_lightning.data.sources.episodes import RecordedEpisodes, episode_of
from cv_lightning.driver import roll_out
from cv_lightning.endpoint import Endpoint, EndpointSolver
from cv_lightning.endpoint.client import ChatReply
from cv_lightning.endpoint.messages import Dialogue, ImageEncoding
from cv_lightning.errors import ConfigError
from cv_lightning.evidence import gather_claims, gather_effects
from cv_lightning.rollout import Sampling
from cv_lightning.tools import CodeTools, NamedTools, Toolbox
from cv_lightning.tools.choose import restore_toolbox
from cv_lightning.tools.read_codes import ReadCodes
from cv_lightning.types import Sample, Trajectory
from modules.sft import SFTModule
from sandbox import ToolExecutor
from tests.cv_lightning.test_rollout import Script
from tests.modules.helpers import small_policy, train

SIDE = 4032
#: The target box, in pixels of the question's image, and a part of this box, in pixels of its crop.
BOX = (1000, 2000, 2008, 2504)
PART = (252, 126, 504, 378)
CORNERS = (BOX[0] + PART[0], BOX[1] + PART[1], BOX[0] + PART[2], BOX[1] + PART[3])

BOXES: dict[str, Toolbox] = {
    "pixels": NamedTools(),
    "announced": NamedTools(coordinates="announced"),
    "seen": NamedTools(coordinates="seen"),
    "thousandths": NamedTools(coordinates="thousandths"),
}


@pytest.fixture(scope="module")
def conversation() -> Conversation:
    """The conversation of a policy with a budget of one megapixel."""
    return small_policy(max_pixels=1_000_000, max_context_tokens=8000).conversation


@pytest.fixture(scope="module")
def page() -> Image.Image:
    tile = np.random.default_rng(0).integers(0, 256, (SIDE // 16, SIDE // 16, 3), dtype=np.uint8)
    return Image.fromarray(tile.repeat(16, 0).repeat(16, 1))


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor(lane="pillow") as executor:
        yield executor


def written(box: tuple[int, ...], size: tuple[int, int], conversation: Conversation, coordinates: str) -> list[float]:
    """A box in pixels of an image of this size, as a policy writes it in these coordinates."""
    per_side = {"seen": conversation.seen_size and conversation.seen_size(size), "thousandths": (1000, 1000)}
    steps = per_side.get(coordinates) or size
    return [round(value * steps[place % 2] / size[place % 2], 2) for place, value in enumerate(box)]


def play(conversation: Conversation, toolbox: Toolbox, page: Image.Image, executor: ToolExecutor) -> Trajectory:
    """A rollout that crops, crops the crop, and answers."""
    calls = []
    for index, (box, size) in enumerate([(BOX, page.size), (PART, (BOX[2] - BOX[0], BOX[3] - BOX[1]))]):
        bbox = written(box, size, conversation, toolbox.coordinates)
        calls.append(format_tool_call("Closer.", "crop", {"bbox": bbox, "image_index": index}))
    script = Script([[*calls, format_answer("So.", "K")]])
    script.conversation = replace(conversation, toolbox=toolbox)
    sample = Sample("a", "What is written?", (page,), "K", ("crop",), tuple(map(float, CORNERS)))  # type: ignore[arg-type]
    (group,) = roll_out([sample], script, executor, Sampling())
    return group.trajectories[0]


@pytest.mark.parametrize("name", list(BOXES))
def test_a_crop_is_what_was_meant_and_paid_in_pixels_of_the_question(
    name: str, conversation: Conversation, page: Image.Image, executor: ToolExecutor
) -> None:
    trajectory = play(conversation, BOXES[name], page, executor)
    last = trajectory.images[-1]
    assert last.frame is not None
    assert np.abs(np.array(last.frame.box((0, 0, *last.image.size))) - CORNERS).max() <= 1
    assert gather_effects(trajectory).best_iou > 0.98
    assert trajectory.turns[0].reply.call is not None
    assert re.search(r"crop\(\((1000|1000\.0|999)\b", trajectory.turns[0].reply.call.code), "records show pixels"
    only_first = replace(trajectory, sample=replace(trajectory.sample, box=tuple(map(float, BOX))))  # type: ignore[arg-type]
    assert gather_claims(only_first).best_iou > 0.98


def test_coordinates_of_the_seen_image_are_wrong_for_a_policy_without_the_switch(
    conversation: Conversation, page: Image.Image, executor: ToolExecutor
) -> None:
    assert conversation.seen_size is not None
    assert conversation.seen_size(page.size) == (980, 980)
    bbox = written(BOX, page.size, conversation, "seen")
    script = Script([[format_tool_call("Closer.", "crop", {"bbox": bbox}), format_answer("So.", "K")]])
    script.conversation = replace(conversation, toolbox=BOXES["pixels"])
    sample = Sample("a", "?", (page,), "K", ("crop",), tuple(map(float, BOX)))  # type: ignore[arg-type]
    (group,) = roll_out([sample], script, executor, Sampling())
    assert gather_effects(group.trajectories[0]).best_iou == 0


@pytest.mark.parametrize("name", list(BOXES))
def test_sizes_are_announced_only_if_asked_for(
    name: str, conversation: Conversation, page: Image.Image, executor: ToolExecutor
) -> None:
    ids = play(conversation, BOXES[name], page, executor).tokens.ids
    text = conversation.tokenizer.decode(ids, skip_special_tokens=False)
    expected = ["image 0: 4032 x 4032", "image 1: 1008 x 504", "image 2: 252 x 252"] if name == "announced" else []
    assert re.findall(r"image \d+: \d+ x \d+", text) == expected
    assert all(f"{line}\n<|vision_start|>" in text for line in expected)
    assert conversation.tokenizer.encode(text, add_special_tokens=False) == ids


def test_images_are_announced_at_their_places_in_the_question() -> None:
    first, second = Image.new("RGB", (8, 4)), Image.new("RGB", (6, 9))
    parts = Sample("a", "<image> is Monday, <image> is Friday", (first, second), "").parts
    assert announce_images(parts, n_before=2) == [
        "image 2: 8 x 4\n",
        first,
        " is Monday, \nimage 3: 6 x 9\n",
        second,
        " is Friday",
    ]


def test_code_is_told_sizes_and_has_no_other_coordinates() -> None:
    assert "announced by its index and its size" in CodeTools(coordinates="announced").system_prompt
    assert "announced" not in CodeTools().system_prompt
    for coordinates in ("seen", "thousandths"):
        with pytest.raises(ConfigError, match=r"toolbox\.coordinates: expected 'pixels' or 'announced'"):
            CodeTools(coordinates=coordinates)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"Code and models work in pixels"):
            NamedTools(models=[ReadCodes()], coordinates=coordinates)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"expected one of pixels, announced, seen, thousandths, got 'percent'"):
        NamedTools(coordinates="percent")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "box", [*BOXES.values(), CodeTools(coordinates="announced")], ids=lambda box: f"{box.kind}-{box.coordinates}"
)
def test_an_exported_policy_keeps_its_coordinates(box: Toolbox) -> None:
    restored = restore_toolbox(box.describe())
    assert (restored.kind, restored.coordinates, restored.schemas) == (box.kind, box.coordinates, box.schemas)
    assert ("coordinates" in box.describe()) == (box.coordinates != "pixels")
    with pytest.raises(ConfigError, match="coordinates"):
        restore_toolbox(box.describe() | {"coordinates": 7})


PIXELS = st.integers(1, 5000)


@given(st.tuples(PIXELS, PIXELS), st.lists(st.floats(0, 1000), min_size=4, max_size=4, unique=True))
def test_a_box_that_the_schema_allows_is_never_empty(size: tuple[int, int], values: list[float]) -> None:
    (x1, x2), (y1, y2) = sorted(values[:2]), sorted(values[2:])
    box = BOXES["thousandths"]
    content = {"name": "crop", "arguments": {"bbox": [x1, y1, x2, y2]}}
    call = box.read_content(content, box.units([size])).call
    assert call is not None
    assert call.fault is None
    left, top, right, bottom = map(int, re.findall(r"-?\d+", call.code))
    assert 0 <= left < right <= size[0] + 1
    assert 0 <= top < bottom <= size[1] + 1
    assert abs(left - x1 * size[0] / 1000) <= 0.5


def test_a_box_beyond_the_coordinates_is_a_call_that_failed() -> None:
    call = BOXES["thousandths"].read('{"name": "crop", "arguments": {"bbox": [0, 0, 1008, 504]}}', [(4.0, 4.0)]).call
    assert call is not None
    assert "numbers from 0 to 1000" in (call.fault or "")


# ---- recorded conversations and servers ------------------------------------------------------------------------------


def recorded(toolbox: Toolbox, bbox: list[int]) -> Trajectory:
    buffer = BytesIO()
    Image.new("RGB", (2000, 1000)).save(buffer, "PNG")
    turns = [
        ("human", "<image>What is written?"),
        ("gpt", format_tool_call("Closer.", "crop", {"bbox": bbox})),
        ("tool", "<tool_response>\n<image></tool_response>"),
        ("gpt", format_answer("So.", "K")),
    ]
    conversations = [{"from": author, "value": text} for author, text in turns]
    images = [{"bytes": buffer.getvalue(), "path": None}] * 2
    return episode_of({"conversations": conversations, "images": images}, "row 0", None, toolbox)


def test_recorded_conversations_are_read_in_their_coordinates() -> None:
    call = recorded(BOXES["thousandths"], [100, 100, 200, 300]).turns[0].reply.call
    assert call is not None
    assert call.code == "result = image.crop((200, 100, 400, 300))"
    with pytest.raises(ConfigError, match=r"expected 'announced' or 'thousandths', got 'seen'"):
        RecordedEpisodes("rows.jsonl", toolbox=BOXES["seen"])


def test_a_policy_does_not_learn_boxes_in_other_coordinates_than_its_own() -> None:
    policy = small_policy(toolbox=BOXES["thousandths"], max_context_tokens=2000)
    with pytest.raises(ConfigError, match=r"crop\(\(100, 100, 200, 300\)\).* in the data and .*\(200, 100, 400, 300\)"):
        train(SFTModule(policy), [[recorded(BOXES["pixels"], [100, 100, 200, 300])]])
    train(SFTModule(policy), [[recorded(BOXES["thousandths"], [100, 100, 200, 300])]])


def test_calls_of_a_model_behind_a_server_are_read_in_its_coordinates() -> None:
    sample = Sample("a", "What is written?", (Image.new("RGB", (2000, 1000)),), "K")
    dialogue = Dialogue(sample, "native", "", ImageEncoding(), BOXES["thousandths"])
    chat = ChatReply(text="", calls=(("1", "crop", '{"bbox": [100, 100, 200, 300]}'),))
    ((_, reply),) = dialogue.append_reply(chat)
    assert reply.call is not None
    assert reply.call.code == "result = image.crop((200, 100, 400, 300))"
    with pytest.raises(ConfigError, match=r"expected 'announced' or 'thousandths', got 'seen'"):
        EndpointSolver(Endpoint("http://127.0.0.1:1/v1", api_key_variable=None), toolbox=BOXES["seen"])


def test_a_server_is_told_sizes_if_the_toolbox_announces_them() -> None:
    sample = Sample("a", "What is written?", (Image.new("RGB", (2000, 1000)),), "K")
    texts = {}
    for name in ("pixels", "announced"):
        parts = Dialogue(sample, "native", "", ImageEncoding(), BOXES[name]).messages[0]["content"]
        texts[name] = [part["text"] for part in parts if part["type"] == "text"]
    assert texts == {
        "pixels": ["What is written?"],
        "announced": ["image 0: 2000 x 1000\n", "What is written?"],
    }
