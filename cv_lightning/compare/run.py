"""A run to compare: its config, its metric curves and its answers, read from its folder or from MLflow."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from cv_lightning.errors import DataError
from cv_lightning.evaluation.answer_log import AnswerRecord, read_answers
from cv_lightning.reports.metrics_log import Points, merge, read_curves

if TYPE_CHECKING:
    from cv_lightning.tracking.stores import StoredRun

#: Files that `fit` and `test` write into a run's folder; the first one that exists holds the effective config.
CONFIGS = ("config_fit.yaml", "config_test.yaml", "config_validate.yaml")
FACTS = ("run_fit.json", "run_test.json")
RESULTS = ("results.json",)

_MARKS = (*CONFIGS, *FACTS, *RESULTS, "metrics.csv", "answers_*.jsonl")

#: The MLflow artifacts of a run that are read like the files of its folder.
_ARTIFACTS = re.compile(r"(config|run)_\w+\.(yaml|json)|results\.json|answers_\d+\.jsonl")

#: Folders that are not searched for runs.
_OTHERS = {"mlartifacts", "mlruns", "checkpoints", "policy", "trajectories", "images"}

#: Depth below a folder to which runs are searched for: recipe / seed / stage.
_DEPTH = 4

_STEP_SECONDS = "throughput/step_s"


@dataclass
class Run:
    """One run.

    Attributes:
        name: Name of its stage, or the name in its config.
        source: The folder or run id from which it was read.
        config: The resolved config, flattened: `model.reward.format` -> 0.1.
        facts: Commit, data fingerprint, machine and packages, flattened; only recorded ones.
        curves: Metric -> points.
        minutes: (step, minutes of training until then); empty if no step was timed.
        started: Start of its training or test, as text that sorts by time; empty if unknown.
        answers: Its answers to the items of an evaluation.
        evaluated_by: The evaluation from which the answers come, if that was a run of its own.
        faults: Unreadable files and parts, as text.
    """

    name: str
    source: str
    config: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Points] = field(default_factory=dict)
    minutes: Points = field(default_factory=list)
    started: str = ""
    answers: list[AnswerRecord] = field(default_factory=list)
    evaluated_by: str | None = None
    faults: list[str] = field(default_factory=list)

    @property
    def seed(self) -> Any:
        """`seed_everything` of its config, or None."""
        return self.config.get("seed_everything")

    @property
    def last_step(self) -> float:
        """The last step at which it logged; 0 if it logged nothing."""
        return max((points[-1][0] for points in self.curves.values()), default=0.0)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compare."""
        return not (self.curves or self.answers or self.config)


def find_runs(folder: Path) -> list[Path]:
    """The folder itself if it belongs to a run, otherwise the folders of runs below it, in order.

    Raises:
        DataError: There is no run.
    """
    found = list(_runs_below(folder, _DEPTH))
    if not found:
        raise DataError(
            f"{folder}: contains no run. Name a folder that fit, test or reproduce wrote, e.g. runs/tiny/rl."
        )
    return found


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    if any(next(folder.glob(mark), None) for mark in _MARKS):
        yield folder
    elif depth > 0:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and child.name not in _OTHERS and not re.search(r"\.old\d+$|^\.", child.name):
                yield from _runs_below(child, depth - 1)


def read_folder(folder: Path) -> Run:
    """Read a run; a file that is incomplete or from another program is left out and named in `faults`."""
    faults: list[str] = []
    config = _first(folder, CONFIGS, yaml.safe_load, faults)
    facts = _first(folder, FACTS, json.loads, faults)
    results = _first(folder, RESULTS, json.loads, faults)
    curves = _read_metrics(folder, faults) | curves_of_results(results)
    return Run(
        name=_name_of(config, folder, faults),
        source=str(folder),
        config=flatten(config),
        facts=_flatten_facts(facts, f"{folder}: facts", faults),
        curves=curves,
        minutes=minutes_of(curves),
        started=str(facts.get("started", "")),
        answers=_read_answers(folder, faults),
        faults=faults,
    )


def read_stored(stored: StoredRun) -> Run:
    """Read a run from MLflow: its artifacts like its folder, its curves from the store.

    Raises:
        DataError: The store does not answer.
    """
    with TemporaryDirectory(prefix="cv_lightning_") as folder:
        fault = None
        try:
            stored.download(_ARTIFACTS, Path(folder))
        except DataError as error:  # metrics and parameters are stored separately from artifacts
            fault = str(error)
        run = read_folder(Path(folder))
    run.faults = [*(line.replace(folder, stored.id) for line in run.faults), *([fault] if fault else [])]
    run.source = stored.id
    if not run.config:
        run.config = flatten({key.replace("/", "."): value for key, value in stored.params.items()})
        run.name = stored.name
    timed = stored.curves()
    run.curves |= {name: [(step, value) for step, _, value in points] for name, points in timed.items()}
    by_the_clock = [(step, minutes) for step, minutes, _ in max(timed.values(), key=len, default=[])]
    run.minutes = minutes_of(run.curves) or by_the_clock
    if not run.facts:
        commit = stored.tags.get("code.commit") or stored.tags.get("mlflow.source.git.commit")
        facts = {"code": {"commit": commit}, "data": {"fingerprint": stored.tags.get("data.fingerprint")}}
        run.facts = _flatten_facts(facts, stored.id, run.faults)
    return run


