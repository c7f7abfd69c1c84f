"""Bytes on a device, by part and by phase of a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cv_lightning.planning.model_size import ModelSize
from cv_lightning.planning.workload import LARGE_VOCABULARY, LARGE_VOCABULARY_ROWS, LOGIT_ROWS, Workload

#: Float32 copies of a block of logits that exist at once: masked, log-softmax, its exponential, a product.
LOGIT_COPIES = 4
#: Share of the memory for an accelerator's context, the communication library and fragmentation.
RESERVED = 0.06


@dataclass(frozen=True)
class Memory:
    """Bytes on a device.

    Attributes:
        parts: Largest size of each part, by name.
        phases: Bytes of all parts that exist at once, by phase: "rollout", "score", "update", "optimizer step".
        of_batch: The bytes in each phase that depend on batches and lengths.
    """

    parts: dict[str, int]
    phases: dict[str, int]
    of_batch: dict[str, int]

    @property
    def peak(self) -> int:
        """Bytes in the largest phase."""
        return max(self.phases.values())

    @property
    def states(self) -> int:
        """Bytes that do not depend on batches and lengths."""
        return sum(self.parts[name] for name in (*_STATES, "weights", "gradients"))


def memory(size: ModelSize, work: Workload) -> Memory:
    """Memory of a training step on each device."""
    share = _shares(work.shards)
    is_rounded = size.master_bytes > size.n_trained * size.compute_bytes and not work.is_sharded
    parts = {
        "weights": share(size.frozen_bytes) + (size.n_trained * size.compute_bytes if is_rounded else 0),
        "masters": share(size.master_bytes),
        "optimizer states": share(size.optimizer_bytes),
        "gradients": size.master_bytes if work.keeps_whole_gradients else share(size.master_bytes),
        "gradient buckets": size.master_bytes if work.has_buckets else 0,
        "gathered layers": gathered_bytes(size) if work.is_sharded else 0,
        "reference": share(size.n * size.compute_bytes) if work.has_reference and not size.is_lora else 0,
        "replica": size.n * size.compute_bytes if work.has_replica else 0,
        "engine": work.engine_bytes or 0,
        "KV cache": work.samples_here * work.sampled_together * work.tokens * size.cache_bytes_per_token,
        "activations": activation_bytes(size, work),
        "logits": logit_bytes(size, work),
        "activations, rollout": rollout_bytes(size, work) if work.samples_here else 0,
        "optimizer's copies": share(size.master_bytes) if work.optimizer == "adamw" and work.has_accelerator else 0,
    }
    of_batch = {"update": parts["activations"] + parts["logits"] + parts["gathered layers"]}
    if work.has_reference:
        of_layers = work.rows * work.tokens * size.layer_bytes_per_token()
        of_batch["score"] = of_layers + parts["logits"] + parts["gathered layers"]
    if work.group_size:
        of_batch["rollout"] = parts["KV cache"] + parts["activations, rollout"]
    held = sum(parts[name] for name in _STATES)
    phases = {name: held + parts["weights"] + n_bytes for name, n_bytes in of_batch.items()}
    phases["update"] += parts["gradients"]
    if work.group_size:
        phases["rollout"] += parts["replica"] + parts["engine"]  # freed before the update
    phases["optimizer step"] = held + share(size.frozen_bytes) + parts["gradients"] + parts["optimizer's copies"]
    return Memory(parts, phases, of_batch)


#: Parts that exist for the whole step.
_STATES = ("masters", "optimizer states", "gradient buckets", "reference")


def _shares(shards: int) -> Callable[[int], int]:
    """Bytes of a device's share. FSDP2 splits the first axis of each tensor; remainders of rows are not counted."""
    return lambda n_bytes: -(-n_bytes // shards)


def gathered_bytes(size: ModelSize) -> int:
    """Bytes of whole layers on a device: the root, the current layer and the next; gradients of the root and one layer.

    A gradient exists in the dtype of the computation and also in float32 while ranks sum it.
    """
    weights = size.root + 2 * size.largest_layer
    return size.compute_bytes * weights + (size.compute_bytes + 4) * (size.root + size.largest_layer)


def activation_bytes(size: ModelSize, work: Workload) -> int:
    """Bytes that a forward pass keeps for the backward pass, including one recomputed layer."""
    layers, hidden = size.text.num_hidden_layers, size.text.hidden_size
    last_norm = size.norm_bytes * hidden
    per_token = layers * size.layer_bytes_per_token()
    if work.gradient_checkpointing:
        per_token = layers * hidden * size.compute_bytes + size.layer_bytes_per_token()
    return int(work.rows * work.tokens * (per_token + last_norm)) + _vision_bytes(size, work, work.rows * work.images)


def _vision_bytes(size: ModelSize, work: Workload, images: int) -> int:
    """Bytes of the vision tower (all blocks if it is trained, otherwise one block at a time), pixels and mergers."""
    vision, n_bytes = size.vision, size.compute_bytes
    block = size.block_bytes_per_patch()
    pixels = n_bytes * vision.in_channels * vision.patch_size**2  # of one frame: those of a still image are equal
    mergers = (1 + len(getattr(vision, "deepstack_visual_indexes", ()))) * (4 + 4 * n_bytes) * vision.hidden_size
    kept = vision.depth * block
    if not (size.parts["vision"].n_trained or size.parts["patches"].n_trained):
        kept = block
    elif work.gradient_checkpointing:
        kept = vision.depth * vision.hidden_size * n_bytes + block
    return int(images * work.patches * (kept + pixels + mergers))


def logit_bytes(size: ModelSize, work: Workload) -> int:
    """Bytes of logits and of the loss's intermediate results."""
    rows = work.rows * work.sampled
    if size.text.vocab_size > LARGE_VOCABULARY:
        at_once = LOGIT_COPIES * min(rows, LARGE_VOCABULARY_ROWS)
    else:
        at_once = LOGIT_COPIES * min(rows, LOGIT_ROWS) + rows  # the log-softmax of all rows is kept
    return int(4 * size.text.vocab_size * at_once)


def rollout_bytes(size: ModelSize, work: Workload) -> int:
    """Bytes besides the cache when all rows read an image at once, the largest single pass of a rollout.

    Rows of different lengths need a mask, and then keys and values of a layer are repeated for every head.
    """
    text = size.text
    new = work.patches // size.vision.spatial_merge_size**2
    repeats = text.num_attention_heads != text.num_key_value_heads
    repeated = 2 * text.num_attention_heads * size.head_dim * size.compute_bytes * work.tokens * repeats
    mask = (1 + size.compute_bytes) * new * work.tokens
    images = _vision_bytes(size, work, 1)
    logits = 4 * LOGIT_COPIES * text.vocab_size
    return int(work.sampled_together * (repeated + mask + new * size.layer_bytes_per_token() + images + logits))
