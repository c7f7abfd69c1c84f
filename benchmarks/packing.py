"""Forward and backward pass of an update: packed rows with shared prompts against padded sequences, in pairs.

    python benchmarks/packing.py [--repeats 5] [--cases sft long] [--json runs/benchmarks/packing.json]

Both sides compute the same sequences within the same token budget, alternately, on one thread. The ratio is the padded
time divided by the packed time, as the median over the repeats. It uses processor time, which other work on the machine
does not stretch; wall time is printed too. The tiny policy has random weights. Conversations are those of the tiny
world's oracle. The rollouts of a group have the oracle's lengths but other tokens; in some cases only a share of them
is distinct. The case "long" has prompts of about 1,000 tokens, nearly all of the image, and replies of 300. The
gradients of both sides are compared first.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # this folder leaves the path: benchmarks/sandbox.py is no package

import argparse  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import random  # noqa: E402
import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

from benchmarks.training_cases import SFT_MIX, long_question, recorded_episodes, tiny_policy  # noqa: E402
from cv_lightning.types import TokenSequence  # noqa: E402
from modules.learned_sequences import distinct_sequences  # noqa: E402
from modules.policy.micro_batches import packed_micro_batches, padded_micro_batches  # noqa: E402
from modules.policy.policy import Policy  # noqa: E402

BUDGET = 4000
#: Number of prompts, of rollouts per prompt, and of distinct rollouts per prompt.
CASES = {"sft": (64, 1, 1), "16x8": (16, 8, 8), "32x4": (32, 4, 4), "32x4 half equal": (32, 4, 2), "long": (1, 8, 8)}


def main() -> int:
    """Measure, print, and write JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="passes of each side (default: %(default)s)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES], help="cases to measure (default: all)")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name in options.cases:
        found[name] = measure(*conversations(name), options.repeats)
        print(name, *(f"{key} {value:.3g}" for key, value in found[name].items()), sep="  ", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"torch": torch.__version__, "cases": found}, indent=1) + "\n")
    return 0


def conversations(name: str) -> tuple[Policy, list[TokenSequence]]:
    """A policy, and the sequences that it learns from in one step."""
    n_prompts, group_size, n_distinct = CASES[name]
    policy = tiny_policy(is_long=name == "long")
    generator = random.Random(0)
    if name == "long":
        prompt = policy.conversation.start(long_question("0"))
        replies = [prompt.copy() for _ in range(group_size)]
        for reply in replies:
            ids = [generator.randrange(30, 300) for _ in range(300)]
            reply.append(ids, is_trained=True, logprobs=[-1.0] * len(ids))
        return policy, replies
    found = []
    for episode in recorded_episodes(policy, n_prompts, SFT_MIX):
        first = episode.tokens
        others = [_rewritten(first, generator) for _ in range(n_distinct - 1)]
        found += [*itertools.islice(itertools.cycle([first, *others]), group_size)]
    return policy, [each.tokens for each in distinct_sequences(found, [1.0] * len(found))]


def _rewritten(sequence: TokenSequence, generator: random.Random) -> TokenSequence:
    """A sequence with the same lengths and images, but other sampled tokens."""
    other = sequence.copy()
    for place, is_trained in enumerate(other.is_trained):
        if is_trained:
            other.ids[place] = generator.randrange(30, 300)
    return other


def measure(policy: Policy, sequences: Sequence[TokenSequence], repeats: int) -> dict[str, float]:
    """Seconds and tokens of both sides, their ratio, and how far their gradients differ."""
    sides = {
        "padded": (policy.collate, padded_micro_batches(sequences, BUDGET)),
        "packed": (policy.pack, packed_micro_batches(sequences, BUDGET, policy.core.config.image_token_id)),
    }
    gradients, n_computed = {}, {}
    for side, (make, parts) in sides.items():
        _run(policy, sequences, make, parts)
        gradients[side] = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
        n_computed[side] = sum(make([sequences[i] for i in part]).n_computed for part in parts)
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _, (side, (make, parts)) in itertools.product(range(repeats), sides.items()):
        seconds[side].append(_run(policy, sequences, make, parts))
    largest = float(gradients["padded"].abs().max())
    return {
        "distinct sequences": len(sequences),
        "padded tokens": n_computed["padded"],
        "packed tokens": n_computed["packed"],
        "padded s": median(wall for _, wall in seconds["padded"]),
        "packed s": median(wall for _, wall in seconds["packed"]),
        "ratio": median(a / b for (a, _), (b, _) in zip(seconds["padded"], seconds["packed"], strict=True)),
        "gradient difference": float((gradients["padded"] - gradients["packed"]).abs().max()) / largest,
    }


def _run(
    policy: Policy, sequences: Sequence[TokenSequence], make: Any, parts: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """Processor and wall seconds of one pass."""
    policy.zero_grad()
    began, started = time.process_time(), time.perf_counter()
    for part in parts:
        policy(make([sequences[index] for index in part]), entropy="none")[0].sum().backward()
    return time.process_time() - began, time.perf_counter() - started


if __name__ == "__main__":
    raise SystemExit(main())
