"""Training, rollouts and evaluation of questions without images, alone and beside others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from cv_lightning.conversation import format_answer, format_call, parse_reply
from cv_lightning.data.sources.file_source import FileSource
from cv_lightning.driver import roll_out
from cv_lightning.evaluation.questions import RobustnessDataModule
from cv_lightning.rollout import Sampling, observe
from cv_lightning.types import Sample, StopReason, ToolCall, Trajectory, Turn
from modules.sft import SFTModule
from sandbox import ToolExecutor
from tests.modules.helpers import FAMILIES, noise, small_policy, train

PLAIN = Sample("plain", "What is 2 + 2?", (), "4")
SEEN = Sample("seen", "<image> or <image>?", (noise(seed=1), noise(60, 90, 2)), "x")


def recorded(sample: Sample) -> Trajectory:
    text = format_answer("Easy.", sample.answer)
    return Trajectory(sample, [Turn(text, parse_reply(text))], stop_reason=StopReason.ANSWERED)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_without_images_score_alike_alone_and_beside_others(family: str) -> None:
    policy = small_policy(family)
    plain, seen = (policy.conversation.encode(recorded(sample)) for sample in (PLAIN, SEEN))
    with torch.no_grad():
        alone = policy.token_logprobs(policy.collate([plain]))[0].sum(-1)
        beside = policy.token_logprobs(policy.collate([seen, plain]))[0].sum(-1)
    assert alone[0] < -10
    torch.testing.assert_close(alone[0], beside[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("samples", [[PLAIN, PLAIN], [PLAIN, SEEN]], ids=["alone", "mixed"])
def test_rows_without_images_train_and_roll_out(samples: list[Sample]) -> None:
    policy = small_policy()
    trainer = train(SFTModule(policy), [[recorded(sample) for sample in samples]])
    assert 3 < float(trainer.callback_metrics["train/loss"]) < 12
    with ToolExecutor(lane="pillow") as executor:
        groups = roll_out(samples, policy, executor, Sampling(max_new_tokens=4), 2, 2)
    assert [len(group.trajectories) for group in groups] == [2, 2]
    assert all(trajectory.tokens.ids for group in groups for trajectory in group.trajectories)


def test_a_call_without_an_image_is_an_observation() -> None:
    text = format_call("I look.", ToolCall("result = image"))
    trajectory = Trajectory(PLAIN, [Turn(text, parse_reply(text))])
    with ToolExecutor(lane="pillow") as executor:
        (observation,) = observe([trajectory], executor)
    assert (observation.status, observation.text) == ("rejected", "There is no image to work on.")


def test_every_condition_asks_a_row_without_images(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    rows = [{"question": "Which?", "images": ["a.png"], "answer": "x"}, {"question": "2 + 2?", "answer": "4"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = RobustnessDataModule(FileSource(test=str(tmp_path / "rows.jsonl")), corruptions=["contrast"], severities=[1])
    items = [item for batch in data.test_dataloader() for item in batch]
    asked = [item.sample() for item in items]
    assert [len(sample.images) for sample in asked] == [1] * 7 + [0] * 7
    assert {sample.transforms for sample in asked[7:]} == {()}
    assert asked[1].images[0].size == (30, 40)
