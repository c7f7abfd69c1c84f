"""Workloads of real batches of small policies."""

from __future__ import annotations

from dataclasses import replace

from cv_lightning.planning.workload import Workload
from cv_lightning.types import Sample
from modules.policy.policy import Policy
from modules.policy.token_batch import TokenBatch
from tests.modules.helpers import FAMILIES, noise

#: The families whose layers a plan counts.
COUNTED = [family for family in FAMILIES if family != "qwen3_5"]

WORK = Workload(
    devices=1,
    strategy="auto",
    shards=1,
    has_replica=False,
    keeps_whole_gradients=False,
    batch_size=1,
    group_size=0,
    sequences_at_once=0,
    micro_batch_tokens=1,
    epochs=1,
    optimizer_steps=1,
    has_reference=False,
    gradient_checkpointing=False,
    tokens=1000,
    sampled=500,
    images=1,
    patches=64,
    max_steps=None,
    optimizer="adamw",
    has_accelerator=False,
)


def workload_of(
    policy: Policy, n_sampled: int = 200, image: tuple[int, int] = (112, 112)
) -> tuple[Workload, TokenBatch]:
    """The workload of one sequence with an image, and its batch."""
    sequence = policy.conversation.start(Sample("a", "Read the text.", (noise(*image),), "x"))
    sequence.append([20] * n_sampled, is_trained=True)
    _, height, width = policy.image_grid(image)
    work = replace(WORK, tokens=len(sequence), sampled=n_sampled, patches=height * width)
    return work, policy.collate([sequence])
