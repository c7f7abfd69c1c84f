"""The config of `data build`, and the settings that determine its rows: a folder holds the rows of only one build."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cv_lightning.construction.checks import Checks
from cv_lightning.construction.plan import Planner
from cv_lightning.construction.teacher import OracleTeacher, Teacher
from cv_lightning.data.source import SampleSource, Split
from cv_lightning.errors import ConfigError
from sandbox.executor import LaneName

What = Literal["sft", "rl"]

#: Settings that do not affect the content of a row.
_FREE = ("out", "n", "workers", "give_up_after")

#: Settings of a server that affect its replies; the others only affect the connection.
_SAID_BY = ("model", "extra")

#: Number of evenly spaced rows whose digest identifies a source of recorded rows.
_N_KNOWN = 16

#: File name of the rows, by kind of build.
ROWS = {"sft": "episodes.jsonl", "rl": "questions.parquet"}


class Build:
    """The config of `data build`.

    Args:
        planner: Draws the metadata from sources, shares of the kinds, and a seed.
        out: Folder for the rows, their images and the yield report.
        n: Number of indices to build. A row is a function of the seed and its index, so more can be built later.
        kind: "sft" for episodes in the schema of CodeVision-SFT, "rl" for questions in the schema of CodeVision-RL.
        teacher: Writes the turns; None for the oracle. A question of "rl" is kept if the teacher solves it.
        checks: Requirements on an episode.
        workers: Number of indices to build in parallel: in processes, or in threads if the teacher is a server.
        max_attempts: Number of plans for an index before it is given up.
        give_up_after: The run ends if the teacher's server fails for this many indices in a row.
        lane: The lane of the executor that runs the calls.

    Raises:
        ConfigError: A value is outside its range.
    """

    def __init__(
        self,
        planner: Planner,
        out: str,
        n: int = 1000,
        kind: What = "sft",
        teacher: Teacher | None = None,
        checks: Checks | None = None,
        workers: int = 2,
        max_attempts: int = 5,
        give_up_after: int = 20,
        lane: LaneName = "auto",
    ) -> None:
        if min(n, workers, max_attempts, give_up_after) < 1:
            raise ConfigError(
                "n, workers, max_attempts, give_up_after: expected at least 1, got "
                f"{n}, {workers}, {max_attempts}, {give_up_after}"
            )
        if kind == "rl" and planner.shares.get("error_handling", 0) > 0:
            raise ConfigError(
                "planner.shares: error_handling is a kind of episode, not of question. Set its share to 0 for kind: rl."
            )
        self.planner, self.folder, self.n, self.kind = planner, Path(out).expanduser(), n, kind
        self.teacher = teacher or OracleTeacher()
        self.checks = checks or Checks()
        self.workers, self.max_attempts, self.give_up_after, self.lane = workers, max_attempts, give_up_after, lane

    @property
    def rows(self) -> Path:
        """The file of rows."""
        return self.folder / ROWS[self.kind]


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config that determine its rows, in plain values."""
    settings = copy.deepcopy({name: value for name, value in config.items() if name not in _FREE})
    arguments = (settings.get("teacher") or {}).get("init_args") or {}
    if isinstance(arguments.get("endpoint"), dict):
        arguments["endpoint"] = {name: arguments["endpoint"].get(name) for name in _SAID_BY}
    return settings


def source_digests(planner: Planner) -> list[str]:
    """A digest of the size and some rows of each source; "" for an endless world."""
    return [_digest_of(source, planner.split) for source in planner.sources]


def _digest_of(source: SampleSource, split: Split) -> str:
    size = source.size(split)
    if size is None:
        return ""
    digest = hashlib.sha256(f"{size}".encode())
    for place in sorted({size * n // _N_KNOWN for n in range(_N_KNOWN)} if size else ()):
        sample = source.sample(split, place, None)
        parts = (sample.id, sample.question, sample.answer, sample.transforms, sample.box)
        digest.update(repr(parts).encode("utf-8", "surrogatepass"))
        for image in sample.images:
            digest.update(repr(image.size).encode() + image.tobytes())
    return digest.hexdigest()[:16]
