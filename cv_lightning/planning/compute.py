"""FLOPs and seconds of a training step, by phase.

FLOPs are counted as by `torch.utils.flop_counter`: 2 per product and its sum, attention over all pairs of tokens,
nothing for norms and activations. Recomputed layers count again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cv_lightning.planning.model_size import PARTS, ModelSize
from cv_lightning.planning.workload import LARGE_VOCABULARY, Workload


@dataclass(frozen=True)
class Device:
    """The speed of a device.

    Attributes:
        flops_per_s: Peak in the dtype of the network's computation.
        bytes_per_s: Peak of its memory bandwidth.
        utilisation: Share of the peak FLOPs that a run reaches (MFU).
    """

    flops_per_s: float
    bytes_per_s: float
    utilisation: float


def forward_flops(size: ModelSize, work: Workload, images: int | None = None) -> dict[str, float]:
    """FLOPs of a sequence's forward pass, by `PARTS`, "attention" and "vision attention".

    Args:
        size: The model.
        work: The lengths.
        images: Number of images to encode; None for all images of a sequence.
    """
    text, vision = size.text, size.vision
    patches = work.patches * (work.images if images is None else images)
    rows = {
        "patches": patches,
        "vision": patches,
        "projector": patches / vision.spatial_merge_size**2,
        "language": work.tokens,
        "head": work.sampled,
    }
    flops: dict[str, float] = {part: 2.0 * size.parts[part].n_products * rows[part] for part in PARTS}
    flops["patches"] /= vision.temporal_patch_size  # a still image's frames are equal, so one product serves all
    flops["language"] -= 2.0 * _products_for_a_reader(size) * (work.tokens - work.sampled)
    per_pair = 4 * text.num_attention_heads * size.head_dim
    flops["attention"] = text.num_hidden_layers * per_pair * float(work.tokens) ** 2
    is_windowed = vision.model_type.startswith("qwen2_5")
    n_full = len(vision.fullatt_block_indexes) if is_windowed else vision.depth
    window = min(work.patches, (vision.window_size // vision.patch_size) ** 2) if is_windowed else 0
    pairs = n_full * work.patches + (vision.depth - n_full) * window
    flops["vision attention"] = 4.0 * vision.hidden_size * patches * pairs
    return flops


def _products_for_a_reader(size: ModelSize) -> int:
    """Products of the last layer that only tokens with a used output need; see `modules.policy.last_layer`."""
    text = size.text
    if text.num_hidden_layers <= len(getattr(size.vision, "deepstack_visual_indexes", ())):
        return 0
    return int(text.hidden_size * (text.num_attention_heads * size.head_dim + 3 * text.intermediate_size))


def update_flops(size: ModelSize, work: Workload) -> float:
    """FLOPs of a sequence's forward and backward pass."""
    text, forward = size.text, forward_flops(size, work)
    total = sum(forward.values())
    attention = {"vision": "vision attention", "language": "attention"}
    has_gradient = False
    for name in PARTS:
        part = size.parts[name]
        share = part.n_trained_products / part.n_products if part.n_products else 0.0
        total += share * forward[name]  # gradients of weights
        # Gradients of the input, which patches themselves do not need.
        passes = (has_gradient or part.n_trained > 0) and name != "patches"
        if name == "language" and size.is_lora and not has_gradient:
            # Nothing before the first layer is trained, so its queries, keys and values pass no gradient back.
            width = (text.num_attention_heads + 2 * text.num_key_value_heads) * size.head_dim
            total -= 2.0 * text.hidden_size * width * work.tokens
            if not size.trains_keys:  # its keys need no gradient either: one of attention's two products
                total -= forward["attention"] / text.num_hidden_layers / 2
        has_gradient = has_gradient or part.n_trained > 0
        if not passes:
            continue
        total += forward[name]
        total += 2 * forward.get(attention.get(name, ""), 0.0)
        if work.gradient_checkpointing and name in attention:
            total += forward[name] + forward[attention[name]]
        if name == "head" and size.text.vocab_size > LARGE_VOCABULARY:
            total += forward[name]
    return total


def step_flops(size: ModelSize, work: Workload) -> dict[str, float]:
    """FLOPs of a training step on one device: "rollout", "score" (the reference) and "update"."""
    flops = {"update": work.epochs * work.sequences * update_flops(size, work)}
    if work.has_reference:
        flops["score"] = work.sequences * sum(forward_flops(size, work).values())
    if work.group_size:
        own = work.sequences * sum(forward_flops(size, work, work.images - 1).values())
        first = forward_flops(size, work, 1)  # the question's image is encoded once for its group
        of_images = sum(first[name] for name in ("patches", "vision", "projector", "vision attention"))
        flops["rollout"] = own + work.batch_size * of_images
    return flops


def step_seconds(size: ModelSize, work: Workload, device: Device) -> dict[str, float]:
    """Seconds of each phase; see `step_flops`.

    Sampling is limited by memory bandwidth. Each decoding step reads all weights of the language model, once for all
    rows that are sampled together, and on average half of the final cache. The result is a lower bound: communication
    between devices is not counted.
    """
    seconds = {
        phase: flops / (device.flops_per_s * device.utilisation) for phase, flops in step_flops(size, work).items()
    }
    if work.group_size:
        weights = size.compute_bytes * sum(size.parts[name].n_products for name in ("language", "head"))
        cache = work.sequences * work.tokens * size.cache_bytes_per_token / 2
        passes = math.ceil(work.sequences / work.sampled_together)
        seconds["rollout"] = max(seconds["rollout"], work.sampled * (passes * weights + cache) / device.bytes_per_s)
    return seconds
