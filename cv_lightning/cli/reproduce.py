"""`python -m cv_lightning reproduce`: runs a recipe from nothing to a report."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from cv_lightning.cli.recipe import Recipe, Stage, check_jobs, fingerprint, load_recipe
from cv_lightning.cli.schedule import StageTask, run_tasks
from cv_lightning.cli.stage import Progress, peak_memory_mb
from cv_lightning.console.command_parser import CommandParser
from cv_lightning.console.suggestions import did_you_mean
from cv_lightning.console.versions import versions
from cv_lightning.errors import ConfigError, DataError
from cv_lightning.pages.tables import show_table
from cv_lightning.reports.arms import Arm, read_arm
from cv_lightning.reports.claim_tables import claim_tables
from cv_lightning.reports.stage_tables import stage_tables

DEFAULT_RECIPE = Path("experiments/tiny/recipe.yaml")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; raises `ConfigError` if it cannot be read."""
    parser = CommandParser(
        "reproduce",
        "Runs a recipe stage by stage. Skips finished stages, continues an interrupted stage from its checkpoint, and "
        "runs stages with a changed config again, and with them all stages that depend on them.",
    )
    parser.add_argument("--recipe", type=Path, default=DEFAULT_RECIPE, help="the recipe (default: %(default)s)")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, default=0, help="seed of everything (default: %(default)s)")
    seeds.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="SEED",
        help="run once per seed, each in its folder; report mean and minimum",
    )
    parser.add_argument("--out", type=Path, help="where results go (default: the recipe's run_folder)")
    parser.add_argument(
        "--jobs",
        type=int,
        help="number of stages at a time, and of the threads that they share (default: the recipe's)",
    )
    parser.add_argument(
        "--stages", nargs="+", default=[], metavar="STAGE", help="only these and the stages that they read"
    )
    parser.add_argument(
        "--overrides",
        nargs="+",
        default=[],
        metavar="[STAGE:]KEY=VALUE",
        help="values that replace those of the configs, e.g. trainer.max_steps=10 or rl:trainer.max_steps=10",
    )
    return parser.parse_args(list(arguments))


