"""A policy keeps its tools in its folder, in training and behind a server; all callers get the same trajectories."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cv_lightning.conversation import format_tool_call
from cv_lightning.data.oracle import EpisodeBuilder
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.endpoint.client import Endpoint
from cv_lightning.endpoint.messages import Dialogue, ImageEncoding, default_prompt
from cv_lightning.endpoint.reply import ChatReply
from cv_lightning.endpoint.solver import EndpointSolver
from cv_lightning.errors import CheckpointError, ConfigError
from cv_lightning.tools import CodeTools, NamedTools
from cv_lightning.tools.code import SYSTEM_PROMPT
from cv_lightning.tools.read_codes import ReadCodes
from cv_lightning.types import Trajectory
from modules.evaluate import LocalSolver
from modules.policy.policy import Policy
from modules.rollouts import RolloutConfig
from modules.sft import SFTModule
from sandbox import ToolExecutor
from tests.cv_lightning.serving.test_policy_backend import force_first_reply, samples, serve
from tests.cv_lightning.tools.size_tool import Size
from tests.modules.helpers import episodes, small_policy, train

NAMED = NamedTools()
CALL = format_tool_call("Turned.", "rotate", {"angle": 270})


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_an_exported_policy_says_which_tools_it_has(tmp_path: Path) -> None:
    small_policy(toolbox=NamedTools(["flip", "rotate"], [ReadCodes()])).export(tmp_path)
    given: dict[str, Any] = {"source": str(tmp_path)}
    again = Policy(**given).conversation
    assert (again.toolbox.kind, again.toolbox.names) == ("named", ["flip", "rotate", "read_codes"])
    assert again.system_prompt == "Read."
    other = Policy(**given, toolbox="code").conversation
    assert other.toolbox.kind == "code"
    assert other.system_prompt == SYSTEM_PROMPT, "the stored one was about other tools"
    same = Policy(**given, toolbox=NamedTools(["flip", "rotate"], [ReadCodes()])).conversation
    assert same.system_prompt == "Read."


def test_a_policy_from_before_toolboxes_has_code(tmp_path: Path) -> None:
    small_policy().export(tmp_path)
    (tmp_path / "conversation.json").write_text('{"system_prompt": "Look."}')
    conversation = Policy(source=str(tmp_path)).conversation
    assert (conversation.toolbox.kind, conversation.system_prompt) == ("code", "Look.")


def test_a_model_that_does_not_come_with_the_project_has_to_be_given(tmp_path: Path) -> None:
    small_policy(toolbox=CodeTools([Size()])).export(tmp_path)
    with pytest.raises(CheckpointError, match=r"conversation\.json: toolbox: .*'size', which does not come.*give"):
        Policy(source=str(tmp_path))
    policy = Policy(source=str(tmp_path), toolbox=CodeTools([Size()]), system_prompt="Read.")
    assert policy.conversation.toolbox.names == ["code_image_tool", "size"]


# ---- training --------------------------------------------------------------------------------------------------------


def named_episodes(n: int = 6) -> list[Trajectory]:
    builder = EpisodeBuilder(PlateWorld(seed=0), mix={"turn": 1.0}, toolbox="named")
    with ToolExecutor(lane="pillow") as executor:
        found = [builder.episode("train", index, executor) for index in range(n)]
    return [episode for episode in found if episode is not None]


def test_a_policy_learns_named_calls() -> None:
    module, batch = SFTModule(small_policy(toolbox="named")), named_episodes()
    losses = [float(train(module, [batch] * n).callback_metrics["train/loss"]) for n in (1, 20)]
    assert losses[1] < 0.97 * losses[0]


def test_calls_of_other_tools_than_the_policys_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"calls 'flip'.*toolbox: code\)\. Give the policy and the data the same"):
        train(SFTModule(small_policy()), [named_episodes()])
    with pytest.raises(
        ConfigError, match=r"calls 'code_image_tool', which is not a tool of the policy \(toolbox: named\)"
    ):
        train(SFTModule(small_policy(toolbox="named")), [episodes()])


# ---- servers ---------------------------------------------------------------------------------------------------------


def ask(url: str, tools: str) -> EndpointSolver:
    endpoint = Endpoint(url, attempts=2, api_key_variable=None)
    solver = partial(EndpointSolver, endpoint, max_turns=3, max_new_tokens=400, toolbox="named", announce_sizes=False)
    return solver(tools="text", system_prompt="Read.") if tools == "text" else solver(tools="native", system_prompt="")


@pytest.mark.parametrize("tools", ["text", "native"])
def test_a_server_gives_the_trajectories_of_the_local_policy(tools: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force_first_reply(monkeypatch, CALL)
    policy = small_policy(toolbox="named")
    with serve(policy, max_new_tokens=400) as (_, url):
        local, remote = LocalSolver(policy, RolloutConfig(max_turns=3, max_new_tokens=400)), ask(url, tools)
        try:
            expected, given = local.solve(samples()), remote.solve(samples())
        finally:
            local.close()
            remote.close()
    for mine, theirs in zip(expected, given, strict=True):
        assert mine is not None
        assert theirs is not None
        assert mine.turns[0].reply.call is not None
        assert mine.turns[0].reply.call.name == "rotate"
        assert [turn.text for turn in theirs.turns] == [turn.text for turn in mine.turns]
        assert [viewed.orientation for viewed in theirs.images] == ["identity", "rotate_270"]


def test_a_native_call_is_checked_like_a_written_one() -> None:
    dialogue = Dialogue(samples()[0], "native", "", ImageEncoding(), NAMED)
    assert dialogue.tools == NAMED.schemas
    [(_, good)] = dialogue.append_reply(ChatReply("", (("c", "crop", '{"bbox": [0, 0, 8, 9]}'),)))
    [(_, bad)] = dialogue.append_reply(ChatReply("", (("c", "crop", '{"bbox": "all"}'),)))
    [(_, broken)] = dialogue.append_reply(ChatReply("", (("c", "crop", "{"),)))
    assert good.call is not None
    assert good.call.code == "result = image.crop((0, 0, 8, 9))"
    assert bad.call is not None
    assert (bad.call.fault or "").startswith("TypeError: bbox must be [x1, y1, x2, y2]")
    assert (broken.fault or "").startswith("The tool call is not valid JSON")


def test_the_default_prompt_is_about_the_tools() -> None:
    assert default_prompt("text", NAMED) == NAMED.system_prompt
    assert "through tools. Call a tool at most once" in default_prompt("native", NAMED)
    assert "through code. Call the tool at most once" in default_prompt("native", CodeTools())
    assert "tool" not in default_prompt("none", NAMED)


def test_the_tools_are_part_of_the_fingerprint() -> None:
    prints = {LocalSolver(small_policy(toolbox=box)).fingerprint() for box in (None, "named", NamedTools(["flip"]))}
    assert len(prints) == 3
    remote = [EndpointSolver(Endpoint("http://127.0.0.1:1/v1", "m"), toolbox=box) for box in ("code", "named")]
    assert len({solver.fingerprint() for solver in remote}) == 2


def test_the_description_is_plain_json() -> None:
    described = CodeTools([ReadCodes()]).describe()
    assert json.loads(json.dumps(described)) == {"kind": "code", "tools": ["code_image_tool", "read_codes"]}