def _first(folder: Path, names: Sequence[str], read: Any, faults: list[str]) -> dict[str, Any]:
    """The content of the first of these files that holds a mapping; an empty mapping if none does."""
    for path in (folder / name for name in names if (folder / name).is_file()):
        try:
            content = read(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            faults.append(f"{path}: cannot be read, left out ({' '.join(str(error).split())[:120]})")
            continue
        if isinstance(content, dict):
            return content
        faults.append(f"{path}: expected a mapping, got {type(content).__name__}; left out")
    return {}


def _part(content: Mapping[str, Any], name: str, place: str, faults: list[str]) -> Mapping[str, Any]:
    """A mapping inside another one; empty, with an entry in `faults`, if there is something else."""
    part = content.get(name)
    if part is not None and not isinstance(part, Mapping):
        faults.append(f"{place}: {name}: expected a mapping, got {type(part).__name__}; left out")
    return part if isinstance(part, Mapping) else {}


def _name_of(config: Mapping[str, Any], folder: Path, faults: list[str]) -> str:
    """The name that the config gives its policy, otherwise the folder of its stage."""
    place = f"{folder}: config"
    init_args = _part(_part(config, "model", place, faults), "init_args", f"{place}: model", faults)
    own = _part(config, "trainer", place, faults).get("default_root_dir")
    return str(init_args.get("name") or (Path(str(own)).name if own else folder.resolve().name))


def _flatten_facts(facts: Mapping[str, Any], place: str, faults: list[str]) -> dict[str, Any]:
    parts = ("code", "data", "machine", "packages")
    code, data, machine, packages = (_part(facts, part, place, faults) for part in parts)
    flat = {
        "code.commit": str(code["commit"])[:12] if code.get("commit") else None,
        "code.changed": code.get("is_changed"),
        "data.fingerprint": data.get("fingerprint"),
        "machine": machine.get("name"),
        "python": facts.get("python"),
        **{f"package.{name}": version for name, version in packages.items()},
    }
    return {name: value for name, value in flat.items() if value is not None}


def _read_metrics(folder: Path, faults: list[str]) -> dict[str, Points]:
    """Merge the metrics files of a run (metrics.1.csv is an earlier attempt); the last file to log a step counts."""
    logs = []
    files = [path for path in folder.rglob("metrics*.csv") if not _OTHERS & set(path.relative_to(folder).parts)]
    for path in sorted(files, key=lambda path: path.stat().st_mtime):
        try:
            logs.append(read_curves(path))
        except (OSError, ValueError, csv.Error) as error:
            faults.append(f"{path}: cannot be read, left out ({error})")
            continue
        if not logs[-1]:
            faults.append(f"{path}: contains no metric")
    return merge(logs)


def curves_of_results(results: Mapping[str, Any]) -> dict[str, Points]:
    """The finite numbers of an evaluation's table, under the names of its logged metrics: `test/<cell>/<condition>`."""
    conditions = results.get("conditions")
    return {
        f"test/{cell}/{condition}": [(0.0, float(value))]
        for condition, cells in (conditions.items() if isinstance(conditions, dict) else ())
        for cell, value in (cells.items() if isinstance(cells, dict) else ())
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    }


def minutes_of(curves: Mapping[str, Points]) -> Points:
    """Minutes of training at each step at which `throughput/step_s` was logged.

    It sums the steps' own times, without interruptions. Steps between two logged ones count as the later one.
    """
    minutes, passed, before = [], 0.0, -1.0
    for step, seconds in curves.get(_STEP_SECONDS, ()):
        passed += seconds * max(1.0, step - before) / 60
        before = step
        minutes.append((step, passed))
    return minutes


def _read_answers(folder: Path, faults: list[str]) -> list[AnswerRecord]:
    """The last answer to each question under each condition; answers of an earlier policy do not count."""
    found, n_left_out = read_answers(folder)
    if n_left_out:
        faults.append(f"{folder}: {n_left_out} lines of its answers cannot be read, left out")
    records = list(found.values())
    return [record for record in records if record.policy == records[-1].policy]


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a nested config to `key.key` -> value; names skip `init_args`, and a list of classes uses their names.

    `{"model": {"class_path": "a.B", "init_args": {"lr": 1}}}` gives `model: a.B`, `model.lr: 1`.
    """
    flat: dict[str, Any] = {}
    if isinstance(config, Mapping):
        if "class_path" in config:
            flat[prefix] = config["class_path"]
        for key, value in config.items():
            if key != "class_path":
                flat |= flatten(value, prefix if key == "init_args" else f"{prefix}.{key}".lstrip("."))
        return flat
    if config and isinstance(config, list) and all(isinstance(i, Mapping) and "class_path" in i for i in config):
        for item in config:
            flat |= flatten(item, f"{prefix}.{str(item['class_path']).rpartition('.')[2]}")
        return flat
    return {prefix: config}
