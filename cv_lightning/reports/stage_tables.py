"""The tables of a recipe's report, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from cv_lightning.pages.tables import TextTable


def stage_tables(report: Mapping[str, Any]) -> tuple[TextTable, TextTable]:
    """Tables of accuracy by orientation and of tool use, one row per stage; for several seeds: mean (minimum).

    Args:
        report: The content of a `report.json`; a missing number is shown as "-".
    """
    stages: Mapping[str, Any] = report["stages"]
    seeds = f" (seed {', '.join(map(str, report['seeds']))})" if report.get("seeds") else ""
    orientations = list(dict.fromkeys(name for entry in stages.values() for name in entry.get("accuracy") or {}))
    accuracy, tools = [], []
    for name, entry in stages.items():
        shares, least = entry.get("accuracy") or {}, entry.get("min") or {}
        least_shares = least.get("accuracy") or {}
        cells = [_percent(shares.get(key), least_shares.get(key)) for key in orientations]
        accuracy.append([name, *cells, _percent(entry.get("mean"), least.get("mean"))])
        called, restored = (entry.get(rate) or {} for rate in ("tool_rate", "restored_rate"))
        tools.append(
            [
                name,
                _percent(called.get("upright")),
                _percent(_mean_turned(called)),
                _percent(_mean_turned(restored)),
                f"{entry['mean_turns']:.2f}" if "mean_turns" in entry else "-",
                f"{entry['seconds'] / 60:.1f}" if "seconds" in entry else "-",
            ]
        )
    return (
        TextTable(f"Accuracy by orientation, %{seeds}", ["stage", *orientations, "mean"], accuracy),
        TextTable(
            "Use of tools, %",
            ["stage", "called on\nupright", "called on\nturned", "restored", "turns", "minutes"],
            tools,
        ),
    )


def _percent(share: float | None, least: float | None = None) -> str:
    if share is None:
        return "-"
    return f"{100 * share:.1f}" + (f"\n({100 * least:.1f})" if least is not None else "")


def _mean_turned(shares: Mapping[str, float]) -> float | None:
    turned = [share for name, share in shares.items() if name != "upright"]
    return fmean(turned) if turned else None