def main(arguments: Sequence[str]) -> int:
    """Run the recipe that the command line names; see `parse`."""
    options = parse(arguments)
    recipe = load_recipe(options.recipe)
    stages = recipe.selected(options.stages)
    overrides = overrides_by_stage(options.overrides, recipe)
    folder: Path = options.out or recipe.run_folder
    run = RecipeRun(
        recipe, stages, overrides, recipe.jobs if options.jobs is None else check_jobs("--jobs", options.jobs)
    )
    console = Console()
    try:
        with logged(recipe, folder) as files:
            if options.seeds is None:
                report = run.seed(options.seed, folder)
                report |= run.claims({options.seed: (folder, report["failed"])})
            else:
                reports = []
                folders = {seed: folder / f"seed_{seed}" for seed in options.seeds}
                for seed, own in folders.items():
                    with logged(recipe, own) as files_of_seed:
                        reports.append(run.seed(seed, own))
                        files_of_seed += write(reports[-1], own)
                report = aggregate(reports)
                failed = [one["failed"] for one in reports]
                report |= run.claims(dict(zip(folders, zip(folders.values(), failed, strict=True), strict=True)))
            files += write(report, folder)
    except KeyboardInterrupt:
        command = shlex.join(["python", "-m", "cv_lightning", "reproduce", *arguments])
        raise KeyboardInterrupt(f"\ninterrupted; the same command continues from here: {command}") from None
    for table in (*stage_tables(report), *claim_tables(report)):
        show_table(table, console)
    for name, reason in report["failed"].items():
        console.print(f"{name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"report: {files[0]}\npage:   {files[1]}", soft_wrap=True)
    return 1 if report["failed"] else 0


def overrides_by_stage(overrides: Sequence[str], recipe: Recipe) -> dict[str, list[str]]:
    """The command-line options that each stage gets for `[STAGE:]KEY=VALUE` entries.

    Raises:
        ConfigError: An entry has no `=`, or names a stage that the recipe does not have.
    """
    result: dict[str, list[str]] = {stage.name: [] for stage in recipe.stages}
    for override in overrides:
        key, equals, value = override.partition("=")
        name, colon, rest = key.partition(":")
        if not equals:
            raise ConfigError(f"--overrides: expected [STAGE:]KEY=VALUE, got {override!r}")
        if colon and name not in result:
            raise ConfigError(f"--overrides: {override!r}: there is no stage {name!r}. {did_you_mean(name, result)}")
        for stage in [name] if colon else result:
            result[stage].append(f"--{rest if colon else key}={value}")
    return result


@dataclass(frozen=True)
class RecipeRun:
    """The part of a recipe to run, for any seed.

    Attributes:
        recipe: The recipe.
        stages: The requested stages.
        overrides: Options of each stage, from the command line.
        jobs: Number of stages that run at the same time.
    """

    recipe: Recipe
    stages: Sequence[Stage]
    overrides: Mapping[str, Sequence[str]]
    jobs: int

    def seed(self, seed: int, folder: Path) -> dict[str, Any]:
        """Run all stages with one seed and return the report."""
        prints = self.fingerprints(seed)
        tasks = []
        for number, stage in enumerate(self.stages, start=1):
            heading = f"{number}/{len(self.stages)}" + (f" {folder.name}" if folder.name.startswith("seed_") else "")
            own = folder / stage.name
            where = f"--run_folder={folder}", f"--trainer.default_root_dir={own}"
            tasks.append(StageTask(stage, own, prints[stage.name], (*where, *self._decisive(stage, seed)), heading))
        outcome = run_tasks(tasks, self.jobs, keeps_going=self.recipe.has_claims)
        peaks = [entry["peak_memory_mb"] for entry in outcome.results.values()]
        return {
            "stages": outcome.results,
            "failed": outcome.failed,
            "seeds": [seed],
            "versions": versions(),
            "peak_memory_mb": max([peak_memory_mb(), *peaks]),
        }

    def fingerprints(self, seed: int) -> dict[str, str]:
        """The fingerprint of every stage of the recipe, whether or not it runs now."""
        prints: dict[str, str] = {}
        for stage in self.recipe.stages:
            inputs = [prints[other] for other in stage.after]
            prints[stage.name] = fingerprint(stage, self._decisive(stage, seed), inputs)
        return prints

    def _decisive(self, stage: Stage, seed: int) -> list[str]:
        return [f"--seed_everything={seed}", *self.overrides[stage.name]]

    def claims(self, seeds: Mapping[int, tuple[Path, Mapping[str, str]]]) -> dict[str, Any]:
        """The report's entry about the claims, from all finished arms, whether or not they ran now.

        Args:
            seeds: Seed -> (its folder, reasons for its failed stages).
        """
        if not self.recipe.has_claims:
            return {}
        from cv_lightning.reports.claims import judge_claims

        names = [stage.name for stage in self.recipe.stages]
        arms = {
            seed: {name: find_arm(folder / name, prints[name], failed.get(name)) for name in names}
            for seed, (folder, failed) in seeds.items()
            for prints in [self.fingerprints(seed)]
        }
        return {"claims": judge_claims(arms)}


def find_arm(folder: Path, expected: str, failure: str | None = None) -> Arm | str:
    """The arm in a stage's folder, or why it cannot be used: it did not run, was cut off, has changed, or failed."""
    progress = Progress.load(folder)
    if failure is not None:
        return failure
    if progress is None:
        return "did not run"
    if progress.fingerprint != expected:
        return "its config, an override, or a stage that it reads has changed since it ran"
    if progress.status != "finished":
        return "was cut off; the same command continues it"
    try:
        return read_arm(folder)
    except DataError as error:
        return str(error)


def aggregate(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One report of several seeds: every number is the mean over seeds; `min` holds the smallest accuracies.

    If a stage failed for a seed, its means are over the other seeds.
    """
    stages = {}
    for name in dict.fromkeys(name for report in reports for name in report["stages"]):
        entries = [report["stages"][name] for report in reports if name in report["stages"]]
        smallest = _fold([{key: entry[key] for key in ("accuracy", "mean")} for entry in entries], min)
        stages[name] = {**_fold(entries, lambda values: sum(values) / len(values)), "min": smallest}
    return {
        "stages": stages,
        "failed": {
            f"{name} of seed {report['seeds'][0]}": reason
            for report in reports
            for name, reason in report.get("failed", {}).items()
        },
        "seeds": [seed for report in reports for seed in report["seeds"]],
        "versions": reports[0]["versions"],
        "peak_memory_mb": max(report["peak_memory_mb"] for report in reports),
    }


def _fold(entries: Sequence[Any], combine: Any) -> Any:
    """Combine the numbers at the same keys of nested dictionaries with the same structure."""
    if isinstance(entries[0], Mapping):
        return {key: _fold([entry[key] for entry in entries], combine) for key in entries[0]}
    return combine(entries)


def write(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write report.json and the report page, and return both paths."""
    from cv_lightning.reports.run_report import write_report

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return [folder / "report.json", write_report(folder)]


@contextmanager
def logged(recipe: Recipe, folder: Path) -> Iterator[list[Path]]:
    """Keep the recipe's loggers open while its stages run; at the end they log the files in the yielded list.

    A logger that supports tags begins its run at once, so that the runs of the stages can be shown below it. A logger
    that can resume continues the run of an earlier call.

    Raises:
        ConfigError: A class cannot be imported, or its loggers do not accept files.
    """
    loggers = _open_loggers(recipe, folder)
    for logger in loggers:
        if hasattr(logger, "resume"):
            logger.resume()
        if hasattr(logger, "set_tags"):
            logger.set_tags({"recipe": str(recipe.path)})
    files: list[Path] = []
    try:
        yield files
    except BaseException:
        for logger in loggers:
            logger.finalize("failed")
        raise
    for logger in loggers:
        for file in files:
            logger.log_artifact(file)
        logger.finalize("success")


def _open_loggers(recipe: Recipe, folder: Path) -> list[Any]:
    content = OmegaConf.create({"run_folder": str(folder), "loggers": list(recipe.report_loggers)})
    resolved: Any = OmegaConf.to_container(content, resolve=True)
    loggers = []
    for entry in resolved["loggers"]:
        module, _, name = str(entry["class_path"]).rpartition(".")
        try:
            logger = getattr(importlib.import_module(module), name)(**(entry.get("init_args") or {}))
            _ = logger.log_artifact, logger.finalize
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(f"{recipe.path}: report_loggers: {entry['class_path']}: {error}") from error
        loggers.append(logger)
    return loggers
