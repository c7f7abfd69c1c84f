"""Groups runs that differ only in their seed, and finds the differences between groups."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from cv_lightning.compare.run import Run
from cv_lightning.reports.metrics_log import Points

#: The key of an evaluation's config that names the tested policy.
POLICY_SOURCE = "model.solver.policy.source"

#: Keys of paths, which do not affect results.
_PLACES = re.compile(r"run_folder|ckpt_path|weights_only|trainer\.(logger|default_root_dir|callbacks|profiler)($|\.)")


@dataclass
class RunGroup:
    """Runs of one config that differ only in their seed.

    Attributes:
        name: Unique in a comparison.
        runs: At least one.
    """

    name: str
    runs: list[Run]

    @property
    def seeds(self) -> list[Any]:
        """The seeds of the runs, in order."""
        return [run.seed for run in self.runs]

    def curves(self, metric: str) -> list[Points]:
        """The metric's curve for each run that logged it."""
        return [points for run in self.runs if (points := run.curves.get(metric))]

    @property
    def metrics(self) -> set[str]:
        """Names of the metrics that any of the runs logged."""
        return {name for run in self.runs for name in run.curves}

    @property
    def is_answered(self) -> bool:
        """Whether every run has answers."""
        return all(run.answers for run in self.runs)


def join_evaluations(runs: Sequence[Run]) -> list[Run]:
    """Give the answers and the table of an evaluation to the run that trained the policy, if that is among the runs."""
    trained = {Path(run.source).resolve(): run for run in runs if POLICY_SOURCE not in run.config}
    left = []
    for run in runs:
        source = run.config.get(POLICY_SOURCE)
        made_by = _made_by(run, PurePath(str(source))) if source and run.answers else None
        policy_of = trained.get(made_by) if made_by is not None else None
        if policy_of is None or policy_of.answers:
            left.append(run)
            continue
        policy_of.answers = run.answers
        # A test has no step of its own, so it counts for the end of training.
        end = policy_of.last_step
        policy_of.curves |= {name: [(end, points[-1][1])] for name, points in run.curves.items()}
        policy_of.faults += run.faults
        policy_of.evaluated_by = run.source
    return left


def _made_by(run: Run, source: PurePath) -> Path | None:
    """The folder of the run that exported the policy `<run>/policy`.

    The path is relative to the folder in which the evaluation was started: this one, or one above the evaluation's own.
    """
    if source.name != "policy":
        return None
    for start in (Path(), *Path(run.source).absolute().parents):
        if (start / source).is_dir():
            return (start / source).resolve().parent
    return None


def group_runs(runs: Sequence[Run]) -> list[RunGroup]:
    """Group runs of one config, in the order of their first run; within a group, runs are sorted by seed."""
    groups: dict[str, RunGroup] = {}
    for run in runs:
        key = repr((run.name, sorted(identity(run).items()))) if run.config else run.source
        groups.setdefault(key, RunGroup(run.name, [])).runs.append(run)
    taken: dict[str, int] = {}
    for group in groups.values():
        group.runs.sort(key=lambda run: (not isinstance(run.seed, int), run.seed if isinstance(run.seed, int) else 0))
        taken[group.name] = taken.get(group.name, 0) + 1
        if taken[group.name] > 1:
            group.name = f"{group.name} ({taken[group.name]})"
    return list(groups.values())


def identity(run: Run) -> dict[str, str]:
    """The config without seed and paths, which is the same for all seeds of one experiment."""
    own = str(run.config.get("run_folder") or "")
    return {
        key: _without_place(value, own)
        for key, value in run.config.items()
        if key != "seed_everything" and not _PLACES.match(key) and not _is_seed(key, value, run.seed)
    }


def _is_seed(key: str, value: Any, seed: Any) -> bool:
    return value is not None and value == seed and key.rpartition(".")[2] == "seed"


def _without_place(value: Any, run_folder: str) -> str:
    text = str(value)
    if run_folder and isinstance(value, str):
        text = text.replace(run_folder, "${run_folder}")
    return re.sub(r"\bseed_\d+\b", "seed_*", text) if isinstance(value, str) else text


def differences(groups: Sequence[RunGroup]) -> dict[str, list[str]]:
    """Keys of config and facts whose values differ -> the value in each group; "" if the group has none.

    Several values within a group are joined by commas. Seeds, paths and the list of callbacks do not count.
    """
    of_groups = [[_compared(run) for run in group.runs] for group in groups]
    keys = dict.fromkeys(key for of_runs in of_groups for values in of_runs for key in values)
    table = {
        key: [_joined(values[key] for values in of_runs if key in values) for of_runs in of_groups] for key in keys
    }
    return {key: cells for key, cells in table.items() if len(set(cells)) > 1}


def _compared(run: Run) -> dict[str, str]:
    # A run without recorded facts does not differ in them.
    return {**identity(run), **{name: str(value) for name, value in run.facts.items()}}


def _joined(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))
