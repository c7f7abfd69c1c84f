"""`python -m cv_lightning compare RUN RUN ...`: compares runs in the terminal, as a page, as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from cv_lightning.compare.comparison import compare
from cv_lightning.compare.run import Run, find_runs, read_folder, read_stored
from cv_lightning.console.command_parser import CommandParser
from cv_lightning.console.output_files import check_place, write_whole
from cv_lightning.errors import ConfigError
from cv_lightning.tracking.stores import Stores
from cv_lightning.tracking.uri import is_run_id


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; raises `ConfigError` if it is wrong."""
    parser = CommandParser(
        "compare",
        "Compares runs: their configs, their metrics at the end, and which one answers the same questions better. "
        "Runs that differ only in their seed form one group; all other groups are compared with the first.",
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="a run's folder, a folder with runs below it, or a run id of MLflow"
    )
    parser.add_argument("--experiment", metavar="NAME", help="all runs of an experiment of MLflow")
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="where MLflow keeps them (default: MLFLOW_TRACKING_URI, else every runs/**/mlflow.db)",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="NAME",
        help="metrics to show instead of the headline ones, e.g. 'rl/*'",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the comparison as a page, with curves")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison as JSON")
    return parser.parse_args(list(arguments))


def main(arguments: Sequence[str]) -> int:
    """Compare the runs that the command line names; see `parse`."""
    options = parse(arguments)
    for option, path in (("--html", options.html), ("--json", options.json)):
        if path is not None:
            check_place(path, option)
    comparison = compare(read_runs(options.runs, options.experiment, options.tracking_uri), options.metrics)
    from cv_lightning.compare.terminal import show

    show(comparison)
    if options.html is not None:
        from cv_lightning.compare.page import page  # imports matplotlib

        write_whole(options.html, page(comparison), "--html")
        print(f"page: {options.html}")
    if options.json is not None:
        write_whole(options.json, json.dumps(comparison.as_json(), indent=1, allow_nan=False) + "\n", "--json")
        print(f"json: {options.json}")
    return 0


def read_runs(names: Sequence[str], experiment: str | None = None, tracking_uri: str | None = None) -> list[Run]:
    """Read runs by folder, run id and experiment; a run that is named twice counts once.

    Raises:
        ConfigError: Nothing is named, or a name is neither a folder nor a run id.
        DataError: A folder has no runs, or no store knows a run id.
    """
    if not names and experiment is None:
        raise ConfigError("Name runs to compare: folders, run ids of MLflow, or --experiment NAME.")
    folders: dict[Path, None] = {}
    ids: dict[str, None] = {}
    runs: list[Run] = []
    for name in names:
        if Path(name).is_dir():
            found = [path for path in find_runs(Path(name)) if path.resolve() not in folders]
            folders |= {path.resolve(): None for path in found}
            runs += sorted(map(read_folder, found), key=lambda run: run.started)  # in the order of the recipe's stages
        elif is_run_id(name):
            ids[name] = None
        else:
            raise ConfigError(f"{name} is neither a folder nor a run id of MLflow (32 hexadecimal digits).")
    if ids or experiment is not None:
        stores = Stores(tracking_uri)
        stored = {name: stores.find(name) for name in ids}
        if experiment is not None:
            stored |= {run.id: run for run in stores.of_experiment(experiment)}
        runs += map(read_stored, stored.values())
    return runs
