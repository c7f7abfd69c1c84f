"""Qwen's vision-language models and their differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from modules.policy.family import Family

if TYPE_CHECKING:
    from modules.policy.tiny import TinyConfig

#: Number of learned positions in a small model's vision tower, which form a square.
_VISION_PLACES = 256


def mrope_section(rotated: int) -> list[int]:
    """Split of the rotary frequencies over time, height and width, in the ratio 2 : 3 : 3 of the large models.

    Args:
        rotated: Features of a head that are rotated.
    """
    half = rotated // 2
    height = half * 3 // 8
    return [half - 2 * height, height, height]


def rope(rotated: int, **others: Any) -> dict[str, Any]:
    """Rotary positions of a small model; see `mrope_section`."""
    return {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": mrope_section(rotated),
            **others,
        }
    }


def _qwen3_vl_text(size: TinyConfig) -> dict[str, Any]:
    return {**rope(size.head_dim, mrope_interleaved=True), "head_dim": size.head_dim}


def _qwen3_5_text(size: TinyConfig) -> dict[str, Any]:
    """Every fourth layer has attention (the last layer in a very small model), and half of each head is rotated."""
    interval = min(4, size.layers)
    return {
        **rope(size.head_dim // 2, mrope_interleaved=True, partial_rotary_factor=0.5),
        "head_dim": size.head_dim,
        "layer_types": [
            "linear_attention" if (layer + 1) % interval else "full_attention" for layer in range(size.layers)
        ],
        "linear_key_head_dim": size.head_dim,
        "linear_value_head_dim": size.head_dim,
        "linear_num_key_heads": size.kv_heads,
        "linear_num_value_heads": size.heads,
    }


QWEN2_5_VL = Family(
    config=Qwen2_5_VLConfig,
    model=Qwen2_5_VLForConditionalGeneration,
    image_mean=(0.48145466, 0.4578275, 0.40821073),  # CLIP's
    image_std=(0.26862954, 0.26130258, 0.27577711),
    text=lambda size: rope(size.head_dim),
    vision=lambda size: {"fullatt_block_indexes": list(range(size.vision_layers))},  # no layer sees windows only
)

QWEN3_VL = Family(
    config=Qwen3VLConfig,
    model=Qwen3VLForConditionalGeneration,
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
    text=_qwen3_vl_text,
    vision=lambda size: {"num_position_embeddings": _VISION_PLACES, "deepstack_visual_indexes": [0, 1]},
)

#: Most layers are recurrent; see `modules.policy.recurrence`.
QWEN3_5 = Family(
    config=Qwen3_5Config,
    model=Qwen3_5ForConditionalGeneration,
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
    text=_qwen3_5_text,
    vision=lambda size: {"num_position_embeddings": _VISION_PLACES},
)
