"""The registry: the promises of a function; the first function that takes a call does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from sandbox.lanes.tensor import kinds, table
from sandbox.lanes.tensor.kinds import KINDS, TensorKind, operation
from sandbox.operations.operation import State


def same(images_NCHW: torch.Tensor, _: Sequence[Any]) -> torch.Tensor:
    return images_NCHW


def test_without_a_promise_it_is_exact_and_may_enlarge_any_difference() -> None:
    kind = TensorKind(same)
    assert kind.is_exact(())
    assert kind.growth(()) == float("inf")
    assert not kind.refuses((), State((3, 2)))


def test_a_number_is_a_constant_and_a_function_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "KINDS", {})
    operation("one", "two", by="nobody", most=lambda values: values[0], far=0.1, growth=2)(same)
    for name in ("one", "two"):
        (kind,) = kinds.KINDS[name]
        assert (kind.by, kind.most((3,)), kind.far((3,)), kind.growth((3,))) == ("nobody", 3, 0.1, 2)
    assert not kind.is_exact((0,))
    with pytest.raises(TypeError, match="mots"):
        operation("three", mots=1)(same)


def test_the_first_that_takes_a_call_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    close = TensorKind(same, most=lambda _: 1, refuses=lambda _, state: state.size[0] < 3, reason="it is narrow")
    exact = TensorKind(same, refuses=lambda _, state: state.size[0] < 2, reason="it is a line")
    monkeypatch.setitem(KINDS, "ImageOps.invert", [close, exact])
    found = [table.kind_of("ImageOps.invert", (), State((width, 5)), "close") for width in (3, 2, 1)]
    assert found == [close, exact, "ImageOps.invert: it is a line"]
    assert table.kind_of("ImageOps.invert", (), State((3, 5)), "exact") is exact
    monkeypatch.setitem(KINDS, "ImageOps.invert", [close])
    assert table.kind_of("ImageOps.invert", (), State((3, 5)), "exact") == f"ImageOps.invert: {table.INEXACT}"
