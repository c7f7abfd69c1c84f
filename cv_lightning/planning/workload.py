"""What a config asks of a device in one training step, as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from cv_lightning.planning.model_size import ModelSize

#: Rows of logits that a policy computes at a time, those of a large vocabulary, and the vocabulary from which on it
#: computes them again in the backward pass (see `modules.policy.policy`).
LOGIT_ROWS = 4096
LARGE_VOCABULARY_ROWS = 1024
LARGE_VOCABULARY = 8192


@dataclass(frozen=True)
class Workload:
    """A training step of one device.

    Attributes:
        devices: Devices of the run.
        strategy: Lightning's name of the strategy.
        shards: Devices that hold a share of every weight each; 1 if each holds all of them.
        has_replica: Whether rollouts are sampled by a whole copy beside the shards.
        keeps_whole_gradients: Whether each device sums up whole gradients before they are exchanged and sharded.
        batch_size: Prompts, or recorded conversations.
        group_size: Trajectories of each prompt; 0 if nothing is rolled out (SFT).
        sequences_at_once: Trajectories that are sampled together; 0 for all of a step.
        micro_batch_tokens: Tokens of a forward pass of the update; 0 for those of an optimizer step.
        epochs: Passes of the update over the sequences.
        optimizer_steps: Optimizer steps of a training step.
        has_reference: Whether log-probabilities of a reference policy are taken.
        gradient_checkpointing: Whether layers are computed again in the backward pass.
        tokens: Tokens of a sequence.
        sampled: Tokens of it that are trained; RL samples them first.
        images: Images of a sequence.
        patches: Patches of an image.
        max_steps: Optimizer steps of the run; None if it has no end.
        optimizer: Name of the optimizer.
        has_accelerator: False on a CPU, where an optimizer needs no copies.
        engine_bytes: What an engine that samples takes of each device in rollouts, 0 if it has devices of its own; None
            if the policy or a replica samples.
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
        """Trajectories whose keys and values are held at once: whole groups, unless one alone is larger."""
        at_once = self.sequences_at_once
        if not self.group_size or not at_once or at_once >= self.batch_size * self.group_size:
            return self.batch_size * self.group_size
        return min(at_once, max(1, at_once // self.group_size) * self.group_size)

    @property
    def samples_here(self) -> bool:
        """Whether the trainer's own process computes rollouts."""
        return self.group_size > 0 and self.engine_bytes is None

    @property
    def is_sharded(self) -> bool:
        """Whether a device holds a share of the weights."""
        return self.shards > 1

    @property
    def has_buckets(self) -> bool:
        """Whether DDP copies gradients into buckets of the same size."""
        return self.devices > 1 and not self.is_sharded

    def sharded(self) -> Workload:
        """The same step with a share of the weights on each device, as `experiments/sharded.yaml` makes it."""
        has_replica = self.group_size > 0 and self.engine_bytes is None
        return replace(self, shards=self.devices, has_replica=has_replica, keeps_whole_gradients=True)

    @property
    def rows(self) -> int:
        """Sequences of a forward pass of the update, if no two share a prompt."""
        per_step = math.ceil(self.sequences * self.epochs / self.optimizer_steps)
        return min(max(1, self.micro_batch_tokens // self.tokens), per_step) if self.micro_batch_tokens else per_step

    def with_tokens(self, tokens: int, size: ModelSize) -> Workload:
        """The same step with other sequence lengths: images that no longer fit go first, then sampled tokens."""
        per_image = self.patches // size.vision.spatial_merge_size**2
        images = min(self.images, max(1, tokens // (2 * max(1, per_image))))
        sampled = min(self.sampled, max(1, tokens - images * per_image))
        return replace(self, tokens=tokens, images=images, sampled=sampled)


def patches_of_image(source: Any, max_pixels: int, size: ModelSize) -> int:
    """Patches of the largest image: of the questions, if their source says how large they are, or of `max_pixels`.

    Args:
        source: The `init_args` of the data's source.
        max_pixels: Pixels to which larger images are reduced.
        size: The model.
    """
    side = size.vision.patch_size * size.vision.spatial_merge_size
    width, height = (source.get(name) for name in ("width", "height"))
    known = isinstance(width, int) and isinstance(height, int)
    pixels = min(max_pixels, width * height) if known else max_pixels
    return int(max(1, pixels // side**2) * size.vision.spatial_merge_size**2)
