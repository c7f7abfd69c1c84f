"""`python -m cv_lightning data build --config FILE`: builds SFT episodes or RL questions from a config."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cv_lightning.cli.compose import compose_command_line
from cv_lightning.cli.config_errors import explain
from cv_lightning.console.quiet import is_quiet
from cv_lightning.construction.build import run_build
from cv_lightning.construction.journal import Item
from cv_lightning.construction.maker import RowMaker
from cv_lightning.construction.settings import Build, deciding
from cv_lightning.errors import ConfigError


def make_parser() -> ArgumentParser:
    """The parser of the options: the arguments of `Build`, and `--config`."""
    parser = ArgumentParser(
        prog="python -m cv_lightning data build",
        description="Build SFT episodes or RL questions; a build that was interrupted continues.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="YAML file; options after it take precedence")
    parser.add_class_arguments(Build)
    return parser


def _parsed(arguments: Sequence[str]) -> tuple[ArgumentParser, Namespace]:
    parser = make_parser()
    rest, config = compose_command_line(arguments)
    given = [f"--config={yaml.safe_dump(config, sort_keys=False)}"] if config else []
    try:
        return parser, parser.parse_args([*given, *rest])
    except ArgumentError as error:
        fault = explain(str(error), config, [action.dest for action in parser._actions])
        raise ConfigError(f"{fault} See python -m cv_lightning data build --help.") from error


def make_maker(config: Mapping[str, Any]) -> RowMaker:
    """Create the maker of rows from a config in plain values; a worker process starts with this call."""
    parser = make_parser()
    build = Build(**_values(parser.instantiate_classes(parser.parse_object(copy.deepcopy(dict(config))))))
    return RowMaker(build, deciding(config))


def _shown(items: Iterator[Item], n_done: int, n: int) -> Iterable[Item]:
    console = Console(stderr=True)
    if is_quiet() or not console.is_terminal:
        yield from items
        return
    columns = (TextColumn("building"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, TextColumn("{task.fields[rejected]} rejected"), console=console, transient=True
    ) as progress:
        task = progress.add_task("", total=n, completed=n_done, rejected=0)
        n_rejected = 0
        for item in items:
            n_rejected += len(item.rejected)
            progress.update(task, advance=1, rejected=n_rejected)
            yield item


def main(arguments: Sequence[str]) -> int:
    """Build, print the yield, and return 1 if an index was given up or left undone."""
    parser, parsed = _parsed(arguments)
    config: dict[str, Any] = json.loads(parser.dump(parsed, format="json", skip_none=False))
    config.pop("config", None)
    build = Build(**_values(parser.instantiate_classes(parsed)))
    console = Console(soft_wrap=True, highlight=False)
    try:
        report = run_build(build, config, make_maker, _shown)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            f"interrupted: finished rows are in {build.folder}; the same command continues"
        ) from interrupt
    console.print(report.table())
    for line in report.explanations():
        console.print(f"  {line}", markup=False)
    run = report.run
    if "left_undone" in run:
        console.print(
            f"{run['left_undone']} rows are missing because the teacher's server failed, last with: "
            f"{run['last_failure']}. Run the same command again to build them.",
            markup=False,
        )
    console.print(
        f"{build.rows}: {report.total.kept} of {build.n} rows, {run['rows']} of them in this run of {run['wall_s']} s "
        f"(at most {run['peak_memory_mb']:.0f} MB of memory); report: {build.folder / 'yield.json'}",
        markup=False,
    )
    return 0 if report.total.kept == build.n else 1


def _values(parsed: Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(parsed).items() if name != "config"}
