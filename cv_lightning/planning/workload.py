"""What a config asks of a device in one training step, as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from cv_lightning.planning.model_size import ModelSize

#: Rows of logits that a policy computes at a time, and the vocabulary from which on it computes them again in the
#: backward pass (see `modules.policy.policy`).
LOGIT_ROWS = 4096
LARGE_VOCABULARY = 8192


@dataclass(frozen=True)
class Workload:
    """A training step of one device.

    Attributes:
        devices: Devices of the run.
        strategy: Lightning's name of the strategy.
        batch_size: Prompts, or recorded conversations.
        group_size: Trajectories of each prompt; 0 if nothing is rolled out (SFT).
        micro_batch_size: Sequences of a forward pass.
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
    """

    devices: int
    strategy: str
    batch_size: int
    group_size: int
    micro_batch_size: int
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

    @property
    def sequences(self) -> int:
        """Sequences of a step; in RL all of them are sampled together."""
        return self.batch_size * max(1, self.group_size)

    @property
    def exchanges_gradients(self) -> bool:
        """Whether DDP copies gradients into buckets of the same size."""
        return self.devices > 1

    @property
    def rows(self) -> int:
        """Sequences of a forward pass of the update."""
        per_step = math.ceil(self.sequences * self.epochs / self.optimizer_steps)
        return min(self.micro_batch_size or per_step, per_step)

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
