"""Where the patches of images lie, for the vision tower: computed once for each size of image.

Hugging Face computes these places in a loop over the images of each batch, but takes them from its caller if it has
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

Grid = tuple[int, int, int]


def image_places(visual: Any, grids_N: Sequence[Grid], device: torch.device) -> dict[str, Tensor]:
    """Arguments of Hugging Face's `get_image_features`: positions, and windows if the tower has windowed layers.

    Args:
        visual: The vision tower.
        grids_N: Grid (time, height, width) in patches of each image.
        device: Where the places are needed.
    """
    merge = int(visual.spatial_merge_size)
    positions = torch.cat([_positions(grid, merge) for grid in grids_N]).to(device)
    if not hasattr(visual, "window_size"):
        return {"image_position_ids": positions}
    sizes = merge, int(visual.window_size), int(visual.patch_size)
    indices, bounds, n_tokens = [], [torch.zeros(1, dtype=torch.int32)], 0
    for grid in grids_N:
        index, bounds_of_image = _windows(grid, *sizes)
        indices.append(index + n_tokens)
        bounds.append(bounds_of_image[1:] + n_tokens * merge * merge)
        n_tokens += len(index)
    return {
        "image_position_ids": positions,
        "image_window_index": torch.cat(indices).to(device),
        "image_cu_window_seqlens": torch.cat(bounds).to(device),
    }


@lru_cache(maxsize=64)
def _positions(grid: Grid, merge: int) -> Tensor:
    positions: Tensor = get_vision_position_ids(torch.tensor([grid]), merge)
    return positions


@lru_cache(maxsize=64)
def _windows(grid: Grid, merge: int, window: int, patch: int) -> tuple[Tensor, Tensor]:
    places: tuple[Tensor, Tensor] = get_vision_window_index(torch.tensor([grid]), merge, window, patch)
    return places
