"""A recipe: the stages that lead from nothing to a policy, in order, and the dependencies of each stage.

    run_folder: runs/tiny
    stages:
      base: {config: base.yaml}
      sft: {config: sft.yaml, after: [base]}
    report_loggers:
      - {class_path: callbacks.mlflow.BackgroundMLflowLogger, init_args: {folder: "${run_folder}"}}

    jobs: 2
    has_claims: true

`config` is a config file for `fit` and `test`, or a list of such files, relative to the recipe. `after` names the
stages whose results the stage reads. Loggers are open while the stages run and receive the report's files at the end.
Up to `jobs` stages run at the same time, in processes that share `jobs` threads. With `has_claims`, the report judges
the claims of arXiv 2512.03746, and a failed stage stops only the stages that read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cv_lightning.cli.compose import as_list, compose, find_file, read_yaml
from cv_lightning.console.suggestions import did_you_mean
from cv_lightning.errors import ConfigError


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe.

    Attributes:
        name: Name of the stage and of its folder in the run folder.
        configs: Config files, which also run alone with `fit` and `test`; later files override earlier ones.
        after: Stages whose results it reads.
        on_request: True for a stage that runs only if the command line names it.
    """

    name: str
    configs: tuple[Path, ...]
    after: tuple[str, ...] = ()
    on_request: bool = False


@dataclass(frozen=True)
class Recipe:
    """Stages in the order in which they run.

    Attributes:
        path: The file that it was read from.
        run_folder: Default folder for results, relative to the working directory.
        stages: At least one stage.
        report_loggers: Loggers of the report's files: `class_path` and `init_args`, with `${run_folder}` unresolved.
        jobs: Number of stages that run at the same time.
        has_claims: Whether the report judges the paper's claims.
    """

    path: Path
    run_folder: Path
    stages: tuple[Stage, ...]
    report_loggers: tuple[Mapping[str, Any], ...] = ()
    jobs: int = 1
    has_claims: bool = False

    def selected(self, names: Sequence[str]) -> tuple[Stage, ...]:
        """The named stages and their dependencies, in order; if `names` is empty, all stages but those on request."""
        known = {stage.name: stage for stage in self.stages}
        wanted: set[str] = set()
        pending = list(names) or [stage.name for stage in self.stages if not stage.on_request]
        while pending:
            name = pending.pop()
            if name not in known:
                raise ConfigError(f"{self.path}: there is no stage {name!r}. {did_you_mean(name, known)}")
            if name not in wanted:
                wanted.add(name)
                pending += known[name].after
        return tuple(stage for stage in self.stages if stage.name in wanted)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: The file is missing, is not YAML, or holds a key or value that a recipe does not have.
    """
    path = find_file(path)
    content = read_yaml(path)
    _check_keys(content, ("run_folder", "stages", "report_loggers", "jobs", "has_claims"), f"{path}")
    stages = content.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise ConfigError(f"{path}: stages: expected a mapping of stage names to configs, got {stages!r}")
    return Recipe(
        path=path,
        run_folder=Path(str(content.get("run_folder", f"runs/{path.parent.name}"))),
        stages=_stages(path, stages),
        report_loggers=_report_loggers(path, as_list(content.get("report_loggers"))),
        jobs=check_jobs(f"{path}: jobs", content.get("jobs", 1)),
        has_claims=content.get("has_claims") is True,
    )


def check_jobs(name: str, jobs: Any) -> int:
    """Check a number of parallel stages and return it; raises `ConfigError` if it is below 1."""
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise ConfigError(f"{name}: expected a whole number of at least 1, got {jobs!r}")
    return jobs


def _stages(path: Path, entries: Mapping[str, Any]) -> tuple[Stage, ...]:
    stages: dict[str, Stage] = {}
    for name, entry in entries.items():
        where = f"{path}: stages.{name}"
        if not isinstance(entry, dict) or "config" not in entry:
            raise ConfigError(f"{where}: expected {{config: <file or files>, after: [<stages>]}}, got {entry!r}")
        _check_keys(entry, ("config", "after", "on_request"), where)
        configs = tuple(path.parent / str(file) for file in as_list(entry["config"]))
        for config in configs:
            if not config.is_file():
                others = [p.name for p in path.parent.glob("*.yaml")]
                raise ConfigError(f"{where}.config: no file {str(config)!r}. {did_you_mean(config.name, others)}")
        after = tuple(str(other) for other in as_list(entry.get("after")))
        for other in after:
            if other not in stages:
                raise ConfigError(f"{where}.after: no stage {other!r} before it. {did_you_mean(other, stages)}")
        stages[str(name)] = Stage(str(name), configs, after, on_request=entry.get("on_request") is True)
    return tuple(stages.values())


def _report_loggers(path: Path, entries: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
    for entry in entries:
        if not isinstance(entry, dict) or "class_path" not in entry:
            raise ConfigError(
                f"{path}: report_loggers: expected a list of {{class_path: .., init_args: {{..}}}}, got {entry!r}"
            )
        _check_keys(entry, ("class_path", "init_args"), f"{path}: report_loggers")
    return tuple(entries)


def fingerprint(stage: Stage, arguments: Sequence[str], inputs: Sequence[str]) -> str:
    """A hash of everything that determines a stage's result: the content of its config, overrides and dependencies.

    Comments and layout of the config do not count.

    Args:
        stage: The stage.
        arguments: Options that the command line adds to the config.
        inputs: Fingerprints of the stages that it reads.
    """
    text = json.dumps([compose(stage.configs), list(arguments), list(inputs)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_keys(entry: Mapping[str, Any], valid: Sequence[str], where: str) -> None:
    for key in entry:
        if key not in valid:
            raise ConfigError(f"{where}: there is no key {key!r}. {did_you_mean(str(key), valid)}")
