"""Processor time of a decoding step of the tiny policy: with Hugging Face's layers, and with torch.compile.

    python benchmarks/decoding.py [--rows 1 32 128] [--tokens 20] [--eager-only]

A step takes one token per row through language model and head, with a static cache of 128 columns, because a compiler
needs fixed shapes. A single row needs hardly any arithmetic, so its time is overhead. The output has medians over the
tokens, the processor time of compiling, and the number of steps after which compiling pays off. Compiling needs a C++
compiler.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # this folder leaves the path: benchmarks/sandbox.py is no package

import argparse  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
import torch._inductor.config  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers.cache_utils import StaticCache  # noqa: E402

from benchmarks.training_cases import tiny_policy  # noqa: E402
from modules.policy.policy import Policy  # noqa: E402

N_COLUMNS = 128

#: (ids [B, 1], mask [B, 1, 1, L], positions [3, B, 1], cache) -> logits [B, V]
Step = Callable[[Tensor, Tensor, Tensor, Any], Tensor]


def main() -> int:
    """Measure and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1, 32, 128], help="rows of a batch (default: %(default)s)"
    )
    parser.add_argument("--tokens", type=int, default=20, help="tokens of each row (default: %(default)s)")
    parser.add_argument("--eager-only", action="store_true", help="compile nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = tiny_policy(is_long=False).eval()
    step = step_of(policy)
    for n_rows in options.rows:
        decode(policy, step, n_rows, options.tokens)
        eager = median(decode(policy, step, n_rows, options.tokens))
        print(f"{n_rows} rows  eager {1e3 * eager:.2f} ms", end="", flush=True)
        if not options.eager_only:
            print(compiled(policy, step, n_rows, options.tokens, eager), end="")
        print(flush=True)
    return 0


def step_of(policy: Policy) -> Step:
    """Make a decoding step of a policy."""
    language_model, head = policy.core.language_model, policy.causal.lm_head

    def step(ids_B1: Tensor, mask_B11L: Tensor, positions_3B1: Tensor, cache: Any) -> Tensor:
        output = language_model(
            input_ids=ids_B1, attention_mask=mask_B11L, position_ids=positions_3B1, cache=cache, use_cache=True
        )
        logits_BV: Tensor = head(output.last_hidden_state[:, 0])
        return logits_BV

    return step


@torch.no_grad()
def decode(policy: Policy, step: Step, n_rows: int, n_tokens: int) -> list[float]:
    """Processor seconds for each token."""
    cache = StaticCache(config=policy.core.config.text_config, max_cache_len=N_COLUMNS)
    ids_B1 = torch.full((n_rows, 1), 100)
    seconds = []
    for place in range(n_tokens):
        mask_B11L = torch.zeros(n_rows, 1, 1, N_COLUMNS)
        mask_B11L[..., place + 1 :] = -math.inf
        positions_3B1 = torch.full((3, n_rows, 1), place)
        began = time.process_time()
        step(ids_B1, mask_B11L, positions_3B1, cache)
        seconds.append(time.process_time() - began)
    return seconds


def compiled(policy: Policy, step: Step, n_rows: int, n_tokens: int, eager: float) -> str:
    """The cost and the gain of compiling, in words."""
    torch._dynamo.reset()
    torch._inductor.config.compile_threads = 1  # so that its compilers are children of this process
    faster: Step = torch.compile(step)
    began = sum(os.times()[:4])
    decode(policy, faster, n_rows, n_tokens)
    first = sum(os.times()[:4]) - began
    seconds = median(decode(policy, faster, n_rows, n_tokens))
    cost, gain = first - n_tokens * seconds, eager - seconds
    pays = f"pays after {cost / gain:.0f} steps" if gain > 0 else "never pays"
    return f"  compiled {1e3 * seconds:.2f} ms  compiling {cost:.1f} s  {pays}"


if __name__ == "__main__":
    raise SystemExit(main())
