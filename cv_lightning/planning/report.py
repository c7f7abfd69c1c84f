"""A plan: memory and time that a config needs, whether it fits, and what to change; as text and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from cv_lightning.planning.compute import Device, step_flops, step_seconds
from cv_lightning.planning.memory import RESERVED, Memory, memory
from cv_lightning.planning.model_size import ModelSize
from cv_lightning.planning.workload import Workload


@dataclass(frozen=True)
class Plan:
    """Memory and time that a config needs.

    Attributes:
        size: The model.
        work: A training step.
        device: The speed of a device.
        memory: Bytes on each device.
        limit: Bytes of a device that a run can use.
        capacity: Bytes of a device.
        seconds: Seconds of a training step, by phase.
        flops: FLOPs of a training step on one device, by phase.
        advice: Changes to make, one value per line; empty if the config fits.
        origin: Where the shapes come from, in words.
    """

    size: ModelSize
    work: Workload
    device: Device
    memory: Memory
    limit: float
    capacity: float
    seconds: dict[str, float]
    flops: dict[str, float]
    advice: list[str]
    origin: str

    @property
    def fits(self) -> bool:
        """Whether every phase fits."""
        return self.memory.peak <= self.limit


def make_plan(size: ModelSize, work: Workload, device: Device, capacity: float, origin: str) -> Plan:
    """Count memory and time, and find changes if the config does not fit.

    Args:
        size: The model.
        work: A training step.
        device: The speed of a device.
        capacity: Bytes of a device.
        origin: Where the shapes come from, in words.
    """
    of_work, limit = memory(size, work), capacity * (1 - RESERVED)
    return Plan(
        size,
        work,
        device,
        of_work,
        limit,
        capacity,
        step_seconds(size, work, device),
        step_flops(size, work),
        list(_advice(size, work, limit)),
        origin,
    )


def _advice(size: ModelSize, work: Workload, limit: float) -> Iterator[str]:
    """Yield what does not fit, and values to change until it does; nothing if everything fits."""
    now = memory(size, work)
    if now.peak <= limit:
        return
    also = ""
    if now.states > limit and not work.is_sharded:
        also = "and then also "
        copy = size.n * size.compute_bytes / 1e9
        yield (
            f"needs sharding: weights, optimizer states and gradients take {now.states / 1e9:.1f} GB on each device, "
            f"with any batch. Without sharding: policy.lora (the weights then take {copy:.1f} GB, without a "
            "reference), or more of policy.frozen"
        )
        if work.devices == 1:
            return
        work = work.sharded()
        states = memory(size, work).states / 1e9
        yield f"add --config experiments/sharded.yaml: over {work.devices} devices they take {states:.1f} GB on each"

    def excess(work: Workload) -> float:
        """Bytes over the limit, summed over the phases."""
        return sum(max(0.0, n_bytes - limit) for n_bytes in memory(size, work).phases.values())

    for name, change in _CHANGES.items():
        before = work
        while (after := change(work, size)) != work and excess(after) < excess(work):
            work = after
        if work != before:
            yield f"{also}change {name} to {_value(name, work)}"
    if rest := excess(work):
        yield f"then still {rest / 1e9:.1f} GB too much: use a larger device"


def _value(name: str, work: Workload) -> Any:
    holds_one = work.micro_batch_tokens == work.tokens
    budget = f" and model.micro_batch_tokens to {work.micro_batch_tokens}" if holds_one else ""
    return {
        "policy.gradient_checkpointing": "true",
        "trainer.strategy.reduce_each_micro_batch": "true",
        "model.micro_batch_tokens": work.micro_batch_tokens,
        "model.rollout.sequences_at_once": work.sequences_at_once,
        "policy.max_context_tokens": f"{work.tokens}{budget}",
    }[name]


#: Values that make a step smaller, cheapest first, each with a function that reduces it once.
_CHANGES: dict[str, Callable[[Workload, ModelSize], Workload]] = {
    "policy.gradient_checkpointing": lambda work, _: replace(work, gradient_checkpointing=True),
    "trainer.strategy.reduce_each_micro_batch": lambda work, _: (
        replace(work, keeps_whole_gradients=False) if work.is_sharded else work
    ),
    "model.micro_batch_tokens": lambda work, _: replace(work, micro_batch_tokens=work.tokens * max(1, work.rows // 2)),
    "model.rollout.sequences_at_once": lambda work, _: replace(
        work, sequences_at_once=max(1, work.sampled_together // 2) if work.group_size else 0
    ),
    "policy.max_context_tokens": lambda work, size: replace(
        work.with_tokens(max(1024, work.tokens // 2), size),
        micro_batch_tokens=min(work.micro_batch_tokens, max(1024, work.tokens // 2)),
    ),
}


# ---- output ----------------------------------------------------------------------------------------------------------


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan in plain values: bytes, FLOPs and seconds; per device unless stated otherwise."""
    size, work = plan.size, plan.work
    return {
        "shapes": plan.origin,
        "parameters": {name: {"all": part.n, "trained": part.n_trained} for name, part in size.parts.items()},
        "step": asdict(work) | {"sequences": work.sequences, "rows": work.rows},
        "bytes": plan.memory.parts,
        "phase_bytes": plan.memory.phases,
        "peak_bytes": plan.memory.peak,
        "limit_bytes": plan.limit,
        "tokens_of_all_devices": work.devices * work.sequences * work.tokens,
        "flops": plan.flops,
        "seconds": plan.seconds,
        "fits": plan.fits,
        "advice": plan.advice,
    }


