"""The claims of a report as tables, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cv_lightning.pages.tables import TextTable

#: Headings of the findings of a claim.
FINDINGS_HEAD = ("", "value", "95 % interval", "needed", "verdict")


def claim_tables(report: Mapping[str, Any]) -> tuple[TextTable, ...]:
    """A table with one row per claim; no table if the report has no claims."""
    claims: Sequence[Mapping[str, Any]] = report.get("claims") or ()
    rows = [[claim["name"], claim["paper"], claim["verdict"], claim["reason"]] for claim in claims]
    note = "The page has the numbers and an answer for each claim."
    return (TextTable("Claims", ["claim", "the paper", "verdict", "why"], rows, note, is_prose=True),) if rows else ()


def finding_rows(claim: Mapping[str, Any]) -> list[list[str]]:
    """Text, value, interval, condition and verdict of each finding of a claim."""
    rows = []
    for finding in claim["findings"]:
        unit = finding.get("unit", "%")  # reports of older versions lack it
        interval = "-"
        if finding["low"] is not None:
            interval = f"{_number(finding['low'], unit)} to {_number(finding['high'], unit)}"
        value = "-" if finding["value"] is None else _number(finding["value"], unit)
        rows.append([finding["text"], value, interval, finding["needed"], finding["verdict"] or ""])
    return rows


def _number(value: float, unit: str) -> str:
    return f"{100 * value:.1f} {unit}" if unit else f"{value:.2f}"
