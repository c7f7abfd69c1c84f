"""Systems without the kernel's confinement: unconfined code needs explicit consent, and then behaves as elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Literal

import pytest

from sandbox import ConfinementError, Limits, Observation, ToolExecutor, ToolRequest
from tests.sandbox.attack_site import descendants
from tests.sandbox.machine import noise

IMAGE = noise(40, 30)
LIMITS = Limits(wall_s=30)


@pytest.fixture(params=["another system", "no sealed memory"])
def elsewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that is not Linux, or one without memory files."""
    if request.param == "another system":
        monkeypatch.setattr(sys, "platform", "darwin")
    else:
        monkeypatch.delattr(os, "memfd_create", raising=False)


def unconfined(limits: Limits = LIMITS, fresh: Literal["call", "episode"] = "call") -> ToolExecutor:
    with pytest.warns(RuntimeWarning, match="it can read and write this user's files, reach the network"):
        return ToolExecutor(
            lane="confined", workers=2, limits=limits, min_level="process", fresh=fresh, allow_unsafe=True
        )


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[ToolExecutor]:
    monkeypatch.setattr(sys, "platform", "darwin")
    made = unconfined(fresh="episode")
    yield made
    made.close()


def run(executor: ToolExecutor, code: str, episode: str = "") -> Observation:
    return executor.execute([ToolRequest(code, [IMAGE], episode=episode)])[0]


@pytest.mark.usefixtures("elsewhere")
def test_confinement_is_refused_with_what_is_missing() -> None:
    with pytest.raises(ConfinementError, match=r"'syscall'.*no seccomp.*allow_unsafe=True"):
        ToolExecutor(lane="confined")
    with pytest.raises(ValueError, match="allow_unsafe=True"):
        ToolExecutor(lane="confined", min_level="process")
    with ToolExecutor(lane="auto") as executor:
        with pytest.warns(RuntimeWarning, match=r"will be rejected.*no seccomp"):
            assert run(executor, "class Tool: pass\nresult = image").status == "rejected"
        assert run(executor, "result = image.rotate(90)").status == "ok"


@pytest.mark.usefixtures("elsewhere")
def test_unconfined_code_runs_after_a_warning() -> None:
    with unconfined() as executor:
        observation = run(executor, "for i in [1]: result = image.rotate(90, expand=True)")
    assert (observation.status, observation.level, observation.orientation) == ("ok", "process", "rotate_90")
    assert observation.image is not None
    assert observation.image.tobytes() == IMAGE.rotate(90, expand=True).tobytes()


def test_outcomes_are_those_of_other_lanes(executor: ToolExecutor) -> None:
    codes = ["result = image.rotate(180)", "1 / 0", "print(image.size)", "import os\nos._exit(3)", "x = 1"]
    seen = executor.execute([ToolRequest(code, [IMAGE]) for code in codes])
    assert [o.status for o in seen] == ["ok", "error", "ok", "crash", "error"]
    assert seen[1].text == "ZeroDivisionError: division by zero\n  line 1: 1 / 0"
    assert seen[2].text == "(40, 30)"
    assert {o.level for o in seen} == {"process"}


def test_variables_live_on_in_an_episode_until_an_error(executor: ToolExecutor) -> None:
    run(executor, "x = image.copy()\nprint(1)", "a")
    assert run(executor, "result = x", "a").orientation == "identity"
    assert run(executor, "result = x", "b").status == "error"
    assert run(executor, "1 / 0", "a").status == "error"
    assert run(executor, "result = x", "a").status == "error"


def test_time_is_limited_and_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    resource_tracker.ensure_running()  # multiprocessing's own process, which lives as long as this one
    before, limits = descendants(os.getpid()), Limits(wall_s=0.4)
    with unconfined(limits) as executor:
        start = time.perf_counter()
        late = run(executor, "while True: pass")
        assert time.perf_counter() - start < 10
        assert late.status == "timeout"
        assert "0.4 s" in late.text
    assert descendants(os.getpid()) == before
