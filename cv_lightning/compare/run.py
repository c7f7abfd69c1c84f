"""A run as it is compared: its config, what it logged over time, and its answers; read from its folder."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cv_lightning.errors import DataError
from cv_lightning.reports.metrics_log import read_curves

if TYPE_CHECKING:
    from cv_lightning.evaluation.answer_log import AnswerRecord

#: (step, value) in the order of the steps.
Points = list[tuple[float, float]]

#: What `fit` and `test` leave in the folder of a run; the first that is there is the config that decided its result.
CONFIGS = ("config_fit.yaml", "config_test.yaml", "config_validate.yaml")
FACTS = ("run_fit.json", "run_test.json")
RESULTS = "results.json"

_MARKS = (*CONFIGS, *FACTS, RESULTS, "metrics.csv", "answers_*.jsonl")

#: Folders below which no run is looked for.
_OTHERS = {"mlartifacts", "mlruns", "checkpoints", "policy", "trajectories", "images"}

#: How deep runs are looked for below a folder: recipe / seed / stage.
_DEPTH = 4

#: What the facts of a run tell of in mappings.
_FACT_PARTS = ("code", "data", "machine", "packages")

_STEP_SECONDS = "throughput/step_s"


@dataclass
class Run:
    """One run.

    Attributes:
        name: Its stage, or what it calls itself.
        source: The folder or run id that it was read from.
        config: The resolved config, flat: `model.reward.format` -> 0.1.
        facts: Commit, data fingerprint, machine and packages, flat, as far as they were recorded.
        curves: What it logged.
        minutes: (step, minutes of training until then); empty where nobody took the time.
        started: When its training, or its test, began, as text that sorts; empty where nobody noted it.
        answers: Its answers to the items of an evaluation.
        evaluated_by: The evaluation that they were taken from, where it was a run of its own.
        faults: What could not be read, in words.
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
        """`seed_everything` of its config; None where it has none."""
        return self.config.get("seed_everything")

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compare."""
        return not (self.curves or self.answers or self.config)


def find_runs(folder: Path) -> list[Path]:
    """The folder itself if it is a run's, else the folders of runs below it, in order.

    Raises:
        DataError: There is none.
    """
    found = list(_runs_below(folder, _DEPTH))
    if not found:
        raise DataError(f"{folder}: holds no run. Name a folder that fit, test or reproduce wrote, e.g. runs/tiny/rl.")
    return found


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    if any(next(folder.glob(mark), None) for mark in _MARKS):
        yield folder
    elif depth > 0:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and child.name not in _OTHERS and not re.search(r"\.old\d+$|^\.", child.name):
                yield from _runs_below(child, depth - 1)


def read_folder(folder: Path) -> Run:
    """Read a run; a file that is half-written or of another program is named in `faults` and left out."""
    faults: list[str] = []
    config = _first(folder, CONFIGS, _yaml, faults)
    facts = _first(folder, FACTS, _json, faults)
    results = _first(folder, (RESULTS,), _json, faults)
    faults += _faults_of_parts(f"{folder}: facts", facts, _FACT_PARTS)
    faults += _faults_of_parts(f"{folder}: config", config, ("model", "trainer"))
    faults += _faults_of_parts(f"{folder}: config: model", _part(config, "model"), ("init_args",))
    curves = _read_metrics(folder, faults) | curves_of_results(results)
    return Run(
        name=name_of(config, folder.resolve().name),
        source=str(folder),
        config=flatten(config),
        facts=flatten_facts(facts),
        curves=curves,
        minutes=minutes_of(curves),
        started=str(facts.get("started", "")),
        answers=_read_answers(folder, faults),
        faults=faults,
    )


def name_of(config: Mapping[str, Any], otherwise: str) -> str:
    """What the config calls its policy, else the folder of its stage."""
    init_args = _part(_part(config, "model"), "init_args")
    folder = _part(config, "trainer").get("default_root_dir")
    return str(init_args.get("name") or (Path(str(folder)).name if folder else otherwise))


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A mapping within another; an empty one where there is none."""
    part = content.get(name)
    return part if isinstance(part, Mapping) else {}


