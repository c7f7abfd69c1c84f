"""A key-value cache that grows in place; recurrent layers have states instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from modules.policy.recurrence import StateLayer

#: Spare columns of a new buffer.
_ROOM = 64


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # its types are not followed
    """A layer that writes new columns into spare room.

    Hugging Face's dynamic layer copies everything it holds at every token, so that a
    decoding step costs as much as the cache is large.
    """

    keys: Tensor
    values: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append columns [B, heads, T, features]; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers: tuple[Tensor, Tensor] | None = None
        length = self.get_seq_length()
        total = length + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < total:
            self._buffers = (
                _with_room(self.keys, key_states, length, total + _ROOM),
                _with_room(self.values, value_states, length, total + _ROOM),
            )
        keys, values = self._buffers
        keys[..., length:total, :] = key_states
        values[..., length:total, :] = value_states
        self.keys, self.values = keys[..., :total, :], values[..., :total, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices`, which may repeat."""
        super().batch_select_indices(indices)
        self._buffers = None


def _with_room(held: Any, new: Tensor, length: int, capacity: int) -> Tensor:
    buffer = torch.empty(*new.shape[:-2], capacity, new.shape[-1], dtype=new.dtype, device=new.device)
    if length:
        buffer[..., :length, :] = held
    return buffer


def growing_cache(layer_types: Sequence[str] = ()) -> Cache:
    """An empty cache of growing layers.

    Args:
        layer_types: Hugging Face's name of each layer's type; "linear_attention" is recurrent. Empty if none is.
    """
    if "linear_attention" not in layer_types:
        return Cache(layer_class_to_replicate=GrowingLayer)
    return Cache(layers=[StateLayer() if kind == "linear_attention" else GrowingLayer() for kind in layer_types])
