"""The work of one training step on a device, in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from cv_lightning.planning.model_size import ModelSize

#: Rows of logits that a policy computes at a time, the same for a large vocabulary, and the size from which a
#: vocabulary is large and its logits are recomputed in the backward pass (see `modules.policy.policy`).
LOGIT_ROWS = 4096
LARGE_VOCABULARY_ROWS = 1024
LARGE_VOCABULARY = 8192


@dataclass(frozen=True)
class Workload:
    """A training step on one device.

    Attributes:
        devices: Number of devices of the run.
        strategy: Lightning's name of the strategy.
        shards: Number of devices among which every weight is split; 1 if each device holds all weights.
        has_replica: Whether a whole copy of the policy, in addition to the shards, samples rollouts.
        keeps_whole_gradients: Whether each device accumulates whole gradients before they are exchanged and sharded.
        batch_size: Number of prompts, or of recorded conversations.
        group_size: Number of trajectories per prompt; 0 without rollouts (SFT).
        sequences_at_once: Number of trajectories that are sampled together; 0 for all of a step.
        micro_batch_tokens: Tokens of a forward pass of the update; 0 for all tokens of an optimizer step.
        epochs: Passes of the update over the sequences.
        optimizer_steps: Optimizer steps of a training step.
        has_reference: Whether a reference policy computes log-probabilities.
        gradient_checkpointing: Whether layers are recomputed in the backward pass.
        tokens: Tokens of a sequence.
        sampled: Trained tokens of a sequence; RL samples them first.
        images: Images of a sequence.
        patches: Patches of an image.
        max_steps: Optimizer steps of the run; None if it has no end.
        optimizer: Name of the optimizer.
        has_accelerator: False on a CPU, where an optimizer needs no copies.
        engine_bytes: Bytes that a sampling engine uses on each device during rollouts, 0 if the engine has its own
            devices; None if the policy or a replica samples.
    """

    devices: int
    strategy: str
    shards: int
    has_replica: bool
    keeps_whole_gradients: bool
    batch_size: int
    group_size: int
    sequences_at_once: int
    micro_batch_tokens: int
    epochs: int
    optimizer_steps: int
    has_reference: bool
    gradient_checkpointing: bool
    tokens: int
    sampled: int
    images: int
    patches: int
    max_steps: int | None
    optimizer: str
    has_accelerator: bool
    engine_bytes: int | None = None

    @property
    def sequences(self) -> int:
        """Sequences of a step."""
        return self.batch_size * max(1, self.group_size)

    @property
    def sampled_together(self) -> int:
        """Trajectories whose keys and values are held at once: whole groups, or a part of one that is too large."""
        at_once = self.sequences_at_once
        if not self.group_size or not at_once or at_once >= self.batch_size * self.group_size:
            return self.batch_size * self.group_size
        return min(at_once, max(1, at_once // self.group_size) * self.group_size)

    @property
    def samples_here(self) -> bool:
        """Whether the trainer's own process computes the rollouts."""
        return self.group_size > 0 and self.engine_bytes is None

    @property
    def is_sharded(self) -> bool:
        """Whether each device holds only a share of the weights."""
        return self.shards > 1

    @property
    def has_buckets(self) -> bool:
        """Whether DDP copies gradients to buckets of the same size."""
        return self.devices > 1 and not self.is_sharded

    def sharded(self) -> Workload:
        """The same step with weights sharded over all devices, as by `experiments/sharded.yaml`."""
        has_replica = self.group_size > 0 and self.engine_bytes is None
        return replace(self, shards=self.devices, has_replica=has_replica, keeps_whole_gradients=True)

    @property
    def rows(self) -> int:
        """Sequences of a forward pass of the update, assuming that no two share a prompt."""
        per_step = math.ceil(self.sequences * self.epochs / self.optimizer_steps)
        return min(max(1, self.micro_batch_tokens // self.tokens), per_step) if self.micro_batch_tokens else per_step

    def with_tokens(self, tokens: int, size: ModelSize) -> Workload:
        """The same step with another sequence length: images that do not fit are dropped first, then sampled tokens."""
        per_image = self.patches // size.vision.spatial_merge_size**2
        images = min(self.images, max(1, tokens // (2 * max(1, per_image))))
        sampled = min(self.sampled, max(1, tokens - images * per_image))
        return replace(self, tokens=tokens, images=images, sampled=sampled)


def patches_of_image(source: Any, max_pixels: int, size: ModelSize) -> int:
    """Patches of the largest image: from the question's size if the source gives it, otherwise from `max_pixels`.

    Args:
        source: The `init_args` of the data's source.
        max_pixels: Larger images are reduced to this many pixels.
        size: The model.
    """
    side = size.vision.patch_size * size.vision.spatial_merge_size
    width, height = (source.get(name) for name in ("width", "height"))
    known = isinstance(width, int) and isinstance(height, int)
    pixels = min(max_pixels, width * height) if known else max_pixels
    return int(max(1, pixels // side**2) * size.vision.spatial_merge_size**2)