def as_text(plan: Plan) -> str:
    """The plan as a table and a few lines."""
    memory_, size = plan.memory, plan.size
    lines = [f"shapes: {plan.origin}"]
    lines += [f"parameters: {size.n:,}, {size.n_trained:,} of them trained", ""]
    lines += ["GB on each device, at most"]
    lines += [f"  {name:<24}{n_bytes / 1e9:>8.2f}" for name, n_bytes in memory_.parts.items() if n_bytes]
    lines += ["", "GB at the same time, and seconds of a step"]
    for name, n_bytes in memory_.phases.items():
        seconds = plan.seconds.get(name)
        took = "" if seconds is None else f"{seconds:>12,.3g} s{plan.flops[name] / 1e15:>12,.3g} PFLOP"
        lines.append(f"  {name:<24}{n_bytes / 1e9:>8.2f} GB{took}")
    lines += ["", *_assumptions(plan), ""]
    verdict = "fits" if plan.fits else "does not fit"
    lines.append(
        f"{verdict}: {memory_.peak / 1e9:.1f} GB of {plan.limit / 1e9:.1f} "
        f"({plan.capacity / 1e9:g} less {RESERVED:.0%} for context and fragmentation)"
    )
    return "\n".join([*lines, *plan.advice])


def _assumptions(plan: Plan) -> Iterator[str]:
    work, device = plan.work, plan.device
    if work.is_sharded:
        yield f"strategy: each of {work.shards} devices holds a share of the weights, and one whole layer at a time"
    elif not work.strategy.startswith(("auto", "ddp", "DDP", "SingleDevice")):
        yield f"strategy: {work.strategy} is counted like DDP, with everything on each device"
    total, of_all = sum(plan.seconds.values()), work.devices * work.sequences
    yield (
        f"step: {of_all} sequences of {work.tokens:,} tokens ({work.sampled:,} trained; {work.images} images of "
        f"{work.patches:,} patches) on {work.devices} device{'s' * (work.devices > 1)}: {of_all * work.tokens:,} tokens"
    )
    yield (
        f"time: {total:,.3g} s a step at {device.utilisation:.0%} of {device.flops_per_s / 1e12:g} TFLOP/s"
        + (f", sampling at {device.bytes_per_s / 1e12:g} TB/s (a lower bound)" if work.group_size else "")
        + (
            f"; {total * work.max_steps / work.optimizer_steps / 3600:,.3g} h for {work.max_steps} optimizer steps"
            if work.max_steps
            else ""
        )
    )
