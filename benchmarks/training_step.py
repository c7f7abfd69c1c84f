"""A training step of this project against one of TRL, in pairs: the same prompts and tokens, in the same order.

    pip install -e '.[oracle]'
    python benchmarks/training_step.py [--cases rl sft] [--sides ours trl] [--repeats 5] [--json FILE]

Both sides are whole trainers, Lightning's with `GRPOModule` or `SFTModule` and TRL's `GRPOTrainer` or `SFTTrainer`.
Each has a process of its own: what one sets in its process, such as the allocator's limits, does not reach the other.
They take turns step by step: one waits while the other computes. A step lasts from the end of the previous step to its
own end. A ratio is TRL's time divided by ours, as the median over the pairs; the first pair is a warm-up and does not
count. Ratios use processor time, which other work on the machine does not stretch; wall time is printed too.

A policy with random weights writes no useful replies, so in both rollouts each token is sampled and then replaced by
one of a script: the conversations of the tiny world's oracle. The rollouts of a group differ in one word of each reply,
or only some of them do if equal ones are to be joined. All logits, samples, calls and images are computed. Our calls
run; TRL's tool has their results precomputed. Both sides have a reference policy (KL) and measure entropies. In a
forward pass, TRL gets as many sequences as fit in 4,000 padded tokens, which is also our budget.

`matrix rate`: FLOPs that our step executes in matrix products and attention, divided by its processor seconds, as a
share of the rate of a float32 product of 1024 x 1024.

`MB`: peak resident memory of a side, minus the memory before the trainer was made. With `--sides ours` TRL is not
needed, and nothing is compared.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # this folder leaves the path: benchmarks/sandbox.py is no package

import argparse  # noqa: E402
import json  # noqa: E402
import multiprocessing  # noqa: E402
import resource  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from contextlib import AbstractContextManager, nullcontext  # noqa: E402
from importlib.metadata import version  # noqa: E402
from multiprocessing.connection import Connection  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from lightning import Callback, Trainer  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count  # noqa: E402

from benchmarks.training_cases import CASES, KL, LEARNING_RATE, StepCase, StepWork, scripted, work_of  # noqa: E402
from modules.grpo import GRPOModule  # noqa: E402
from modules.optimizer import OptimizerConfig  # noqa: E402
from modules.policy_gradient import PolicyGradientConfig  # noqa: E402
from modules.rollouts import RolloutConfig  # noqa: E402
from modules.sft import SFTModule  # noqa: E402
from sandbox.memory import peak_memory_bytes  # noqa: E402

BUDGET = 4000
SIDES = ("ours", "trl")


def main() -> int:
    """Measure, print, and write JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="pairs that count (default: %(default)s)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES], help="cases to measure (default: all)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[*SIDES], help="sides to measure (default: both)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rate = matrix_rate()
    print(f"{options.threads} thread(s), float32 products at {rate / 1e9:.1f} GFLOP/s of processor time")
    found = {
        name: measure(CASES[name], options.sides, options.repeats, options.threads, rate) for name in options.cases
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        versions = {name: version(name) for name in ("torch", "trl") if name == "torch" or "trl" in options.sides}
        options.json.write_text(json.dumps({**versions, "threads": options.threads, "cases": found}, indent=1) + "\n")
    return 0


def measure(case: StepCase, sides: Sequence[str], repeats: int, threads: int, rate: float) -> dict[str, Any]:
    """Let the sides take turns, and print a line."""
    processes = [SideProcess(case, side, repeats + 1, threads) for side in sides]
    for process in processes:
        process.receive()  # ready
    seconds = [[process.step() for process in processes] for _ in range(repeats + 1)][1:]
    found: dict[str, Any] = {}
    for process, measured in zip(processes, zip(*seconds, strict=True), strict=True):
        processor, wall = zip(*measured, strict=True)
        counts, flops, megabytes = process.receive()
        found = {**counts, **found}
        found |= {f"{process.side} s": median(processor), f"wall {process.side} s": median(wall)}
        found[f"{process.side} MB"] = megabytes
        if process.side == "ours":
            found["matrix rate"] = flops / median(processor) / rate
    if len(sides) == len(SIDES):
        ratios = [trl / ours for (ours, _), (trl, _) in seconds]
        found |= {"ratio": median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    print(case.name, *(f"{key} {value:.4g}" for key, value in found.items()), sep="  ", flush=True)
    return found


class SideProcess:
    """A side's trainer in a process of its own, as the benchmark sees it."""

    def __init__(self, case: StepCase, side: str, n_steps: int, threads: int) -> None:
        self.side = side
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        arguments = (case, side, n_steps, threads, other)
        context.Process(target=run_side, args=arguments, daemon=True).start()
        other.close()

    def step(self) -> tuple[float, float]:
        """Let the side compute a step; returns its processor and wall seconds."""
        self._connection.send(None)
        seconds: tuple[float, float] = self.receive()
        return seconds

    def receive(self) -> Any:
        """The side's next message."""
        try:
            return self._connection.recv()
        except EOFError:
            raise RuntimeError(f"the side {self.side!r} failed, see its error above") from None


def run_side(case: StepCase, side: str, n_steps: int, threads: int, connection: Connection) -> None:
    """Run a side's trainer in this process; the last message holds the counts of a step, its FLOPs and the memory."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    work = work_of(case, n_steps)
    turns = Turns(connection)
    flops = 0.0
    if side == "trl":
        import trl.trainer.grpo_trainer  # noqa: F401

        from benchmarks.training_trl import run_trl
    before = resident_bytes()
    if side == "trl":
        run_trl(case, work, turns)
    else:
        flops = run_ours(case, work, turns)
    counts = {"sequences": case.n_prompts * case.group_size, "distinct": work.n_distinct, "tokens": work.n_tokens}
    connection.send((counts, flops, (peak_memory_bytes() - before) // 1_000_000))


def resident_bytes() -> int:
    """Present resident memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


class Turns:
    """The turns of this process, which sends the seconds of each."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._started = (0.0, 0.0)

    def begin(self) -> None:
        """Say that the trainer is ready, and wait for the first turn."""
        self._connection.send(None)
        self._wait()

    def end(self, is_last: bool) -> None:
        """End a turn, and wait for the next one."""
        began, started = self._started
        self._connection.send((time.process_time() - began, time.perf_counter() - started))
        if not is_last:
            self._wait()

    def _wait(self) -> None:
        self._connection.recv()
        self._started = time.process_time(), time.perf_counter()


class _OurTurns(Callback):
    """Ends our side's turn after each step, and counts the FLOPs of the first step."""

    def __init__(self, turns: Turns, work: StepWork) -> None:
        self._turns, self._work = turns, work
        self._counter = counter()
        self.flops = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._turns.begin()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._counter.__enter__()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._work.check(outputs["metrics"].get("rollout/sampled_tokens"), batch_idx)
            self._counter.__exit__(None, None, None)
            self.flops = float(self._counter.get_total_flops())
        self._turns.end(is_last=batch_idx + 1 == trainer.max_steps)


def run_ours(case: StepCase, work: StepWork, turns: Turns) -> float:
    """Run our trainer's steps; returns the FLOPs of one step."""
    arguments: dict[str, Any] = {"optimizer": OptimizerConfig(lr=LEARNING_RATE), "micro_batch_tokens": BUDGET}
    script: AbstractContextManager[None] = nullcontext()
    module: Any
    if case.is_sft:
        module = SFTModule(work.policy, **arguments)
    else:
        module = GRPOModule(
            work.policy,
            group_size=case.group_size,
            policy_gradient=PolicyGradientConfig(kl_coefficient=KL),
            rollout=RolloutConfig(max_turns=case.n_turns, max_new_tokens=work.longest_turn),
            **arguments,
        )
        script = scripted(work)
    callback = _OurTurns(turns, work)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=len(work.batches), max_epochs=1, logger=False, callbacks=[callback],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with script:
        trainer.fit(module, DataLoader(work.batches, batch_size=None, collate_fn=lambda batch: batch))
    return callback.flops


def counter() -> FlopCounterMode:
    """A counter for matrix products and for attention on a CPU, which torch's counter leaves out."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

    def of_attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return int(sdpa_flop_count(query, (*query[:2], *key[2:]), (*query[:2], *value[2:])))

    def of_backward(
        grad: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
    ) -> int:
        return int(sdpa_backward_flop_count(grad, query, (*query[:2], *key[2:]), (*query[:2], *value[2:])))

    return FlopCounterMode(display=False, custom_mapping={attention: of_attention, backward: of_backward})


def matrix_rate(side: int = 1024, repeats: int = 20) -> float:
    """FLOPs of a float32 product divided by its processor seconds, as a median over repeats."""
    left, right = torch.randn(2, side, side)
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        torch.mm(left, right)
        seconds.append(time.process_time() - began)
    return 2 * side**3 / median(seconds)


if __name__ == "__main__":
    raise SystemExit(main())
