"""Processor time of each turn of a conversation: the same number of new tokens per turn, in a growing context.

    python benchmarks/turns.py [--rows 32] [--turns 8] [--spread 0] [--repeats 5]

Each turn reads an observation with an image of 9 tokens and writes 16 tokens, which are sampled and then replaced. With
`--spread 12`, replies have 4 to 28 tokens, with the same lengths in every turn, so that rows leave the batch one after
another. The tiny policy has random weights. The output has medians and minima over the repeats, the same for attention,
and the ratio of the last turn to the first one that has a context.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # this folder leaves the path: benchmarks/sandbox.py is no package

import argparse  # noqa: E402
import random  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.nn import functional  # noqa: E402

from benchmarks.training_cases import ScriptedSession  # noqa: E402
from cv_lightning.rollout import Sampling  # noqa: E402
from cv_lightning.types import Sample, ViewedImage  # noqa: E402
from modules.host_memory import keep_freed_memory  # noqa: E402
from modules.policy.policy import Policy  # noqa: E402
from modules.policy.tiny import TinyConfig  # noqa: E402

N_NEW, WORD = 16, 100


def main() -> int:
    """Measure and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32, help="conversations (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=8, help="turns of each conversation (default: %(default)s)")
    parser.add_argument(
        "--spread", type=int, default=0, help=f"spread of replies around {N_NEW} tokens (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="repeats that count (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as in training
    policy = Policy(build=TinyConfig(), system_prompt="Read.", min_pixels=784, max_pixels=7056, max_context_tokens=4000)
    sizes = options.rows, options.turns, options.spread
    runs = [turns_of(policy, *sizes) for _ in range(options.repeats + 1)][1:]
    turns = [zip(*turn, strict=True) for turn in zip(*runs, strict=True)]
    wholes, attentions = zip(*turns, strict=True)
    for name, of_repeats in (("median", median), ("least", min)):
        seconds = [of_repeats(whole) for whole in wholes]
        print(f"{name} s of a turn:", *(f"{each:.3f}" for each in seconds), end="  ")
        print("attention:", *(f"{of_repeats(attention):.3f}" for attention in attentions), end="  ")
        print(f"last by second: {seconds[-1] / seconds[1]:.2f}")
    return 0


def turns_of(policy: Policy, n_rows: int, n_turns: int, spread: int) -> list[tuple[float, float]]:
    """Processor seconds of each turn, in total and for attention."""
    images = [Image.effect_noise((84, 84), 60).convert("RGB") for _ in range(n_turns)]
    sample = Sample("0", "Read.", (images[0],), "x")
    contexts = [policy.conversation.start(sample) for _ in range(n_rows)]
    end = policy.conversation.end_of_turn_id
    lengths = [N_NEW - spread + 2 * spread * row // max(1, n_rows - 1) for row in range(n_rows)]
    generator = random.Random(0)
    of_turns = [generator.sample(lengths, n_rows) for _ in images]
    scripts = [[[*[WORD] * (length - 1), end] for length in of_row] for of_row in zip(*of_turns, strict=True)]
    session = ScriptedSession(policy, Sampling(1.0, max(lengths)), None, scripts)
    seconds = []
    for image in images:
        began = time.process_time()
        with attention_timed() as attention:
            completions = session.sample(contexts)
        seconds.append((time.process_time() - began, sum(attention)))
        for context, completion in zip(contexts, completions, strict=True):
            context.append(completion.ids, is_trained=True, logprobs=completion.logprobs)
            if not policy.conversation.append_observation(context, "", ViewedImage(image)):
                raise RuntimeError("the context is full")
    return seconds


@contextmanager
def attention_timed() -> Iterator[list[float]]:
    """Collect the processor seconds of each scaled dot product in this context."""
    seconds: list[float] = []
    plain = functional.scaled_dot_product_attention

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        result = plain(*args, **kwargs)
        seconds.append(time.process_time() - began)
        return result

    functional.scaled_dot_product_attention = timed
    try:
        yield seconds
    finally:
        functional.scaled_dot_product_attention = plain


if __name__ == "__main__":
    raise SystemExit(main())
