"""The weights that sampled a token."""

from __future__ import annotations

from modules.samplers.vllm.weight_log import WeightLog
from modules.samplers.vllm.wire import (
    EngineReply,
)


def spoken(*weights: tuple[str, int, int]) -> EngineReply:
    return EngineReply([7] * 4, [0.0] * 4, True, weights)


def test_replies_of_older_or_unknown_weights_are_refused() -> None:
    log = WeightLog("run", "policy")
    log.note_weights("run-1")
    first = log.current()
    log.note_weights("run-2")
    second = log.current()
    assert log.versions(spoken(("run-2", 0, 4)), second) == [2, 2, 2, 2]
    assert log.versions(spoken(("run-1", 0, 4)), second) is None
    assert log.versions(spoken(("default", 0, 4)), second) is None
    assert log.versions(spoken(), second) is None
    # New weights arrived during the turn.
    assert log.versions(spoken(("run-1", 0, 1), ("run-2", 1, 4)), first) == [1, 2, 2, 2]


def test_an_adapter_speaks_with_the_weights_under_it() -> None:
    log = WeightLog("run", "policy")
    log.note_weights("run-1")
    log.note_adapter("policy-run-2")
    asked = log.current()
    assert (asked.model, asked.number) == ("policy-run-2", 2)
    assert log.versions(spoken(("run-1", 0, 4)), asked) == [2, 2, 2, 2]
    assert log.versions(spoken(("default", 0, 4)), asked) is None
