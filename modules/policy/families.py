"""The models that a policy can be: everything in which Qwen2.5-VL and Qwen3-VL differ, and how both are called."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Attributes:
        config: Hugging Face's class of its configuration.
        model: Hugging Face's class of the model with its language head.
        image_mean: Mean of each channel that images are normalised with, if a folder does not say.
        image_std: Standard deviation, likewise.
        rotary: Settings of its rotary positions, beside the split that all families have.
        vision: Settings of the vision tower of a small model, by its number of layers.
        names_head_dim: Whether its text configuration gives the width of a head.
    """

    config: Any
    model: Any
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    rotary: dict[str, Any]
    vision: Callable[[int], dict[str, Any]]
    names_head_dim: bool


#: By Hugging Face's `model_type`.
FAMILIES = {
    "qwen2_5_vl": Family(
        config=Qwen2_5_VLConfig,
        model=Qwen2_5_VLForConditionalGeneration,
        image_mean=(0.48145466, 0.4578275, 0.40821073),  # CLIP's
        image_std=(0.26862954, 0.26130258, 0.27577711),
        rotary={},
        vision=lambda layers: {"fullatt_block_indexes": list(range(layers))},  # no layer sees windows only
        names_head_dim=False,
    ),
    "qwen3_vl": Family(
        config=Qwen3VLConfig,
        model=Qwen3VLForConditionalGeneration,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        rotary={"mrope_interleaved": True},
        vision=lambda layers: {"num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1]},
        names_head_dim=True,
    ),
}


def image_processor(config: Any, source: str | None, min_pixels: int, max_pixels: int) -> Qwen2VLImageProcessorPil:
    """The image processor of a model, without torchvision: both families use that of Qwen2-VL.

    Args:
        config: Hugging Face's configuration of the model.
        source: Folder or hub name that may hold the normalisation; None takes the family's.
        min_pixels: Smaller images are enlarged to this many pixels.
        max_pixels: Larger images are reduced to this many pixels.
    """
    vision, family = config.vision_config, FAMILIES[config.model_type]
    mean, std = family.image_mean, family.image_std
    if source is not None:
        try:
            saved = Qwen2VLImageProcessorPil.from_pretrained(source)
            mean, std = saved.image_mean, saved.image_std
        except OSError:
            warnings.warn(
                f"{source!r} holds no preprocessor_config.json: using the family's normalisation.", stacklevel=2
            )
    return Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        size={"shortest_edge": min_pixels, "longest_edge": max_pixels},
        image_mean=list(mean),
        image_std=list(std),
    )


def positions(core: Any, input_ids_BT: Tensor, is_valid_BT: Tensor, grid_O3: Tensor | None) -> Tensor:
    """mRoPE positions [3, B, T]: time, row and column of a token; for text all three are equal.

    Args:
        core: The model without its language head.
        input_ids_BT: Token ids [B, T].
        is_valid_BT: True where a token is not padding [B, T].
        grid_O3: Grids (time, height, width) in patches, one per image placeholder run in reading order [O, 3].
    """
    # Newer versions find the images by types, not by ids: 1 at image tokens.
    types_BT = (input_ids_BT == core.config.image_token_id).int()
    positions_3BT: Tensor = core.get_rope_index(
        input_ids_BT, mm_token_type_ids=types_BT, image_grid_thw=grid_O3, attention_mask=is_valid_BT.int()
    )[0]
    return positions_3BT


def repeated(encoded: Any, occurrences: Sequence[int]) -> Any:
    """Encoder output with an entry per placeholder, from one with an entry per distinct image.

    Args:
        encoded: What `get_image_features` returned; Qwen3-VL also has features for its first language layers.
        occurrences: For each placeholder in reading order, the index of its image.
    """
    expanded = copy.copy(encoded)
    expanded.pooler_output = [encoded.pooler_output[index] for index in occurrences]
    if getattr(encoded, "deepstack_features", None) is not None:
        expanded.deepstack_features = [[layer[index] for index in occurrences] for layer in encoded.deepstack_features]
    return expanded
