"""Records of all steps are found, in the order of their steps."""

from __future__ import annotations

from pathlib import Path

from cv_lightning.viewer.records import find, read
from tests.cv_lightning.viewer.made_records import a_record, written


def test_records_of_all_steps_are_found_in_order(tmp_path: Path) -> None:
    for step in (1, 20, 100):
        written(tmp_path / "trajectories" / f"step_{step:08d}", a_record(step=step))
    found = read(find(tmp_path))
    assert [record["step"] for record in found.records] == [1, 20, 100]
    assert set(found.images) == {"a.png", "b.png"}


def test_a_record_without_its_step_takes_that_of_its_folder(tmp_path: Path) -> None:
    record = a_record()
    del record["step"]
    found = read(find(written(tmp_path / "step_00000012", record)))
    assert found.records[0]["step"] == 12
