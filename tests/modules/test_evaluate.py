"""The evaluation end to end, with a scripted policy and with a small real one."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from cv_lightning.console.versions import versions
from cv_lightning.conversation import format_answer, format_call, parse_reply
from cv_lightning.data.sources import FileSource
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.errors import CheckpointError, ConfigError, CVLightningError, DataError
from cv_lightning.evaluation.questions import RobustnessDataModule
from cv_lightning.evidence import required_orientation
from cv_lightning.frames import view_question, view_result
from cv_lightning.solver import Solver
from cv_lightning.tools.code import CODE_TOOLS
from cv_lightning.types import Sample, StopReason, ToolCall, Trajectory, Turn
from modules import evaluate as evaluate_module
from modules.evaluate import LocalSolver, RobustnessTest, weights_digest
from modules.rollouts import RolloutConfig
from sandbox import ToolExecutor, ToolRequest
from tests.modules.helpers import small_policy

SPELLED = {
    "rotate_90": "result = image.rotate(90, expand=True)",
    "rotate_180": "result = image.rotate(180)",
    "rotate_270": "result = image.rotate(270, expand=True)",
    "flip_horizontal": "result = ImageOps.mirror(image)",
    "flip_vertical": "result = ImageOps.flip(image)",
}


class Reader(Solver):
    """Undoes quarter turns but no mirroring, and reads upright plates."""

    def __init__(self, name: str = "reader", stop_after: int | None = None) -> None:
        self.name = name
        self.stop_after = stop_after
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.seen: list[Image.Image] = []
        self.is_closed = False
        self.executor = ToolExecutor(lane="pillow")

    def fingerprint(self) -> str:
        return self.name

    def solve(self, samples: Sequence[Sample]) -> list[Trajectory | None]:
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += [(sample.id, sample.transforms) for sample in samples]
        self.seen += [image for sample in samples for image in sample.images]
        return [self.play(sample) for sample in samples]

    def play(self, sample: Sample) -> Trajectory | None:
        trajectory = Trajectory(sample, images=view_question(sample), stop_reason=StopReason.ANSWERED)
        tool = required_orientation(sample)
        if tool.startswith("rotate"):
            self.say(trajectory, format_call("Turned.", ToolCall(SPELLED[tool])))
        is_readable = tool == "identity" or tool.startswith("rotate")
        self.say(trajectory, format_answer("Read.", sample.answer if is_readable else "?"))
        return trajectory

    def say(self, trajectory: Trajectory, text: str) -> None:
        turn = Turn(text, parse_reply(text))
        trajectory.turns.append(turn)
        if turn.reply.call is not None:
            images = [viewed.image for viewed in trajectory.images]
            turn.observation = self.executor.execute([ToolRequest(turn.reply.call.code, images)])[0]
            trajectory.images.append(view_result(trajectory, turn.reply.call, turn.observation, 0))

    def close(self) -> None:
        self.is_closed = True
        self.executor.close()


def evaluate(module: RobustnessTest, folder: Path, **data: Any) -> dict[str, float]:
    arguments: dict[str, Any] = {"source": PlateWorld(), "n_questions": 5, "batch_size": 6} | data
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(folder, name="", version=""),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.test(module, datamodule=RobustnessDataModule(**arguments))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_the_table_of_a_policy_that_cannot_mirror(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solver = Reader()
    metrics = evaluate(RobustnessTest(solver), tmp_path)
    assert len(solver.asked) == 30
    assert solver.is_closed
    for label, accuracy in {"upright": 1, "rot90": 1, "rot180": 1, "rot270": 1, "hflip": 0, "vflip": 0}.items():
        assert metrics[f"test/accuracy/{label}"] == accuracy
        assert metrics[f"test/drop/{label}"] == 1 - accuracy
        assert metrics[f"test/restored_rate/{label}"] == accuracy
        assert metrics[f"test/tool_rate/{label}"] == label.startswith("rot")
        assert metrics[f"test/mean_turns/{label}"] == 1 + label.startswith("rot")
    assert metrics["test/accuracy/mean"] == pytest.approx(4 / 6)
    assert metrics["test/required_recall/mean"] == pytest.approx(3 / 5)
    assert "test/crop_iou/upright" not in metrics
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert (content["policy"], content["questions"], content["asked_now"], content["not_answered"]) == (
        "reader",
        30,
        30,
        0,
    )
    assert content["conditions"]["hflip"]["drop"] == 1
    assert content["versions"] == versions()
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        logged = {name: value for row in csv.DictReader(file) for name, value in row.items() if value}
    assert float(logged["test/accuracy/rot90"]) == 1.0
    assert "page:" in capsys.readouterr().out


def test_a_cut_off_run_goes_on_without_asking_again(tmp_path: Path) -> None:
    first = Reader(stop_after=12)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        evaluate(RobustnessTest(first), tmp_path)
    assert not (tmp_path / "results.json").exists()
    second = Reader()
    metrics = evaluate(RobustnessTest(second), tmp_path)
    assert len(first.asked) == 12
    assert len(second.asked) == 18
    assert set(first.asked) | set(second.asked) == set(evaluate_all(tmp_path / "other"))
    assert metrics["test/n/upright"] == 5
    third = Reader()
    assert evaluate(RobustnessTest(third), tmp_path) == metrics
    assert third.asked == []


def evaluate_all(folder: Path) -> list[tuple[str, tuple[str, ...]]]:
    solver = Reader()
    evaluate(RobustnessTest(solver), folder)
    return solver.asked


class Squinter(Reader):
    """Uses no tools; reads two of five transformed plates and four of five upright ones."""

    def play(self, sample: Sample) -> Trajectory | None:
        trajectory = Trajectory(sample, images=view_question(sample), stop_reason=StopReason.ANSWERED)
        is_read = sample.id.endswith(("0", "1")) if sample.transforms else not sample.id.endswith("0")
        self.say(trajectory, format_answer("Read.", sample.answer if is_read else "?"))
        return trajectory


class Both(Reader):
    def __init__(self) -> None:
        super().__init__()
        self.alone = Squinter("squinter")

    def without_tools(self) -> Solver:
        return self.alone


def test_gain_and_harm_of_tools_over_the_same_questions(tmp_path: Path) -> None:
    solver = Both()
    metrics = evaluate(RobustnessTest(solver, compare_without_tools=True), tmp_path)
    assert sorted(solver.asked) == sorted(solver.alone.asked)
    assert solver.is_closed
    assert solver.alone.is_closed
    # five questions: turned plates are undone and read, mirrored plates are not; without tools, two of five are read
    assert (metrics["test/tool_gain/rot90"], metrics["test/tool_harm/rot90"]) == pytest.approx((0.6, 0.0))
    assert (metrics["test/tool_gain/hflip"], metrics["test/tool_harm/hflip"]) == pytest.approx((0.0, 0.4))
    assert (metrics["test/tool_gain/upright"], metrics["test/alone/upright"]) == pytest.approx((0.2, 0.8))
    assert metrics["test/accuracy/mean"] - metrics["test/alone/mean"] == pytest.approx(metrics["test/tool_effect/mean"])
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert (content["questions"], content["asked_now"], content["not_answered"]) == (30, 60, 0)
    again = Both()
    assert evaluate(RobustnessTest(again, compare_without_tools=True), tmp_path) == metrics
    assert again.asked == again.alone.asked == []


def test_a_solver_that_always_has_its_tools_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    solver = Reader()
    with pytest.raises(ConfigError, match="Reader cannot be asked without tools"):
        evaluate(RobustnessTest(solver, compare_without_tools=True), tmp_path)
    assert solver.asked == []


def test_a_policy_without_tools_cannot_begin_a_call() -> None:
    policy = small_policy()
    policy.causal.lm_head.weight.data.zero_()  # makes all tokens that are not banned equally probable
    only_calls_V = torch.ones_like(policy.is_banned_V)
    only_calls_V[[policy.tokenizer.get_vocab()["<tool_call>"], policy.conversation.end_of_turn_id]] = False
    policy.is_banned_V = only_calls_V
    rollout = RolloutConfig(max_turns=3, max_new_tokens=3, lane="pillow", evaluation_temperature=1.0)
    solver = LocalSolver(policy, rollout)
    alone = solver.without_tools()
    samples = [PlateWorld().sample("test", index, ()) for index in range(4)]
    turns = [[turn.text for turn in trajectory.turns] for trajectory in solver.solve(samples) if trajectory]
    assert any("<tool_call>" in text for texts in turns for text in texts)
    assert [[turn.text for turn in trajectory.turns] for trajectory in alone.solve(samples) if trajectory] == [[""]] * 4
    assert policy.is_banned_V is only_calls_V, "it is given back as it was"
    assert alone.fingerprint() != solver.fingerprint()


def test_only_a_prompt_that_offers_tools_is_replaced() -> None:
    for prompt, is_kept in ((CODE_TOOLS.system_prompt, False), ("Read.", True)):
        policy = small_policy(system_prompt=prompt)
        with policy.without_tools():
            inside = policy.conversation.system_prompt
        assert (inside == prompt) is is_kept
        assert "<tools>" not in inside
        assert policy.conversation.system_prompt == prompt


def test_another_policy_condition_or_world_is_asked(tmp_path: Path) -> None:
    evaluate(RobustnessTest(Reader()), tmp_path)
    other = Reader("another")
    evaluate(RobustnessTest(other), tmp_path)
    assert len(other.asked) == 30
    more = Reader()
    metrics = evaluate(RobustnessTest(more), tmp_path, corruptions=["jpeg"], severities=[1, 5], n_questions=6)
    assert len(more.asked) == 6 + 6 * 2
    assert metrics["test/n/jpeg_5"] == 6
    moved = Reader()
    evaluate(RobustnessTest(moved), tmp_path, source=PlateWorld(seed=1), orientations=["upright"])
    assert len(moved.asked) == 5


def test_a_question_without_an_answer_is_asked_again(tmp_path: Path) -> None:
    class Shy(Reader):
        def play(self, sample: Sample) -> Trajectory | None:
            return None if sample.id.endswith("-2") else super().play(sample)

    metrics = evaluate(RobustnessTest(Shy()), tmp_path)
    assert metrics["test/n/upright"] == 4
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["not_answered"] == 6
    patient = Reader()
    assert evaluate(RobustnessTest(patient), tmp_path)["test/n/upright"] == 5
    assert len(patient.asked) == 6


def test_rows_with_what_was_done_to_them_are_asked_as_they_are(tmp_path: Path) -> None:
    world = PlateWorld()
    rows = []
    for number, name in enumerate(["rotate_90", "flip_horizontal"]):
        sample = world.sample("test", number, [name])
        sample.images[0].save(tmp_path / f"{number}.png")
        rows.append({"id": str(number), "question": "?", "images": [f"{number}.png"], "answer": sample.answer})
        rows[-1] |= {"transforms": [name], "family": name}
    rows.insert(1, rows[0] | {"id": "bad", "images": ["gone.png"]})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    solver = Reader()
    source = FileSource(test=str(tmp_path / "rows.jsonl"))
    with pytest.warns(UserWarning, match="gone.png does not exist"):
        metrics = evaluate(RobustnessTest(solver), tmp_path, source=source, n_questions=None, orientations=["recorded"])
    assert sorted(set(solver.asked)) == [("0", ("rotate_90",)), ("1", ("flip_horizontal",))]
    assert metrics["test/n/recorded"] == 2, "what stands in for the bad row is not counted twice"
    assert metrics["test/accuracy/recorded"] == 0.5
    assert metrics["test/required_recall/recorded"] == 0.5
    assert metrics["test/exact_tools/recorded"] == 0.5
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert content["families"] == {"flip_horizontal": {"recorded": 0.0}, "rotate_90": {"recorded": 1.0}}


def test_rotbench_is_asked_as_recorded_and_counted_by_rotation(tmp_path: Path) -> None:
    class Upright(Reader):
        def play(self, sample: Sample) -> Trajectory | None:
            trajectory = Trajectory(sample, images=view_question(sample), stop_reason=StopReason.ANSWERED)
            self.say(trajectory, format_answer("It is upright.", "0 degrees"))
            return trajectory

    picture = BytesIO()
    PlateWorld().sample("test", 0, ()).images[0].save(picture, "PNG")
    rows = [{"image": {"bytes": picture.getvalue(), "path": None}, "image_name": f"{n}.jpg"} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "large.parquet")
    source = FileSource(test=str(tmp_path / "large.parquet"))
    metrics = evaluate(RobustnessTest(Upright()), tmp_path, source=source, n_questions=None, orientations=["recorded"])
    assert (metrics["test/n/recorded"], metrics["test/accuracy/recorded"]) == (12, 0.25)
    families = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["families"]
    assert families == {f"rotated by {d}": {"recorded": float(d == 0)} for d in (0, 180, 270, 90)}
    with pytest.raises(ConfigError, match=r"RotBench asks how each image was turned.*\[recorded\]"):
        evaluate(RobustnessTest(Upright()), tmp_path, source=source, n_questions=1)


def test_bad_images_are_named_and_the_rest_is_asked(tmp_path: Path) -> None:
    plate = PlateWorld().sample("test", 0, ()).images[0]
    plate.save(tmp_path / "good.png")
    plate.save(tmp_path / "good.jpg")
    plate.convert("CMYK").save(tmp_path / "cmyk.jpg")
    plate.save(tmp_path / "moving.gif", save_all=True, append_images=[plate.rotate(90)])
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:700])
    header = BytesIO()
    Image.new("1", (20_000, 15_000)).save(header, "PNG")
    (tmp_path / "huge.png").write_bytes(header.getvalue())
    names = ["good.png", "cut.jpg", "cmyk.jpg", "huge.png", "moving.gif", "good.png", "good.jpg"]
    rows = [{"id": f"q{n}", "question": "?", "images": [name], "answer": "x"} for n, name in enumerate(names)]
    rows[5]["id"] = rows[6]["id"] = "q0"  # rows[5] has the content of rows[0], rows[6] does not
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    solver = Reader()
    source = FileSource(test=str(tmp_path / "rows.jsonl"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metrics = evaluate(RobustnessTest(solver), tmp_path, source=source, n_questions=None, orientations=["upright"])
    said = [str(one.message) for one in caught if "Left out a row" in str(one.message)]
    assert len(said) == 2
    assert re.search(r"rows.jsonl, line 2 \(id 'q1'\): image .*cut.jpg cannot be read, it is truncated", said[0])
    assert re.search(r"line 4 \(id 'q3'\): .*huge.png .*too large .*300000000 pixels.*at most 100 mega", said[1])
    assert sorted({name for name, _ in solver.asked}) == ["q0", "q2", "q4"]
    assert metrics["test/n/upright"] == 4, "q0 is asked about each of its two contents, and once about each"
    assert all(image.mode == "RGB" and image.size == plate.size for image in solver.seen)


def test_the_judge_comes_second(tmp_path: Path) -> None:
    judged = []

    def judge(question: str, prediction: str, truth: str) -> bool:
        judged.append(prediction)
        return True

    module = RobustnessTest(Reader(), judge=judge)  # type: ignore[arg-type]
    assert evaluate(module, tmp_path)["test/accuracy/hflip"] == 1.0
    assert judged == ["?"] * 10


def test_another_rule_or_judge_grades_anew_and_asks_nothing(tmp_path: Path) -> None:
    def judge(_: str, prediction: str, __: str) -> bool | None:
        return {"?": verdict}.get(prediction)

    assert evaluate(RobustnessTest(Reader()), tmp_path)["test/accuracy/hflip"] == 0.0
    silent = Reader()
    verdict: bool | None = None
    metrics = evaluate(RobustnessTest(silent, judge=judge), tmp_path)  # type: ignore[arg-type]
    assert metrics["test/unjudged/hflip"] == 5
    assert "test/accuracy/hflip" not in metrics
    verdict = True
    metrics = evaluate(RobustnessTest(silent, judge=judge), tmp_path)  # type: ignore[arg-type]
    assert metrics["test/accuracy/hflip"] == 1.0, "the judge that failed is asked again"
    metrics = evaluate(RobustnessTest(silent, rule="anls"), tmp_path)
    assert (metrics["test/accuracy/hflip"], metrics["test/accuracy/upright"]) == (0.0, 1.0)
    assert silent.asked == []


def test_an_unknown_rule_stops_before_anything_is_asked(tmp_path: Path) -> None:
    row = {"question": "?", "images": ["a.png"], "answer": "x", "rule": "exactly"}
    PlateWorld().sample("test", 0, ()).images[0].save(tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    solver = Reader()
    with pytest.raises(DataError, match="no answer rule 'exactly'"):
        evaluate(RobustnessTest(solver), tmp_path, source=FileSource(test=str(tmp_path / "rows.jsonl")))
    assert solver.asked == []


def test_other_data_is_refused_in_words(tmp_path: Path) -> None:
    module = RobustnessTest(Reader())
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    batches: Any = [[PlateWorld().sample("test", 0)]]
    with pytest.raises(ConfigError, match=r"data: expected a .*RobustnessDataModule"):
        trainer.test(module, torch.utils.data.DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))


def test_a_disk_that_is_full_in_the_end_costs_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(evaluate_module, "write_page", full)
        with pytest.raises(CVLightningError, match=r"cannot write the results \(No space left.*answers are saved"):
            evaluate(RobustnessTest(Reader()), tmp_path)
    again = Reader()
    evaluate(RobustnessTest(again), tmp_path)
    assert again.asked == []


def test_a_checkpoint_is_refused_with_the_way_to_go(tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.6", "loops": {}}, tmp_path / "last.ckpt")
    data = RobustnessDataModule(PlateWorld(), n_questions=1)
    with pytest.raises(CheckpointError, match=r"the folder that the stage exported"):
        trainer.test(RobustnessTest(Reader()), datamodule=data, ckpt_path=str(tmp_path / "last.ckpt"))


def test_a_real_policy_is_asked_once(tmp_path: Path) -> None:
    rollout = RolloutConfig(max_turns=2, max_new_tokens=4, lane="pillow")
    metrics = evaluate(RobustnessTest(LocalSolver(small_policy(), rollout)), tmp_path, n_questions=2)
    again = RobustnessTest(LocalSolver(small_policy(), rollout))
    assert evaluate(again, tmp_path, n_questions=2) == metrics
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["asked_now"] == 0


def test_the_fingerprint_is_that_of_what_decides_the_answers() -> None:
    policy = small_policy()
    rollout = RolloutConfig(max_turns=2)
    prints = {
        LocalSolver(policy, rollout).fingerprint(),
        LocalSolver(policy, RolloutConfig(max_turns=3)).fingerprint(),
        LocalSolver(policy, RolloutConfig(max_turns=2, evaluation_temperature=1.0)).fingerprint(),
        LocalSolver(policy, RolloutConfig(max_turns=2, evaluation_temperature=1.0), seed=1).fingerprint(),
        LocalSolver(small_policy(system_prompt="Look."), rollout).fingerprint(),
        LocalSolver(small_policy(max_pixels=100 * 100), rollout).fingerprint(),
        LocalSolver(small_policy("qwen3_vl"), rollout).fingerprint(),
    }
    assert len(prints) == 7
    assert LocalSolver(small_policy(), rollout).fingerprint() == LocalSolver(policy, rollout, seed=5).fingerprint()
    assert all(re.fullmatch(r"[0-9a-f]{16}", text) for text in prints)


def test_weights_in_another_order_have_another_digest() -> None:
    layer = torch.nn.Linear(3, 2)
    before = weights_digest(layer)
    assert weights_digest(layer) == before
    with torch.no_grad():
        layer.weight.copy_(layer.weight.flip(0))
    swapped = weights_digest(layer)
    assert swapped != before
    assert weights_digest(layer.to(torch.bfloat16)) != swapped


def test_a_question_that_does_not_fit_is_left_out(tmp_path: Path) -> None:
    solver = LocalSolver(small_policy(max_context_tokens=60), RolloutConfig(max_new_tokens=4, lane="pillow"))
    small, large = PlateWorld(), PlateWorld(width=400, height=400)
    with pytest.warns(UserWarning, match=r"Left out a question.*max_context_tokens"):
        solved = solver.solve([large.sample("test", 0, ()), small.sample("test", 0, ())])
    assert [trajectory is not None for trajectory in solved] == [False, True]


def test_tools_run_on_the_device_of_the_rollout() -> None:
    solver = LocalSolver(small_policy(), RolloutConfig(max_new_tokens=4, device="cuda:99"))
    with pytest.raises(ValueError, match=r"device: .* got 'cuda:99'"):
        solver.solve([PlateWorld().sample("test", 0, ())])


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="forks after CUDA has started")
def test_two_ranks_make_one_table(tmp_path: Path) -> None:
    def run(folder: Path, **changes: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, **changes}
        trainer = Trainer(default_root_dir=folder, enable_model_summary=False, **arguments)
        data = RobustnessDataModule(PlateWorld(), n_questions=5, batch_size=4)
        trainer.test(RobustnessTest(PlainReader()), datamodule=data)
        content: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        return content

    two = run(tmp_path / "two", devices=2, strategy="ddp_fork")
    assert {path.name for path in (tmp_path / "two").glob("*.jsonl")} == {"answers_0.jsonl", "answers_1.jsonl"}
    one = run(tmp_path / "one", devices=1)
    assert {"conditions": one["conditions"]} == {"conditions": two["conditions"]}
    assert (one["questions"], two["questions"], two["not_answered"]) == (30, 30, 0)
    assert run(tmp_path / "two", devices=1)["asked_now"] == 0, "one rank goes on from what two ranks answered"


class PlainReader(torch.nn.Module, Reader):
    """A reader with a parameter, which a distributed strategy requires."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        Reader.__init__(self)
        self.weight = torch.nn.Parameter(torch.zeros(1))
