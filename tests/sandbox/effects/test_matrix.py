"""Every true operation is fully credited, in every lane, whatever code is around it; nothing else is credited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

from sandbox import Observation, ToolExecutor, ToolProgram, ToolRequest
from sandbox.operations.program import print_program
from tests.sandbox.effects.matrix import OPERATIONS, WRITTEN, cases, confined_executor, cut_short, scenes
from tests.sandbox.idioms import IDIOMS, snippet_of
from tests.sandbox.machine import need, noise
from tests.sandbox.strategies import images, programs

CORPORA = Path(__file__).parents[1] / "corpora"


@pytest.fixture(scope="module")
def confined() -> Iterator[ToolExecutor]:
    need()
    with confined_executor() as made:
        yield made


def credit(seen: Observation) -> tuple[object, ...]:
    return seen.status, seen.tools, seen.orientation, seen.frame


@pytest.mark.parametrize("operation", OPERATIONS)
def test_true_operations_are_fully_credited_in_confinement(operation: str, confined: ToolExecutor) -> None:
    chosen = [
        case
        for case in cut_short(cases(("china", "page", "chart, gray"), tuple(WRITTEN)))
        if case.operation == operation
    ]
    seen = confined.execute([ToolRequest(case.code, [case.image], episode=str(i % 4)) for i, case in enumerate(chosen)])
    missed = [(case, credit(one)) for case, one in zip(chosen, seen, strict=True) if not case.is_full(one)]
    assert chosen
    assert missed == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_matrix(confined: ToolExecutor) -> None:
    chosen = list(cases(tuple(scenes()), tuple(WRITTEN)))
    requests = [ToolRequest(case.code, [case.image], episode=str(i % 4)) for i, case in enumerate(chosen)]
    with ToolExecutor(lane="auto", workers=2) as auto:
        for executor in (auto, confined):
            seen = executor.execute(requests)
            n_full = sum(case.is_full(one) for case, one in zip(chosen, seen, strict=True))
            assert n_full >= 0.97 * len(chosen)
            assert [case for case, one in zip(chosen, seen, strict=True) if case.is_false(one)] == []


def idioms() -> list[str]:
    rows = [json.loads(line) for line in (CORPORA / "idioms.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["code"] for row in rows if "code" in row] + [snippet_of(idiom) for idiom in IDIOMS]


def test_idioms_earn_the_same_in_both_lanes(confined: ToolExecutor) -> None:
    shown = [scenes()["china"], scenes()["page"], noise(301, 203)]
    requests = [ToolRequest(code, shown, episode=str(i % 4)) for i, code in enumerate(idioms())]
    with ToolExecutor(lane="pillow") as lifted:
        pairs = list(zip(requests, lifted.execute(requests), confined.execute(requests), strict=True))
    lifting = [(request.code, one, other) for request, one, other in pairs if one.status == "ok"]
    assert len(lifting) > 200
    assert [(code, credit(one), credit(other)) for code, one, other in lifting if credit(one) != credit(other)] == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(program=programs(), image=images())
def test_programs_earn_the_same_in_both_lanes(program: ToolProgram, image: Image.Image, confined: ToolExecutor) -> None:
    request = ToolRequest(print_program(program), [image, noise(9, 7)], episode="law")
    with ToolExecutor(lane="pillow") as executor:
        (lifted,) = executor.execute([request])
    if lifted.status == "ok" and lifted.image is not None:
        (seen,) = confined.execute([request])
        assert credit(seen) == credit(lifted)
