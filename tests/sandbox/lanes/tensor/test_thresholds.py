"""Number of pixels from which an operation is cheaper on a device."""

from __future__ import annotations

import pytest
import torch

from sandbox.lanes.tensor import thresholds
from sandbox.lanes.tensor.selfcheck import operations_of
from tests.sandbox.lanes.tensor.agreement import (
    CONTRACTS,
)


def test_thresholds_are_kept_for_every_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "BATCHES", ((1, 8), (2, 16)))
    for exactness in CONTRACTS:
        assert set(thresholds.CPU[exactness]) <= set(operations_of(exactness))
        for name in operations_of(exactness):
            assert thresholds.measure(name, torch.device("cpu"), exactness) in {64, 512, float("inf")}
    assert thresholds.threshold("orient", torch.device("cpu"), "exact") == float("inf")
    assert thresholds.threshold("ImageFilter.MaxFilter", torch.device("cpu"), "exact") < 1 << 20


def test_an_accelerator_is_measured_once_for_each_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(name: str, *_: object) -> float:
        asked.append(name)
        return 100.0

    monkeypatch.setattr(thresholds, "measure", measured)
    thresholds.threshold.cache_clear()
    names = ["orient", "orient", "cv2.blur"]
    assert [thresholds.threshold(name, torch.device("meta"), "close") for name in names] == [100, 100, 100]
    thresholds.threshold.cache_clear()
    assert asked == ["orient", "cv2.blur"]
