"""`python -m cv_lightning view RUN_OR_FILE`: shows trajectories from a folder or from MLflow on one page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cv_lightning.console.command_parser import CommandParser
from cv_lightning.console.output_files import check_place, write_whole
from cv_lightning.console.progress import tracked
from cv_lightning.errors import ConfigError
from cv_lightning.tracking.stores import Stores
from cv_lightning.tracking.uri import is_run_id
from cv_lightning.viewer.page import page
from cv_lightning.viewer.pictures import store
from cv_lightning.viewer.records import find, read

#: Default number of trajectories on a page; with it, the page loads quickly.
_MOST = 500


def main(arguments: Sequence[str]) -> int:
    """Write the page and print its path."""
    parser = CommandParser("view", "Shows trajectories from a folder or from MLflow on one page.")
    parser.add_argument("run_or_file", help="a trajectories.jsonl, a folder with some below it, or a run id of MLflow")
    parser.add_argument(
        "--out", type=Path, help="the page (default: trajectories.html in the folder, or here for a run id)"
    )
    parser.add_argument(
        "--most", type=int, default=_MOST, help="show at most this many, the newest (default: %(default)s)"
    )
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="where MLflow keeps the run (default: MLFLOW_TRACKING_URI, else every runs/**/mlflow.db)",
    )
    options = parser.parse_args(arguments)
    if options.most < 1:
        raise ConfigError(f"--most: expected at least 1, got {options.most}")
    target = Path(options.run_or_file)
    if is_run_id(options.run_or_file) and not target.exists():
        print(_write_stored(options))
        return 0
    default = (target if target.is_dir() else target.parent) / "trajectories.html"
    print(write(target, options.out or default, options.most))
    return 0


def _write_stored(options: argparse.Namespace) -> Path:
    """Write the page of a run that is stored in MLflow."""
    run = Stores(options.tracking_uri).find(options.run_or_file)
    with run.trajectories() as folder:
        return write(folder, options.out or Path(f"trajectories_{run.id}.html"), options.most, run.title)


def write(target: Path, out: Path, most: int = _MOST, title: str | None = None) -> Path:
    """Write the page of the newest `most` trajectories in `target`; warns on stderr about those that are left out.

    Args:
        target: A file of records, or a folder that contains some.
        out: Path of the page.
        most: Largest number of trajectories.
        title: Title of the page; None for the name of the target.

    Raises:
        ConfigError: `out` is a folder, or its folder does not exist.
        DataError: There is nothing to show, or the page cannot be written.
    """
    check_place(out, "--out")
    found = read(find(target))
    for fault in found.faults:
        print(f"warning: {fault}", file=sys.stderr)
    records = sorted(found.records, key=lambda record: _step(record.get("step")))[-most:]
    names = {image.get("file") for record in records for image in record["images"]}
    images = store(((name, path) for name, path in found.images.items() if name in names), track=tracked)
    if len(images) < len(names):
        print(f"warning: {len(names) - len(images)} images are missing or cannot be read", file=sys.stderr)
    is_cut = len(found.records) > most
    note = f"the newest {most} of {len(found.records)} trajectories" if is_cut else f"{len(records)} trajectories"
    if found.faults:
        note += f"; {len(found.faults)} broken lines were left out"
    write_whole(out, page(records, images, title or target.resolve().name or "trajectories", note), "--out")
    return out


def _step(step: object) -> float:
    return step if isinstance(step, int | float) else 0
