"""Processor time of each turn of a conversation: as many new tokens in every turn, in a context that grows.

    python benchmarks/turns.py [--rows 32] [--turns 8] [--repeats 5]

Each turn reads an observation with an image of 9 tokens and writes 16 tokens, which are drawn and then replaced, so
that no turn ends early. The tiny policy has random weights. Printed are the medians of the repeats, and the last turn
by the first one that has a context.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # this folder leaves the path: benchmarks/sandbox.py is no package

import argparse  # noqa: E402
import time  # noqa: E402
from statistics import median  # noqa: E402

import torch  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.training_cases import ScriptedSession  # noqa: E402
from cv_lightning.rollout import Sampling  # noqa: E402
from cv_lightning.types import Sample, ViewedImage  # noqa: E402
from modules.policy.policy import Policy  # noqa: E402
from modules.policy.tiny import TinyConfig  # noqa: E402

N_NEW, WORD = 16, 100


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32, help="conversations (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=8, help="of each (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="that count (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = Policy(build=TinyConfig(), system_prompt="Read.", min_pixels=784, max_pixels=7056, max_context_tokens=4000)
    runs = [turns_of(policy, options.rows, options.turns) for _ in range(options.repeats + 1)][1:]
    medians = [median(seconds) for seconds in zip(*runs, strict=True)]
    print("s of a turn:", *(f"{seconds:.3f}" for seconds in medians))
    print(f"last by second: {medians[-1] / medians[1]:.2f}")
    return 0


def turns_of(policy: Policy, n_rows: int, n_turns: int) -> list[float]:
    """Processor seconds of each turn."""
    images = [Image.effect_noise((84, 84), 60).convert("RGB") for _ in range(n_turns)]
    sample = Sample("0", "Read.", (images[0],), "x")
    contexts = [policy.conversation.start(sample) for _ in range(n_rows)]
    end = policy.conversation.end_of_turn_id
    scripts = [[[*[WORD] * (N_NEW - 1), end] for _ in range(n_turns)] for _ in contexts]
    session = ScriptedSession(policy, Sampling(1.0, N_NEW), None, scripts)
    seconds = []
    for image in images:
        began = time.process_time()
        completions = session.sample(contexts)
        seconds.append(time.process_time() - began)
        for context, completion in zip(contexts, completions, strict=True):
            context.append(completion.ids, is_trained=True, logprobs=completion.logprobs)
            if not policy.conversation.append_observation(context, "", ViewedImage(image)):
                raise RuntimeError("the context is full")
    return seconds


if __name__ == "__main__":
    raise SystemExit(main())
