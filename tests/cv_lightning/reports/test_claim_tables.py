"""Each claim in a table, with its numbers."""

from __future__ import annotations

from cv_lightning.reports.claim_tables import claim_tables, finding_rows
from cv_lightning.reports.claims import CLAIMS, judge_claims
from tests.cv_lightning.reports.made_arms import whole


def test_tables_show_each_claim_and_its_numbers() -> None:
    report = {"claims": judge_claims({0: whole()})}
    (summary,) = claim_tables(report)
    assert [row[0] for row in summary.rows] == [claim.name for claim in CLAIMS]
    rows = finding_rows(report["claims"][0])
    assert rows[0][1] == "100.0 %"
    assert rows[0][3:] == ["at least 97 %", "reproduced"]
    assert [finding_rows(claim)[0][1] for claim in report["claims"][3:5]] == ["50.0 points", "-1.93"]
    assert claim_tables({}) == ()
    example = report["claims"][6]["example"]
    assert (example["arm"], example["id"]) == ("rl", "faded-0-test-0")
