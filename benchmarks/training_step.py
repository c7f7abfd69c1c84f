"""A training step of this project against one of TRL, in pairs: the same prompts in the same order, the same tokens.

    pip install -e '.[oracle]'
    python benchmarks/training_step.py [--cases rl sft] [--repeats 5] [--json runs/benchmarks/training_step.json]

Both sides are whole trainers, Lightning's with `GRPOModule` or `SFTModule` and TRL's `GRPOTrainer` or `SFTTrainer`, in
one process. They take turns step by step: one waits while the other computes. A step lasts from the end of the step
before to its own end. Ratios are TRL's by ours, the median of those of the pairs; the first pair warms up and does not
count. They are taken in processor time, which other work on the machine does not stretch; wall time is printed too.

A policy with random weights cannot talk, so in both rollouts each token is drawn and then replaced by one of a script:
the conversations of the tiny world's oracle, in which the rollouts of a group differ in a word of each reply, or, if
they are to be joined, only some do. All logits, draws, calls and images are computed. Our calls run; TRL's tool has
their results at hand. Both have a reference policy (KL) and measure entropies, and TRL gets as many sequences in a
forward pass as a budget of 4,000 padded tokens holds, which is ours.

`matrix rate`: FLOPs that our step executes, in matrix products and attention, by its processor seconds, as a share of
the rate of a float32 product of 1024 x 1024.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # this folder leaves the path: benchmarks/sandbox.py is no package

import argparse  # noqa: E402
import json  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from contextlib import AbstractContextManager, nullcontext  # noqa: E402
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

BUDGET = 4000


def main() -> int:
    """Measure, print, and write JSON if that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="pairs that count (default: %(default)s)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES], help="which (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    rate = matrix_rate()
    print(f"{options.threads} thread(s), float32 products at {rate / 1e9:.1f} GFLOP/s of processor time")
    found = {name: measure(CASES[name], options.repeats, options.threads, rate) for name in options.cases}
    if options.json:
        import trl

        options.json.parent.mkdir(parents=True, exist_ok=True)
        versions = {"torch": torch.__version__, "trl": trl.__version__, "threads": options.threads}
        options.json.write_text(json.dumps({**versions, "cases": found}, indent=1) + "\n")
    return 0


def measure(case: StepCase, repeats: int, threads: int, rate: float) -> dict[str, Any]:
    """Run both trainers in turns and print a line."""
    from benchmarks.training_trl import run_trl

    work = work_of(case, repeats + 1)
    turns = Turns()
    with tempfile.TemporaryDirectory() as folder:
        work.policy.export(folder)
        torch.set_num_threads(threads)
        other = threading.Thread(
            target=turns.guard, args=(lambda: run_trl(case, work, Path(folder), turns, threads),), daemon=True
        )
        other.start()
        flops = turns.guard(lambda: run_ours(case, work, turns))
        other.join()
    if turns.has_failed:
        raise RuntimeError("TRL's side failed")
    pairs = list(zip(turns.seconds["ours"][1:], turns.seconds["trl"][1:], strict=True))
    found = {
        "sequences": case.n_prompts * case.group_size,
        "distinct": work.n_distinct,
        "tokens": work.n_tokens,
        "ours s": median(ours for (ours, _), _ in pairs),
        "trl s": median(trl for _, (trl, _) in pairs),
        "ratio": median(trl / ours for (ours, _), (trl, _) in pairs),
        "lowest": min(trl / ours for (ours, _), (trl, _) in pairs),
        "highest": max(trl / ours for (ours, _), (trl, _) in pairs),
        "wall ours s": median(ours for (_, ours), _ in pairs),
        "wall trl s": median(trl for _, (_, trl) in pairs),
        "matrix rate": flops / median(ours for (ours, _), _ in pairs) / rate,
    }
    print(case.name, *(f"{key} {value:.4g}" for key, value in found.items()), sep="  ", flush=True)
    return found


class Turns:
    """Lets two trainers compute in turns, ours first, and takes the time of their steps.

    Attributes:
        seconds: Of each side the processor and wall seconds of its steps.
        has_failed: Whether a side has: the other one ends too.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "trl": []}
        self.has_failed = False
        self._turn = "ours"
        self._condition = threading.Condition()
        self._started = (0.0, 0.0)

    def wait(self, side: str) -> None:
        """Wait for the turn of a side; its step begins."""
        with self._condition:
            self._condition.wait_for(lambda: self._turn == side or self.has_failed)
        if self.has_failed:
            raise RuntimeError("the other side failed")
        self._started = time.process_time(), time.perf_counter()

    def end(self, side: str) -> None:
        """A step has ended: the other side's turn."""
        began, started = self._started
        self.seconds[side].append((time.process_time() - began, time.perf_counter() - started))
        with self._condition:
            self._turn = "trl" if side == "ours" else "ours"
            self._condition.notify_all()

    def guard(self, function: Any) -> Any:
        """Run a side; if it fails, let the other one end."""
        is_done = False
        try:
            result = function()
            is_done = True
        finally:
            with self._condition:
                self.has_failed |= not is_done
                self._condition.notify_all()
        return result


class _OurTurns(Callback):
    """Hands the turn over after each step, and counts the FLOPs of the first."""

    def __init__(self, turns: Turns, work: StepWork) -> None:
        self._turns, self._work = turns, work
        self._counter = counter()
        self.flops = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._turns.wait("ours")

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._counter.__enter__()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._work.check(outputs["metrics"].get("rollout/sampled_tokens"), batch_idx)
            self._counter.__exit__(None, None, None)
            self.flops = float(self._counter.get_total_flops())
        self._turns.end("ours")
        if batch_idx + 1 < trainer.max_steps:
            self._turns.wait("ours")


def run_ours(case: StepCase, work: StepWork, turns: Turns) -> float:
    """Our trainer's steps; returns the FLOPs of one."""
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
    """Counts matrix products and the attention of a CPU, which torch's counter leaves out."""
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
    """FLOPs of a float32 product by its processor seconds, the median of some."""
    left, right = torch.randn(2, side, side)
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        torch.mm(left, right)
        seconds.append(time.process_time() - began)
    return 2 * side**3 / median(seconds)


if __name__ == "__main__":
    raise SystemExit(main())
