"""`python -m cv_lightning data check PATH`. See docs/data.md."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cv_lightning.console.command_parser import CommandParser
from cv_lightning.console.progress import tracked
from cv_lightning.data.check import Findings, Reader, check, describe
from cv_lightning.data.sources.file_source import Rows
from cv_lightning.data.sources.opening import FORMATS
from cv_lightning.errors import DataError


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; raises `ConfigError` if it cannot be read."""
    parser = CommandParser(
        "data check",
        "Check a file, a folder, a pattern or a data set of the hub: show its format, its counts and some "
        "samples, and list every fault with its row. Exits with 1 if there is a fault.",
    )
    parser.add_argument("path", help="rows.jsonl, data.json, bench.tsv, data/, 'data/test-*.parquet', owner/name:split")
    parser.add_argument("--format", choices=sorted(FORMATS), help="format of the rows (default: found by the columns)")
    parser.add_argument("--folder", help="where relative image paths start (default: beside the file)")
    parser.add_argument(
        "--policy",
        nargs="+",
        metavar="CONFIG",
        help="training configs; also list the rows that their policy cannot use and training leaves out (a prompt or "
        "a conversation that does not fit, control tokens in a trained turn)",
    )
    parser.add_argument("--rows", type=int, metavar="N", help="check only the first N rows")
    parser.add_argument("--samples", type=int, default=3, metavar="N", help="samples to show (default: %(default)s)")
    parser.add_argument("--faults", type=int, default=100, metavar="N", help="faults to print (default: %(default)s)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write everything found to a JSON file")
    return parser.parse_args(list(arguments))


def main(arguments: Sequence[str]) -> int:
    """Check the data that the command line names, and return 1 if there is a fault."""
    options = parse(arguments)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    start = time.perf_counter()
    rows = Rows(options.path, options.format, options.folder)
    n_rows = len(rows) if options.rows is None else min(len(rows), options.rows)
    console.print(f"{options.path}: {rows.format.title} ({rows.format.name}), {len(rows)} rows")
    reader = None if options.policy is None else _reader(options.policy)
    findings = check(rows, tracked(range(n_rows), "reading"), options.samples, reader)
    for line in describe(findings, options.faults):
        console.print(line)
    console.print(f"{findings.n_rows} rows in {time.perf_counter() - start:.1f} s")
    if options.report is not None:
        _write(options.report, json.dumps(_plain(options.path, rows, findings), indent=1) + "\n")
    return 1 if findings.faults else 0


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"--report {path}: cannot be written ({error.strerror}). The findings are printed above; make room, or "
            "name another file."
        ) from error


def _reader(configs: Sequence[str]) -> Reader:
    """The reader of a config's policy, or of its starting point if the policy was not trained yet."""
    from cv_lightning.planning.command import read, starting_point
    from modules.policy.rows import reader_of

    arguments = [word for config in configs for word in ("--config", config)]
    policy = read(arguments).policy
    return reader_of({**policy, **starting_point(policy, arguments)[0]})


def _plain(path: str, rows: Rows, findings: Findings) -> dict[str, Any]:
    return {
        "path": path,
        "format": rows.format.name,
        "rows": findings.n_rows,
        "good": findings.n_good,
        "boxes": findings.n_boxes,
        "families": dict(findings.families),
        "transforms": dict(findings.transforms),
        "notices": findings.notices,
        "faults": findings.faults,
    }
