"""The oracle's words and spellings vary, and can be held fixed."""

from __future__ import annotations

from cv_lightning.construction.checks import Checks
from cv_lightning.construction.episode import construct
from cv_lightning.construction.plan import Planner
from cv_lightning.construction.teacher import OracleTeacher
from sandbox import ToolExecutor
from tests.cv_lightning.construction.worlds import PLATES


def test_words_and_spellings_vary(executor: ToolExecutor) -> None:
    planner = Planner([PLATES], shares={"single_tool": 1.0}, turn_weights={"rotate_90": 1.0})

    def first_turns(teacher: OracleTeacher) -> set[str]:
        made = [construct(planner.plan(index), teacher, executor, Checks()) for index in range(60)]
        assert all(each.fault is None for each in made)
        return {each.trajectory.turns[0].text for each in made}

    assert len(first_turns(OracleTeacher())) == 12
    assert len(first_turns(OracleTeacher(n_wordings=1, n_spellings=1))) == 1
