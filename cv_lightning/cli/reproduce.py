"""`python -m cv_lightning reproduce`: a recipe from nothing to a report."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from cv_lightning.cli.recipe import Recipe, Stage, fingerprint, load_recipe
from cv_lightning.cli.stage import peak_memory_mb, run_stage
from cv_lightning.console.command_parser import CommandParser
from cv_lightning.console.quiet import is_quiet
from cv_lightning.console.suggestions import did_you_mean
from cv_lightning.console.versions import versions
from cv_lightning.errors import ConfigError
from cv_lightning.pages.tables import show_table
from cv_lightning.reports.stage_tables import stage_tables

DEFAULT_RECIPE = Path("experiments/tiny/recipe.yaml")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; raises `ConfigError` if it cannot be read."""
    parser = CommandParser(
        "reproduce",
        "Run a recipe stage by stage: finished stages are skipped, a cut-off one continues from its "
        "checkpoint, and a changed config runs again together with what depends on it.",
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
    parser.add_argument("--stages", nargs="+", default=[], metavar="STAGE", help="only these, and what they depend on")
    parser.add_argument(
        "--overrides",
        nargs="+",
        default=[],
        metavar="[STAGE:]KEY=VALUE",
        help="values to use instead of the configs', e.g. trainer.max_steps=10 or rl:trainer.max_steps=10",
    )
    return parser.parse_args(list(arguments))


def main(arguments: Sequence[str]) -> int:
    """Run the recipe that the command line names; see `parse`."""
    options = parse(arguments)
    recipe = load_recipe(options.recipe)
    stages = recipe.selected(options.stages)
    overrides = overrides_by_stage(options.overrides, recipe)
    folder: Path = options.out or recipe.run_folder
    console, steps = Console(), Console(quiet=is_quiet())
    try:
        with logged(recipe, folder) as files:
            if options.seeds is None:
                report = _run_seed(stages, folder, options.seed, overrides, steps)
            else:
                reports = []
                for seed in dict.fromkeys(options.seeds):
                    own = folder / f"seed_{seed}"
                    with logged(recipe, own) as files_of_seed:
                        reports.append(_run_seed(stages, own, seed, overrides, steps))
                        files_of_seed += write(reports[-1], own)
                report = aggregate(reports)
            files += write(report, folder)
    except KeyboardInterrupt:
        command = shlex.join(["python", "-m", "cv_lightning", "reproduce", *arguments])
        raise KeyboardInterrupt(f"\ninterrupted; the same command continues from here: {command}") from None
    for table in stage_tables(report):
        show_table(table, console)
    console.print(f"report: {files[0]}\npage:   {files[1]}", soft_wrap=True)
    return 0


def overrides_by_stage(overrides: Sequence[str], recipe: Recipe) -> dict[str, list[str]]:
    """The command-line options that each stage gets for `[STAGE:]KEY=VALUE` entries.

    Raises:
        ConfigError: An entry without `=`, or for a stage that the recipe does not have.
    """
    result: dict[str, list[str]] = {stage.name: [] for stage in recipe.stages}
    for override in overrides:
        key, equals, value = override.partition("=")
        name, colon, rest = key.partition(":")
        if not equals:
            raise ConfigError(f"--overrides: expected [STAGE:]KEY=VALUE but got {override!r}")
        if colon and name not in result:
            raise ConfigError(f"--overrides: {override!r}: there is no stage {name!r}. {did_you_mean(name, result)}")
        for stage in [name] if colon else result:
            result[stage].append(f"--{rest if colon else key}={value}")
    return result


def _run_seed(
    stages: Sequence[Stage], folder: Path, seed: int, overrides: Mapping[str, Sequence[str]], console: Console
) -> dict[str, Any]:
    """Run all stages with one seed and return the report."""
    results: dict[str, Any] = {}
    fingerprints: dict[str, str] = {}
    for number, stage in enumerate(stages, start=1):
        decisive = [f"--seed_everything={seed}", *overrides[stage.name]]
        fingerprints[stage.name] = fingerprint(stage, decisive, [fingerprints[other] for other in stage.after])
        heading = f"{number}/{len(stages)}" + (f" {folder.name}" if folder.name.startswith("seed_") else "")
        results[stage.name] = run_stage(
            stage,
            folder / stage.name,
            fingerprints[stage.name],
            [f"--run_folder={folder}", f"--trainer.default_root_dir={folder / stage.name}", *decisive],
            partial(console.print, heading, highlight=False, markup=False, soft_wrap=True),
        )
    return {"stages": results, "seeds": [seed], "versions": versions(), "peak_memory_mb": peak_memory_mb()}


def aggregate(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One report of several seeds: every number is the mean over seeds; `min` holds the smallest accuracies."""
    stages = {}
    for name in reports[0]["stages"]:
        entries = [report["stages"][name] for report in reports]
        smallest = _fold([{key: entry[key] for key in ("accuracy", "mean")} for entry in entries], min)
        stages[name] = {**_fold(entries, lambda values: sum(values) / len(values)), "min": smallest}
    return {
        "stages": stages,
        "seeds": [seed for report in reports for seed in report["seeds"]],
        "versions": reports[0]["versions"],
        "peak_memory_mb": max(report["peak_memory_mb"] for report in reports),
    }


def _fold(entries: Sequence[Any], combine: Any) -> Any:
    """Combine the numbers at the same keys of equally built nested dictionaries."""
    if isinstance(entries[0], Mapping):
        return {key: _fold([entry[key] for entry in entries], combine) for key in entries[0]}
    return combine(entries)


def write(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write report.json and the report page; returns both."""
    from cv_lightning.reports.run_report import write_report

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return [folder / "report.json", write_report(folder)]


@contextmanager
def logged(recipe: Recipe, folder: Path) -> Iterator[list[Path]]:
    """Open the recipe's loggers while its stages run; in the end they take the files that were put into the list.

    A logger that knows tags begins its run at once, so that runs of the stages can be shown below it, and one that can
    resume continues the run of an earlier call.

    Raises:
        ConfigError: A class that cannot be imported or does not take files.
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
