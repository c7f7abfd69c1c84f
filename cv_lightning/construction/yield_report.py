"""The share of kept attempts, and the reasons for rejecting the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from cv_lightning.construction.checks import REASONS
from cv_lightning.construction.journal import Item
from cv_lightning.construction.plan import KINDS


@dataclass
class KindYield:
    """The yield of one kind.

    Attributes:
        kept: Number of rows.
        given_up: Number of indices without a kept attempt.
        rejected: Number of rejected attempts by reason.
    """

    kept: int = 0
    given_up: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def attempts(self) -> int:
        """Number of kept and rejected episodes."""
        return self.kept + self.rejected.total()

    @property
    def share(self) -> float | None:
        """Share of kept attempts; None without attempts."""
        return self.kept / self.attempts if self.attempts else None

    def add(self, other: KindYield) -> None:
        """Add the counts of another kind."""
        self.kept += other.kept
        self.given_up += other.given_up
        self.rejected += other.rejected

    def plain(self) -> dict[str, Any]:
        """The counts as plain values."""
        return {
            "attempts": self.attempts,
            "kept": self.kept,
            "share": self.share,
            "given_up": self.given_up,
            "rejected": dict(self.rejected.most_common()),
        }


@dataclass
class YieldReport:
    """The yield of a build, by kind.

    Attributes:
        wanted: Number of rows to build.
        kinds: Yield of each kind with attempts, by name.
        seconds: Total time of all attempts, over all workers and runs.
        run: Wall time, memory, and cost of the teacher's server in the last run.
    """

    wanted: int
    kinds: dict[str, KindYield]
    seconds: float = 0.0
    run: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Iterable[Item], wanted: int) -> YieldReport:
        """Count the items of a build."""
        report = cls(wanted, {kind: KindYield() for kind in KINDS})
        for item in items:
            one = KindYield(int(item.record is not None), int(item.record is None), Counter(item.rejected))
            report.kinds[item.kind].add(one)
            report.seconds += item.seconds
        report.kinds = {kind: counted for kind, counted in report.kinds.items() if counted.attempts}
        return report

    @property
    def total(self) -> KindYield:
        """The yield of all kinds together."""
        total = KindYield()
        for counted in self.kinds.values():
            total.add(counted)
        return total

    def plain(self) -> dict[str, Any]:
        """The report as plain values, as stored in `yield.json`."""
        return {
            "wanted": self.wanted,
            **self.total.plain(),
            "kinds": {kind: counted.plain() for kind, counted in self.kinds.items()},
            "work_s": round(self.seconds, 2),
            "run": self.run,
        }

    def table(self) -> Table:
        """A table for the terminal."""
        table = Table("kind", *(("tried", "kept", "yield", "given up")), "rejected", title_justify="left")
        for name, counted in [*self.kinds.items(), ("all", self.total)]:
            share = "-" if counted.share is None else f"{100 * counted.share:.1f} %"
            why = ", ".join(f"{reason} {count}" for reason, count in counted.rejected.most_common()) or "-"
            cells = (name, str(counted.attempts), str(counted.kept), share, str(counted.given_up), why)
            table.add_row(*cells, style="bold" if name == "all" else None)
        return table

    def explanations(self) -> list[str]:
        """A line for each reason that occurs."""
        return [f"{reason}: {REASONS[reason]}" for reason, _ in self.total.rejected.most_common()]
