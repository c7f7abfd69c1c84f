"""Verdict and advice."""

from __future__ import annotations

from dataclasses import replace

from cv_lightning.planning.compute import Device
from cv_lightning.planning.memory import RESERVED, memory
from cv_lightning.planning.report import as_json, as_text, make_plan
from cv_lightning.planning.workload import Workload
from tests.cv_lightning.planning.test_memory import size_of
from tests.cv_lightning.planning.works import WORK
from tests.modules.helpers import small_policy

SIZE = size_of(small_policy())
DEVICE = Device(1e12, 1e12, 0.5)


def advice_at(work: Workload, n_bytes: float) -> list[str]:
    return make_plan(SIZE, work, DEVICE, n_bytes / (1 - RESERVED), "here").advice


def test_what_fits_needs_no_advice() -> None:
    found = make_plan(SIZE, WORK, DEVICE, 80e9, "here")
    assert found.fits
    assert not found.advice
    assert "\nfits: " in as_text(found)
    assert as_json(found)["peak_bytes"] == memory(SIZE, WORK).peak


def test_the_cheapest_value_that_helps_is_named() -> None:
    work = replace(WORK, micro_batch_tokens=4000, batch_size=4)
    with_checkpoints = memory(SIZE, replace(work, gradient_checkpointing=True)).peak
    assert advice_at(work, with_checkpoints) == ["change policy.gradient_checkpointing to true"]
    one_row = memory(SIZE, replace(work, gradient_checkpointing=True, micro_batch_tokens=1000)).peak
    assert advice_at(work, one_row)[1:] == ["change model.micro_batch_tokens to 1000"]


def test_a_rollout_that_is_too_large_is_sampled_in_parts() -> None:
    work = replace(WORK, batch_size=8, group_size=8, gradient_checkpointing=True)
    half = memory(SIZE, replace(work, sequences_at_once=32)).peak
    assert advice_at(work, half) == ["change model.rollout.sequences_at_once to 32"]


def test_states_that_do_not_fit_need_sharding() -> None:
    states = memory(SIZE, WORK).states
    advice = advice_at(WORK, states - 1)
    assert advice[0].startswith("needs sharding: ")
    assert "policy.lora" in advice[0]


def test_states_that_fit_as_shares_name_the_block_that_shares_them() -> None:
    size = replace(SIZE, optimizer_bytes=40_000_000)
    work = replace(WORK, devices=4, group_size=8, has_reference=True)
    shared = memory(size, work.sharded()).peak
    advice = make_plan(size, work, DEVICE, shared / (1 - RESERVED), "here").advice
    assert "experiments/sharded.yaml" in advice[1]
    assert len(advice) == 2
    text = as_text(make_plan(size, work.sharded(), DEVICE, 80e9, "here"))
    assert "strategy: each of 4 devices holds a share" in text


def test_what_no_value_mends_is_said() -> None:
    assert advice_at(WORK, memory(SIZE, WORK).states + 1)[-1].endswith("use a larger device")


def test_an_unknown_strategy_is_said() -> None:
    text = as_text(make_plan(SIZE, replace(WORK, strategy="fsdp"), DEVICE, 80e9, "here"))
    assert "strategy: fsdp is counted like DDP" in text
