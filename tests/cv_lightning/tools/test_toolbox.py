"""Every toolbox: its description, the calls that it reads, and rollouts that are the same with any toolbox."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from cv_lightning.conversation import Conversation, format_answer, format_call, format_tool_call, parse_reply
from cv_lightning.data.oracle import BROKEN_CALLS, SPELLINGS, TURNS, EpisodeBuilder, wordings
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.driver import roll_out
from cv_lightning.errors import ConfigError
from cv_lightning.rewards import RewardConfig, score
from cv_lightning.rollout import Sampling
from cv_lightning.tools import CodeTools, NamedTools, Toolbox
from cv_lightning.tools.code import CODE_SCHEMA, SYSTEM_PROMPT
from cv_lightning.tools.read_codes import ReadCodes
from cv_lightning.types import Group, Reply, Sample, StopReason, ToolCall, Trajectory, Turn
from cv_lightning.viewer.recording import describe
from modules.policy.tiny import train_tokenizer
from sandbox import ToolExecutor, ToolRequest, orient
from tests.cv_lightning.test_rollout import Script
from tests.cv_lightning.tools.size_tool import Size

NAMED = NamedTools()

#: The part of Qwen's chat template that offers tools.
TEMPLATE = """{{- '<tools>' }}
{%- for tool in tools %}
{{- '\\n' }}
{{- tool | tojson }}
{%- endfor %}
{{- '\\n</tools>' }}"""


BOXES: dict[str, Toolbox] = {
    "code": CodeTools(),
    "code and models": CodeTools([Size(), ReadCodes()]),
    "named": NAMED,
    "named and models": NamedTools(["rotate", "flip"], [Size()]),
}


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor(lane="pillow") as executor:
        yield executor


def offered(prompt: str) -> list[Any]:
    return [json.loads(line) for line in prompt.split("<tools>\n")[1].split("\n</tools>")[0].splitlines()]


@pytest.mark.parametrize("name", BOXES)
def test_the_system_prompt_offers_the_tools_in_the_words_of_the_chat_template(name: str) -> None:
    box = BOXES[name]
    assert offered(box.system_prompt) == box.schemas
    tokenizer: Any = train_tokenizer(["x"], 400, 16)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}], tools=box.schemas, tokenize=False, chat_template=TEMPLATE
    )
    assert rendered.count("\n") == len(box.schemas) + 1
    assert rendered in box.system_prompt


def test_the_code_tool_is_offered_as_ever() -> None:
    assert BOXES["code"].system_prompt == SYSTEM_PROMPT
    assert offered(SYSTEM_PROMPT) == [CODE_SCHEMA]
    assert SYSTEM_PROMPT.startswith("You are a helpful assistant that can look at images through code.\n\n# Tools\n")
    assert "Then either call the function within" in SYSTEM_PROMPT
    example = parse_reply("<think></think>" + SYSTEM_PROMPT.split("XML tags:\n")[-1].split("\nor give")[0])
    assert example.call == ToolCall("result = image.rotate(90, expand=True)")
    assert "Then either call a function within" in BOXES["code and models"].system_prompt


@pytest.mark.parametrize("name", ["code and models", "named and models"])
def test_a_model_is_called_by_its_name_in_both(name: str, executor: ToolExecutor) -> None:
    box = BOXES[name]
    reply = box.read('{"name": "size", "arguments": {"image_index": 1}}')
    assert reply.call is not None
    assert reply.call.model is not None
    call, model = reply.call, reply.call.model
    assert (call.name, call.image_index, call.fault, dict(model.arguments)) == (
        "size",
        1,
        None,
        {"unit": "pixels"},
    )
    wrong = box.read('{"name": "size", "arguments": {"unit": "miles"}}').call
    assert wrong is not None
    assert wrong.fault == "ValueError: unit must be one of 'pixels', 'rows', not 'miles'."


def test_an_unknown_tool_is_told_what_there_is() -> None:
    payload = '{"name": "zoom", "arguments": {}}'
    assert BOXES["code"].read(payload).fault == "Unknown tool 'zoom'; the only tool is 'code_image_tool'."
    fault = BOXES["code and models"].read(payload).fault
    assert fault == "Unknown tool 'zoom'; the tools are 'code_image_tool', 'size', 'read_codes'."


def test_names_that_stand_twice_are_refused() -> None:
    class Rotate(Size):
        name = "rotate"

    with pytest.raises(ConfigError, match=r"toolbox\.models: expected different names"):
        CodeTools([Size(), Size()])
    with pytest.raises(ConfigError, match="different names"):
        NamedTools(models=[Rotate()])


def speaking(box: Toolbox, *lines: Sequence[str]) -> Script:
    script = Script(lines)
    script.conversation = replace(script.conversation, toolbox=box)
    return script


def noise(width: int = 56, height: int = 28) -> Image.Image:
    return Image.effect_noise((width, height), 90).convert("RGB")


ANSWER = format_answer("So.", "K")


def test_a_rollout_with_named_tools(executor: ToolExecutor) -> None:
    image = noise()
    lines = [
        [
            format_tool_call("So.", "rotate", {"angle": 90}),
            format_tool_call("So.", "flip", {"direction": "vertical", "image_index": 1}),
            ANSWER,
        ],
        [format_tool_call("So.", "rotate", {"angle": "left"}), format_tool_call("So.", "zoom", {}), ANSWER],
        ["<tool_call>{</tool_call>", format_tool_call("So.", "invert", {"image_index": 7}), ANSWER],
    ]
    sample = Sample("a", "What is written?", (image,), "K")
    (group,) = roll_out([sample], speaking(NAMED, *lines), executor, Sampling(), group_size=3)
    turned = group.trajectories[0]
    assert {trajectory.stop_reason for trajectory in group.trajectories} == {StopReason.ANSWERED}
    assert [viewed.orientation for viewed in turned.images] == ["identity", "rotate_90", "transpose"]
    assert turned.images[2].image.tobytes() == orient(orient(image, "rotate_90"), "flip_vertical").tobytes()
    seen = [[turn.observation for turn in trajectory.turns[:2]] for trajectory in group.trajectories]
    assert [[one.status for one in of if one] for of in seen] == [["ok", "ok"], ["error", "error"], ["rejected"] * 2]
    texts = [one.text for of in seen[1:] for one in of if one]
    for text, words in zip(
        texts, ["angle must be a number", "there is no tool 'zoom'", "not valid JSON", "valid are 0 to 0"], strict=True
    ):
        assert words in text
    assert [trajectory.n_calls for trajectory in group.trajectories] == [2, 2, 1]
    record = describe(turned, lambda image: "x.png")
    assert record["turns"][1]["call"] == {"name": "flip", "code": "result = ImageOps.flip(image)", "description": ""}


@pytest.mark.parametrize("name", ["code and models", "named and models"])
def test_a_rollout_that_asks_a_model(name: str, executor: ToolExecutor) -> None:
    turn = (
        format_tool_call("So.", "rotate", {"angle": 90})
        if name.startswith("named")
        else format_call("So.", ToolCall("result = image.rotate(90, expand=True)"))
    )
    ask = format_tool_call("So.", "size", {"unit": "rows", "image_index": 1})
    script = speaking(BOXES[name], [turn, ask, ANSWER])
    (group,) = roll_out([Sample("a", "?", (noise(),), "K", ("rotate_270",))], script, executor, Sampling())
    (only,) = group.trajectories
    first, second = (turn.observation for turn in only.turns[:2])
    assert first is not None
    assert second is not None
    assert (second.status, second.text, second.image, second.tools) == ("ok", "28 x 56 rows", None, ("size",))
    assert len(only.images) == 2
    unaided = Trajectory(only.sample, [Turn("<answer>J</answer>", Reply(answer="J"))], only.images[:1])
    breakdown, _ = score(replace(group, trajectories=[only, unaided]), RewardConfig())
    assert breakdown.terms["emergence"] > 0, "a model is a tool outside of those that are required"
    assert describe(only, lambda image: "x.png")["turns"][1]["call"]["arguments"] == {"unit": "rows"}


WORLD = PlateWorld(seed=5, width=90, height=60)


def test_episodes_with_named_tools_do_and_earn_what_those_with_code_do(executor: ToolExecutor) -> None:
    kinds = []
    for index in range(60):
        both = []
        for toolbox in ("code", "named"):
            builder = EpisodeBuilder(WORLD, mix={"read": 1, "turn": 2, "recover": 3}, n_spellings=1, toolbox=toolbox)
            episode = builder.episode("train", index, executor)
            assert episode is not None
            both.append(episode)
        code, named = both
        kinds.append(code.n_calls)
        assert [turn.is_trained for turn in code.turns] == [turn.is_trained for turn in named.turns]
        assert [v.orientation for v in code.images] == [v.orientation for v in named.images]
        assert [v.image.tobytes() for v in code.images] == [v.image.tobytes() for v in named.images]
        for one, other in zip(code.turns, named.turns, strict=True):
            assert (one.observation is None) == (other.observation is None)
            if one.observation is not None and other.observation is not None:
                assert one.observation.status == other.observation.status
                assert one.observation.tools == other.observation.tools
            assert other.text != one.text or one.observation is None
            assert parse_reply(other.text, NAMED) == other.reply
        earned = [score(Group(episode.sample, [episode]), RewardConfig())[0] for episode in both]
        assert earned[0] == earned[1]
    assert set(kinds) == {0, 1, 2}


def test_calls_of_the_oracle_are_those_of_its_code() -> None:
    for name, (call, *others) in TURNS["named"].items():
        assert others == []
        reply = NAMED.read(json.dumps({"name": call[0], "arguments": call[1]}))
        assert reply.call is not None
        with ToolExecutor(lane="pillow") as executor:
            image = noise(31, 57)
            both = executor.execute([ToolRequest(code, [image]) for code in (reply.call.code, SPELLINGS[name][0])])
        assert both[0].orientation == both[1].orientation == name
    for tool, arguments in BROKEN_CALLS["named"]:
        failed = NAMED.read(json.dumps({"name": tool, "arguments": arguments})).call
        assert failed is not None
        assert failed.fault is not None


def test_a_tokenizer_learns_the_calls_of_its_tools() -> None:
    talk = Conversation(train_tokenizer(wordings("named"), 640, 16), lambda size: 1)
    text = format_tool_call("Turned left.", "rotate", {"angle": 270, "image_index": 0})
    ids = talk.tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) <= 16
    assert talk.tokenizer.decode(ids) == text
    assert any("code_image_tool" in wording for wording in wordings())
    assert not any("code_image_tool" in wording for wording in wordings("named"))
