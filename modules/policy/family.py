"""The interface to a kind of model: template, image tokens, positions, image processor, and sampling cache."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from cv_lightning.conversation import QWEN_TEMPLATE, Template
from modules.policy.kv_cache import growing_cache
from modules.policy.recurrence import keep_states_from_holes

if TYPE_CHECKING:
    from modules.policy.tiny import TinyConfig


@dataclass(frozen=True)
class Family:
    """A kind of model. The methods implement Qwen's families; another family overrides those that differ.

    Attributes:
        config: Hugging Face's configuration class.
        model: Hugging Face's class of the model with its language head.
        image_mean: Mean of each channel for the normalization of images, if a folder gives none.
        image_std: Standard deviation, likewise.
        text: Makes, from the size of a small policy, the settings of its language model that only this family has.
        vision: Settings of its vision tower, likewise.
        template: Markup of its conversations.
    """

    config: Any
    model: Any
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    text: Callable[[TinyConfig], dict[str, Any]]
    vision: Callable[[TinyConfig], dict[str, Any]]
    template: Template = QWEN_TEMPLATE

    def processor(self, config: Any, source: str | None, min_pixels: int, max_pixels: int) -> Qwen2VLImageProcessorPil:
        """The image processor of a model, without torchvision: that of Qwen2-VL.

        Args:
            config: Hugging Face's configuration of the model.
            source: Folder or hub name that may hold the normalization; None takes the family's.
            min_pixels: Smaller images are enlarged to this many pixels.
            max_pixels: Larger images are reduced to this many pixels.
        """
        vision, mean, std = config.vision_config, self.image_mean, self.image_std
        if source is not None:
            try:
                saved = Qwen2VLImageProcessorPil.from_pretrained(source)
                mean, std = saved.image_mean, saved.image_std
            except OSError:
                warnings.warn(
                    f"{source!r}: no preprocessor_config.json can be read, so the family's normalization is used.",
                    stacklevel=2,
                )
        return Qwen2VLImageProcessorPil(
            patch_size=vision.patch_size,
            merge_size=vision.spatial_merge_size,
            temporal_patch_size=vision.temporal_patch_size,
            size={"shortest_edge": min_pixels, "longest_edge": max_pixels},
            image_mean=list(mean),
            image_std=list(std),
        )

    def count_image_tokens(self, config: Any, grid: tuple[int, int, int]) -> int:
        """Placeholder tokens of an image whose grid (time, height, width) is in patches."""
        time, height, width = grid
        return time * height * width // int(config.vision_config.spatial_merge_size) ** 2

    def positions(self, core: Any, input_ids_BT: Tensor, is_valid_BT: Tensor, grid_O3: Tensor | None) -> Tensor:
        """mRoPE positions [3, B, T]: time, row and column of a token; for text all three are equal, and 0 at padding.

        Equal to Hugging Face's `get_rope_index`, but without its loops over tokens.

        Args:
            core: The model without its language head.
            input_ids_BT: Token ids [B, T].
            is_valid_BT: True where a token is not padding [B, T].
            grid_O3: Grids (time, height, width) in patches, one per image placeholder run in reading order [O, 3].
        """
        is_image_BT = (input_ids_BT == core.config.image_token_id) & is_valid_BT.bool()
        is_first_BT = is_image_BT & ~functional.pad(is_image_BT[:, :-1], (1, 0))
        is_last_BT = is_image_BT & ~functional.pad(is_image_BT[:, 1:], (0, 1))
        advance_BT = is_valid_BT.long()
        row_BT = column_BT = torch.zeros_like(advance_BT)
        if grid_O3 is not None:
            run_BT = (is_first_BT.flatten().cumsum(0) - 1).clamp(min=0).view_as(input_ids_BT)
            size_BT2 = (grid_O3[:, 1:] // core.config.vision_config.spatial_merge_size)[run_BT]
            # The patches of an image share a time; the next token continues after the image's largest position.
            advance_BT = torch.where(is_image_BT, size_BT2.amax(-1) * is_last_BT, advance_BT)
            places_T = torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device)
            place_BT = places_T - torch.where(is_first_BT, places_T, 0).cummax(1).values
            row_BT, column_BT = (f(place_BT, size_BT2[..., 1]) * is_image_BT for f in (torch.floor_divide, torch.fmod))
        start_BT = advance_BT.cumsum(1) - advance_BT
        return torch.stack([start_BT, start_BT + row_BT, start_BT + column_BT]) * is_valid_BT.bool()

    def repeated(self, encoded: Any, occurrences: Sequence[int]) -> Any:
        """Expand encoder output from an entry per distinct image to an entry per placeholder.

        Args:
            encoded: Output of `get_image_features`; Qwen3-VL's also has features for its first language layers.
            occurrences: For each placeholder in reading order, the index of its image.
        """
        expanded = copy.copy(encoded)
        expanded.pooler_output = [encoded.pooler_output[index] for index in occurrences]
        if getattr(encoded, "deepstack_features", None) is not None:
            layers = encoded.deepstack_features
            expanded.deepstack_features = [[layer[index] for index in occurrences] for layer in layers]
        return expanded

    def prepare(self, core: Any) -> None:
        """Change a new model so that it can sample with holes in its cache."""
        keep_states_from_holes(core.language_model)

    def cache(self, config: Any) -> Any:
        """An empty cache that keeps keys and values, or the states of recurrent layers, over turns."""
        return growing_cache(getattr(config.text_config, "layer_types", None) or ())
