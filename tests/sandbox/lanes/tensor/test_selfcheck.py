"""The self-check: devices, half precision of the trainer, and a Kornia that computes differently."""

from __future__ import annotations

import pytest
import torch

from sandbox import ToolRequest
from sandbox.lanes.tensor import filters
from sandbox.lanes.tensor.selfcheck import broken_operations, self_check
from sandbox.types import Exactness
from tests.sandbox.lanes.tensor.agreement import (
    CONTRACTS,
    DEVICES,
    assert_equal,
    noise,
    run_both,
)


@pytest.mark.parametrize("exactness", CONTRACTS)
@pytest.mark.parametrize("device", DEVICES)
def test_self_check(device: str, exactness: Exactness) -> None:
    found = self_check(device, exactness, ((40, 30), (3, 1)), n_calls=10)
    assert [name for name, difference in found.items() if not difference.is_kept] == []
    assert exactness == "close" or {difference.most for difference in found.values()} == {0}


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_of_the_trainer_changes_nothing(half: torch.dtype, device: str) -> None:
    """No operation may run in half precision: neither autocast nor a half-precision default dtype reaches the lane."""
    usual, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    try:
        torch.set_default_dtype(half)
        torch.set_float32_matmul_precision("medium")
        with torch.autocast(torch.device(device).type, dtype=half):
            found = self_check(device, "close", ((40, 30),), n_calls=10)
            assert all(difference.is_kept for difference in found.values())
            assert (torch.get_default_dtype(), torch.get_float32_matmul_precision()) == (half, "medium")
    finally:
        torch.set_default_dtype(usual)
        torch.set_float32_matmul_precision(precision)


def test_a_kornia_that_computes_otherwise_is_found_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def rolled(image: torch.Tensor, *_: object) -> torch.Tensor:
        return image.roll(1, 3)

    monkeypatch.setattr(filters.filters, "median_blur", rolled)
    monkeypatch.delattr(filters.morphology, "erosion")
    broken_operations.cache_clear()
    codes = ["MedianFilter(3)", "MinFilter(3)", "MaxFilter(3)"]
    requests = [ToolRequest(f"result = image.filter(ImageFilter.{code})", [noise(40, 30)]) for code in codes]
    try:
        with pytest.warns(RuntimeWarning, match=r"MedianFilter: Kornia [\d.]+ differs by \d+ of 255.*MinFilter.*fails"):
            tensor, pillow = run_both(requests)
    finally:
        broken_operations.cache_clear()
    assert [observation.lane for observation in tensor] == ["tool_worker", "pillow", "kornia"]
    for one, other in zip(tensor, pillow, strict=True):
        assert_equal(one, other)
