"""Runs to compare: folders as `fit` leaves them, and groups of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from cv_lightning.compare.groups import RunGroup
from cv_lightning.compare.run import Run
from cv_lightning.evaluation.answer_log import AnswerRecord


def a_run(folder: Path, *, seed: int = 0, weight: float = 0.1, scores: tuple[float, ...] = (0.2, 0.4, 0.6)) -> Path:
    """A run's folder as `fit` leaves it."""
    folder.mkdir(parents=True)
    config = {
        "seed_everything": seed,
        "run_folder": str(folder.parent),
        "trainer": {"max_steps": 3, "default_root_dir": str(folder), "callbacks": [{"class_path": "a.B"}]},
        "model": {"class_path": "modules.GRPOModule", "init_args": {"seed": seed, "reward": {"format": weight}}},
    }
    (folder / "config_fit.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    rows = [f"{step},{score},{score / 2},2.0" for step, score in enumerate(scores)]
    lines = ["step,rollout/accuracy,reward/accuracy,throughput/step_s", *rows, f"{len(scores)},,,"]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def answer(item: str, score: float | None, condition: str = "upright", truth: str = "F7") -> AnswerRecord:
    record: dict[str, Any] = {"key": f"{item} {condition}", "item": item, "id": item, "condition": condition}
    record |= {"policy": "p", "family": "plates", "truth": truth, "answer": "F7", "score": score, "graded_by": "rule"}
    record |= {"graded_for": "", "stop_reason": "answered", "turns": ["x"], "n_calls": 1, "outcomes": [True]}
    record |= {"tools": [["rotate_90"]], "is_restored": True, "required": [], "used": [], "crop_iou": None}
    return AnswerRecord(**record)


def a_group(name: str, *of_seeds: list[AnswerRecord], first_seed: int = 0) -> RunGroup:
    runs = [
        Run(f"{name}", f"{name}_{seed}", config={"seed_everything": seed}, answers=answers)
        for seed, answers in enumerate(of_seeds, start=first_seed)
    ]
    return RunGroup(name, runs)


def a_noted_run(folder: Path, lr: float = 0.1, **facts: Any) -> Path:
    folder.mkdir()
    config = {"seed_everything": 0, "model": {"class_path": "a.B", "init_args": {"lr": lr}}}
    (folder / "config_fit.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "run_fit.json").write_text(json.dumps(facts), encoding="utf-8")
    (folder / "metrics.csv").write_text("step,train/loss\n0,1.0\n1,0.5\n", encoding="utf-8")
    return folder
