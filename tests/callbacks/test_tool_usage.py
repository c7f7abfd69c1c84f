"""Logged metrics of calls and tools: recall, outcomes, lanes, and values that are undefined in a step."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.utils.data import DataLoader

from callbacks.tool_usage import ToolUsage, tool_metrics
from cv_lightning.types import Group, Reply, Sample, ToolCall, Trajectory, Turn, ViewedImage
from sandbox import Affine, Observation, ToolExecutor, ToolRequest, orient
from sandbox.geometry import orientation_frame
from tests.callbacks.calls import IMAGE, call, using
from tests.callbacks.steps import SAMPLE, Learner, fit, trajectory


def test_what_lifted_and_confined_code_draws_is_sketching() -> None:
    page = Image.new("RGB", (120, 90), "white")
    lifted = "d = ImageDraw.Draw(image)\nd.rectangle((20, 20, 80, 60), outline='red', width=3)\nresult = image"
    opencv = "a = np.array(image)\ncv2.putText(a, 'AB', (9, 60), 0, 1, (255, 0, 0), 2)\nresult = Image.fromarray(a)"
    with ToolExecutor(workers=1) as executor:
        seen = executor.execute([ToolRequest(code, [page]) for code in (lifted, opencv)])
    if seen[1].status == "rejected":
        pytest.skip(seen[1].text)
    assert [observation.lane for observation in seen] == ["pillow", "confined"]
    metrics = tool_metrics([Trajectory(SAMPLE, [Turn("", Reply(call=ToolCall("")), one)]) for one in seen], ())
    assert metrics["tools/family/sketching"] == 1.0


def test_recall_of_required_tools_and_spurious_turns() -> None:
    sample = Sample("0", "Read.", (IMAGE,), "A", ("rotate_90", "crop"), (0.0, 0.0, 2.0, 2.0))
    turned_image, frame = orient(IMAGE, "rotate_270"), orientation_frame("rotate_270", IMAGE.size)
    views = [ViewedImage(IMAGE, 0, Affine(), "identity"), ViewedImage(turned_image, 0, frame, "rotate_270", 0)]
    seen = Observation("ok", turned_image, tools=("rotate_270",), orientation="rotate_270")
    turn = Turn("", Reply(call=ToolCall("")), seen)
    metrics = tool_metrics([Trajectory(sample, [turn], views), Trajectory(sample, [], views[:1])], ())
    assert metrics["tools/required_recall"] == 0.25  # one trajectory turned but did not crop, the other did neither
    assert "tools/spurious_rate" not in metrics
    turned = Trajectory(SAMPLE, [turn], views)
    assert tool_metrics([turned, using()], ())["tools/spurious_rate"] == 0.5


def test_outcomes_by_lane() -> None:
    turns = [call(lane="pillow"), call("error", lane="confined"), call(lane="confined"), call("rejected", lane="none")]
    metrics = tool_metrics([Trajectory(SAMPLE, turns)], ())
    assert (metrics["tools/success/pillow"], metrics["tools/success/confined"]) == (1.0, 0.5)
    assert "tools/success/none" not in metrics


def test_share_of_each_lane_and_contract() -> None:
    seen = [Observation("ok", IMAGE, "", "kornia", exactness=exactness) for exactness in ("close", "close", "exact")]
    turns = [Turn("", Reply(call=ToolCall("")), one) for one in seen]
    metrics = tool_metrics([Trajectory(SAMPLE, [*turns, call(), call("rejected", lane="none")])], ())
    shares = {name: value for name, value in metrics.items() if name.startswith("tools/lane/")}
    assert shares == {"tools/lane/kornia_close": 0.5, "tools/lane/kornia": 0.25, "tools/lane/pillow": 0.25}


def test_tools_count_where_their_call_ran() -> None:
    failed, turned = Observation("error", tools=("blur",)), Observation("ok", tools=("rotate_90", "contrast"))
    metrics = tool_metrics([trajectory(failed, turned), trajectory(failed), trajectory()], {"rotate_90", "contrast"})
    assert metrics == pytest.approx(
        {
            "tools/calls": 1.0,
            "tools/error_rate": 2 / 3,
            "tools/recovery_rate": 1 / 2,
            "tools/emergent_rate": 1 / 3,
            "tools/used/contrast": 1 / 3,
            "tools/used/rotate_90": 1 / 3,
            "tools/success_rate": 1 / 3,
            "tools/error/other": 2 / 3,
            "tools/chain_length": 2.0,
            "tools/family/geometry": 0.5,
            "tools/family/enhancement": 0.5,
            "tools/family/sketching": 0.0,
            "tools/family/numeric": 0.0,
            "tools/family/other": 0.0,
            "tools/entropy": math.log(2),
            "tools/spurious_rate": 1 / 3,
        }
    )


def test_emergent_tools_are_counted_by_family_if_a_step_has_several() -> None:
    filtered = [trajectory(Observation("ok", tools=("contrast",))), trajectory(), trajectory()]
    assert "tools/emergent_rate/plates" not in tool_metrics(filtered, ())
    filtered[2].sample = replace(SAMPLE, family="faded")
    metrics = tool_metrics(filtered, ())
    assert (metrics["tools/emergent_rate/plates"], metrics["tools/emergent_rate/faded"]) == (1 / 2, 0)


def test_first_step_of_an_emergent_tool_is_kept_over_a_resume(tmp_path: Path) -> None:
    contrast = Group(SAMPLE, [trajectory(Observation("ok", tools=("contrast", "rotate_90", "rotate")))])
    usage = ToolUsage()
    steps = fit(tmp_path, Learner([Group(SAMPLE, [trajectory()]), contrast, contrast]), 3, usage)
    assert usage.emergent.first_step == {"contrast": 2}
    assert [step.get("tools/first_step/contrast") for step in steps] == [None, 2.0, None]
    resumed = ToolUsage()
    resumed.load_state_dict(usage.state_dict())
    steps = fit(tmp_path, Learner([contrast, Group(SAMPLE, [trajectory()])]), 2, resumed)
    assert resumed.emergent.first_step == {"contrast": 2}
    assert steps[-1]["tools/used/rotate_90"] == 0.0


def test_a_metric_that_is_not_defined_in_a_step_is_not_logged_again(tmp_path: Path) -> None:
    failed = Group(SAMPLE, [trajectory(Observation("error"), Observation("ok"))])
    first, second = fit(tmp_path, Learner([failed, Group(SAMPLE, [trajectory()])]), 2, ToolUsage())
    assert first["tools/recovery_rate"] == 1.0
    assert "tools/recovery_rate" not in second
    assert "tools/calls" in second


def test_nor_does_a_logger_get_it_again(tmp_path: Path) -> None:
    failed = Group(SAMPLE, [trajectory(Observation("error"), Observation("ok"))])
    module = Learner([failed, Group(SAMPLE, [trajectory()])])
    logger = CSVLogger(tmp_path)
    settings: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    trainer = Trainer(
        accelerator="cpu", max_steps=2, logger=logger, enable_checkpointing=False, callbacks=[ToolUsage()], **settings
    )
    trainer.fit(module, DataLoader(torch.zeros(2, 1)))  # type: ignore[arg-type]
    rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").open(encoding="utf-8")))
    assert [row["tools/recovery_rate"] for row in rows] == ["1.0", ""]
    assert [row["tools/calls"] for row in rows] == ["2.0", "0.0"]


def test_the_table_of_emergent_tools_is_written_when_due_and_at_the_end(tmp_path: Path) -> None:
    contrast = [Group(SAMPLE, [trajectory(Observation("ok", tools=("contrast",)))]) for _ in range(5)]
    fit(tmp_path, Learner(contrast), 5, ToolUsage(table_every_n_steps=2))
    table = json.loads((tmp_path / "emergent_tools.json").read_text(encoding="utf-8"))
    assert [row[:2] for row in table["data"]] == [[2, "contrast"], [4, "contrast"], [5, "contrast"]]
