"""The row of one index: attempts until an episode passes the checks, and errors of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cv_lightning.construction import maker as module
from cv_lightning.construction.maker import Interrupted, RowMaker, make_in_worker
from cv_lightning.construction.plan import EpisodePlan, PlannedStep, Planner
from cv_lightning.construction.settings import Build
from cv_lightning.construction.teacher import OracleTeacher
from cv_lightning.endpoint.meter import RequestError
from cv_lightning.errors import ConfigError
from cv_lightning.types import Trajectory
from tests.cv_lightning.construction.worlds import PLATES


class Failing(OracleTeacher):
    """Raises the given errors in the first attempts."""

    is_remote = True

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = [*failures]

    def write(self, plan: EpisodePlan, trajectory: Trajectory, step: PlannedStep) -> str:
        if self.failures:
            raise self.failures.pop(0)
        return super().write(plan, trajectory, step)


Make = Callable[..., RowMaker]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[RowMaker] = []

    def make(*failures: Exception) -> RowMaker:
        planner = Planner([PLATES], shares={"single_tool": 1.0})
        build = Build(planner, str(tmp_path), teacher=Failing(*failures), max_attempts=3, lane="pillow")
        made.append(RowMaker(build, {"n": 1}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def refused() -> RequestError:
    return RequestError("too long", status=400, is_passing=False)


def test_an_attempt_that_is_refused_is_followed_by_another(make: Make) -> None:
    item = make(refused(), refused()).make(4)
    assert (item.index, item.kind, item.rejected) == (4, "single_tool", ["request_failed"] * 2)
    assert item.record is not None
    assert item.record["provenance"]["index"] == 4


def test_an_index_is_given_up_after_all_attempts(make: Make) -> None:
    item = make(*[refused() for _ in range(3)]).make(4)
    assert (item.record, item.rejected) == (None, ["request_failed"] * 3)


def test_a_failure_that_passes_is_the_callers(make: Make) -> None:
    with pytest.raises(RequestError, match="busy"):
        make(RequestError("busy", status=503)).make(4)


def test_a_maker_that_was_stopped_makes_nothing(make: Make) -> None:
    maker = make()
    maker.stop()
    with pytest.raises(Interrupted):
        maker.make(4)


def test_settings_that_decide_the_rows_are_in_the_provenance(make: Make, tmp_path: Path) -> None:
    planner = Planner([PLATES], shares={"single_tool": 1.0})
    told = []
    for settings in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 3}):
        maker = RowMaker(Build(planner, str(tmp_path), lane="pillow"), settings)
        record = maker.make(0).record
        maker.close()
        assert record is not None
        told.append(record["provenance"]["settings"])
    assert told[0] == told[1] != told[2]


def test_a_worker_process_must_be_started_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_maker", None)
    with pytest.raises(ConfigError, match="start_worker"):
        make_in_worker(0)
