"""The share of attempts that was kept, and the reasons to reject the others."""

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
        kept: Rows.
        given_up: Indices without a kept attempt.
        rejected: Rejected attempts by reason.
    """

    kept: int = 0
    given_up: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def attempts(self) -> int:
        """Kept and rejected episodes."""
        return self.kept + self.rejected.total()

    @property
    def share(self) -> float | None:
        """Kept of all attempts; None without any."""
        return self.kept / self.attempts if self.attempts else None

    def add(self, other: KindYield) -> None:
        """Add the counts of another kind."""
        self.kept += other.kept
        self.given_up += other.given_up
        self.rejected += other.rejected

    def plain(self) -> dict[str, Any]:
        """In plain values."""
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
        wanted: The number of rows to build.
        kinds: Kinds with any attempt, by name.
        seconds: Time of all attempts, over all workers and runs.
        run: Of the last run: wall time, memory, cost of a server.
    """

    wanted: int
    kinds: dict[str, KindYield]
    seconds: float = 0.0
    run: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Iterable[Item], wanted: int) -> YieldReport:
        """Count items."""
        report = cls(wanted, {kind: KindYield() for kind in KINDS})
        for item in items:
            one = KindYield(int(item.record is not None), int(item.record is None), Counter(item.rejected))
            report.kinds[item.kind].add(one)
            report.seconds += item.seconds
        report.kinds = {kind: counted for kind, counted in report.kinds.items() if counted.attempts}
        return report

    @property
    def total(self) -> KindYield:
        """All kinds together."""
        total = KindYield()
        for counted in self.kinds.values():
            total.add(counted)
        return total

    def plain(self) -> dict[str, Any]:
        """In plain values, as stored."""
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
