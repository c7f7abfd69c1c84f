"""The report of a build."""

from __future__ import annotations

import json
from pathlib import Path


def test_report_counts_what_is_there(built: Path) -> None:
    report = json.loads((built / "out/yield.json").read_text())
    assert (report["wanted"], report["kept"], report["given_up"]) == (20, 20, 0)
    assert sum(kind["kept"] for kind in report["kinds"].values()) == 20
    assert report["run"]["peak_memory_mb"] > 10