def _faults_of_parts(what: str, content: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    parts = {name: content.get(name) for name in names}
    return [
        f"{what}: {name}: expected a mapping but it holds {type(part).__name__}, left out"
        for name, part in parts.items()
        if part is not None and not isinstance(part, Mapping)
    ]


def _first(folder: Path, names: Sequence[str], read: Any, faults: list[str]) -> dict[str, Any]:
    for name in names:
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = read(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            faults.append(f"{path}: cannot be read, left out ({' '.join(str(error).split())[:120]})")
            continue
        if isinstance(content, dict):
            return content
        faults.append(f"{path}: expected a mapping but it holds {type(content).__name__}, left out")
    return {}


def _yaml(text: str) -> Any:
    return yaml.safe_load(text)


def _json(text: str) -> Any:
    return json.loads(text)


def _read_metrics(folder: Path, faults: list[str]) -> dict[str, Points]:
    """All metrics.csv of a run; those of an earlier attempt (metrics.1.csv) give way to the later."""
    merged: dict[str, Points] = {}
    files = [path for path in folder.rglob("metrics*.csv") if not _OTHERS & set(path.relative_to(folder).parts)]
    for path in sorted(files, key=lambda path: path.stat().st_mtime):
        try:
            found = read_curves(path)
        except (OSError, ValueError, csv.Error) as error:
            faults.append(f"{path}: cannot be read, left out ({error})")
            continue
        if not found:
            faults.append(f"{path}: holds no metric")
        for name, points in found.items():
            merged[name] = sorted((dict(merged.get(name, ())) | dict(points)).items())
    return merged


def curves_of_results(results: Mapping[str, Any]) -> dict[str, Points]:
    """The finite numbers of an evaluation's table, by the names they were logged by: `test/<cell>/<condition>`."""
    conditions = results.get("conditions")
    return {
        f"test/{cell}/{condition}": [(0.0, float(value))]
        for condition, cells in (conditions.items() if isinstance(conditions, dict) else ())
        for cell, value in (cells.items() if isinstance(cells, dict) else ())
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    }


def minutes_of(curves: Mapping[str, Points]) -> Points:
    """Minutes of training at each step at which `throughput/step_s` was logged.

    The sum of the steps' own times: interruptions do not count. A step counts for all since the one logged before it.
    """
    minutes, passed, before = [], 0.0, -1.0
    for step, seconds in curves.get(_STEP_SECONDS, ()):
        passed += seconds * max(1.0, step - before) / 60
        before = step
        minutes.append((step, passed))
    return minutes


def _read_answers(folder: Path, faults: list[str]) -> list[AnswerRecord]:
    """The last answer to each question under each condition; a policy that was asked before does not count."""
    files = sorted(folder.glob("answers_*.jsonl"))
    if not files:
        return []
    from cv_lightning.evaluation.answer_log import AnswerLog  # imports torch

    records = list(AnswerLog(folder).records.values())
    n_lines = sum(sum(1 for line in path.read_bytes().splitlines() if line.strip()) for path in files)
    if not records:
        faults.append(f"{folder}: none of {n_lines} lines of answers can be read, left out")
        return []
    cut = sum(not _is_json(line) for path in files for line in path.read_bytes().splitlines()[-1:])
    if cut:
        faults.append(f"{folder}: the last line of its answers is cut off, left out")
    last = records[-1].policy
    return [record for record in records if record.policy == last]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested config as `key.key` -> value; `init_args` are left out of names, classes in lists stand for their place.

    `{"model": {"class_path": "a.B", "init_args": {"lr": 1}}}` gives `model: a.B`, `model.lr: 1`.
    """
    if isinstance(config, Mapping):
        flat: dict[str, Any] = {}
        if "class_path" in config:
            flat[prefix] = config["class_path"]
        for key, value in config.items():
            if key == "class_path":
                continue
            inner = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key)
            flat |= flatten(value, inner)
        return flat
    is_classes = isinstance(config, list) and all(isinstance(item, Mapping) and "class_path" in item for item in config)
    if is_classes and config:
        flat = {}
        for item in config:
            flat |= flatten(item, f"{prefix}.{str(item['class_path']).rpartition('.')[2]}")
        return flat
    return {prefix: config}


def flatten_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What `run_fit.json` says about code, data, machine and packages."""
    code, data, machine, packages = (_part(facts, part) for part in _FACT_PARTS)
    flat = {
        "code.commit": str(code["commit"])[:12] if code.get("commit") else None,
        "code.changed": code.get("is_changed"),
        "data.fingerprint": data.get("fingerprint"),
        "machine": machine.get("name"),
        "python": facts.get("python"),
        **{f"package.{name}": version for name, version in packages.items()},
    }
    return {name: value for name, value in flat.items() if value is not None}
