"""Keep the answers of the paper's recipe seed by seed, and judge the claims over all kept seeds.

    python benchmarks/paper_claims.py keep runs/paper docs/paper_runs/seed_0.json.xz
    python benchmarks/paper_claims.py judge docs/paper_runs/seed_*.json.xz

A seed takes a hundred minutes, so seeds may run on different days and machines. A kept seed holds, for each stage, the
answers to the test without their texts, and the curves that the claims use.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # this folder leaves the path: benchmarks/sandbox.py is no package

import argparse  # noqa: E402
import json  # noqa: E402
import lzma  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402
from dataclasses import asdict  # noqa: E402
from typing import Any  # noqa: E402

from cv_lightning.cli.stage import Progress  # noqa: E402
from cv_lightning.evaluation.answer_log import AnswerRecord  # noqa: E402
from cv_lightning.pages.tables import TextTable, show_table, wide_console  # noqa: E402
from cv_lightning.reports.arms import Arm, read_arm  # noqa: E402
from cv_lightning.reports.claim_tables import FINDINGS_HEAD, finding_rows  # noqa: E402
from cv_lightning.reports.claims import judge_claims  # noqa: E402

#: Texts and keys, which no claim uses.
LEFT_OUT = {"key": "", "item": "", "policy": "", "graded_for": "", "turns": []}
#: Prefixes of the names of the curves that claims use.
CURVES = ("components/accuracy/", "tools/emergent_rate/faded", "claims/")


def keep(run_folder: Path, path: Path) -> None:
    """Write the answers of the finished stages of a run with one seed."""
    folders = [path.parent for path in sorted(run_folder.glob("*/stage.json"))]
    finished = [folder for folder in folders if (done := Progress.load(folder)) and done.status == "finished"]
    stages = {folder.name: _plain(read_arm(folder)) for folder in finished}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(json.dumps(stages, sort_keys=True).encode()))
    print(f"{path}: {len(stages)} stages, {path.stat().st_size / 1e3:.0f} KB")


def _plain(arm: Arm) -> dict[str, Any]:
    return {
        "answers": [_without_texts(record) for record in arm.answers.values()],
        "alone": [_without_texts(record) for record in arm.alone.values()],
        "curves": {name: points for name, points in arm.curves.items() if name.startswith(CURVES)},
    }


def _without_texts(record: AnswerRecord) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name not in LEFT_OUT}


def read_kept(path: Path) -> dict[str, Arm | str]:
    """The arms of a kept seed."""
    return {name: _arm(path / name, stage) for name, stage in json.loads(lzma.decompress(path.read_bytes())).items()}


def _arm(folder: Path, stage: Mapping[str, Any]) -> Arm:
    curves = {name: [(step, value) for step, value in points] for name, points in stage["curves"].items()}
    return Arm(folder, _records(stage["answers"]), _records(stage["alone"]), curves)


def _records(rows: Sequence[Mapping[str, Any]]) -> dict[str, AnswerRecord]:
    return {row["id"]: AnswerRecord(**LEFT_OUT | dict(row)) for row in rows}


def judge(paths: Sequence[Path]) -> None:
    """Print the right answers of each stage by family, then every claim with its findings."""
    console = wide_console()
    arms = {number: read_kept(path) for number, path in enumerate(paths)}
    names = list(dict.fromkeys(name for of_seed in arms.values() for name in of_seed))
    families = sorted(
        {record.family for arm in arms[0].values() if isinstance(arm, Arm) for record in arm.answers.values()}
    )
    rows = [[name, *(_by_seed(arms, name, family) for family in families)] for name in names]
    show_table(TextTable("Right answers, %, by seed", ["stage", *families], rows), console)
    for claim in judge_claims(arms):
        title = f"{claim['name']}: {claim['verdict']}"
        show_table(TextTable(title, FINDINGS_HEAD, finding_rows(claim), claim["reason"]), console)


def _by_seed(arms: Mapping[int, Mapping[str, Arm | str]], name: str, family: str) -> str:
    shares = []
    for of_seed in arms.values():
        arm = of_seed.get(name)
        records = [record for record in arm.answers.values() if record.family == family] if isinstance(arm, Arm) else []
        shares.append(f"{100 * sum(r.is_right for r in records) / len(records):.1f}" if records else "-")
    return " ".join(shares)


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    keeping = commands.add_parser("keep", help="write the answers of a run")
    keeping.add_argument("run", type=Path)
    keeping.add_argument("file", type=Path)
    judging = commands.add_parser("judge", help="judge the claims over kept seeds")
    judging.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "keep":
        keep(options.run, options.file)
    else:
        judge(options.files)


if __name__ == "__main__":
    main()
