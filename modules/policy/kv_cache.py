"""A key-value cache that grows in place; recurrent layers have states instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache, DynamicLayer

from modules.policy.recurrence import StateLayer

#: Spare columns of a new buffer.
_ROOM = 64


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # its types are not followed
    """A layer that writes new columns into spare room.

    Hugging Face's dynamic layer copies its whole content at every token, so the cost of a decoding step grows with the
    cache.
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

    def take(self, parts: Sequence[Taken], n_rows: int, n_columns: int) -> None:
        """Take rows of other layers; their columns move to the left, and there is room for more.

        Args:
            parts: For each other layer, its rows and columns [b, l], and the rows [b] that they become.
            n_rows: Number of rows.
            n_columns: Number of columns; a shorter row repeats some column of its own.
        """
        first: Any = parts[0].layer
        self.lazy_initialization(first.keys, first.values)
        n_heads, n_features = first.keys.shape[1], first.keys.shape[-1]
        buffers = tuple(held.new_empty(n_rows, n_heads, n_columns + _ROOM, n_features) for held in first._buffers)
        for part in parts:
            index_bHl = part.index_in_buffer(n_heads, part.layer._buffers[0].shape[2], n_columns)
            for buffer, held in zip(buffers, part.layer._buffers, strict=True):
                # Whole vectors by one index: several times as fast as an index for each axis.
                taken = held.view(-1, n_features).index_select(0, index_bHl.flatten())
                buffer[part.places_b, :, :n_columns] = taken.view(*index_bHl.shape, n_features)
        self._buffers = (buffers[0], buffers[1])
        self.keys, self.values = (buffer[..., :n_columns, :] for buffer in buffers)


@dataclass(frozen=True)
class Taken:
    """Rows that another cache takes from a layer; see `GrowingLayer.take`."""

    layer: Any
    rows_b: Tensor
    columns_bl: Tensor
    places_b: Tensor

    def index_in_buffer(self, n_heads: int, capacity: int, n_columns: int) -> Tensor:
        """Indices [b, heads, n_columns] into a flattened buffer [B, heads, capacity]."""
        columns_bl = self.columns_bl[:, :n_columns]
        columns_bl = functional.pad(columns_bl, (0, n_columns - columns_bl.shape[1]))
        head_bH1 = self.rows_b[:, None, None] * n_heads + torch.arange(n_heads, device=columns_bl.device)[:, None]
        return head_bH1 * capacity + columns_bl[:, None]


@dataclass(frozen=True)
class CachedRows:
    """Rows of conversations in a cache.

    Attributes:
        cache: Its layers.
        is_valid_BL: Which columns hold a token of a row; the others are holes.
        rows: The number of each row.
    """

    cache: Cache
    is_valid_BL: Tensor
    rows: list[int]


def gathered(
    blocks: Sequence[CachedRows], wanted: Sequence[Sequence[int]], new_cache: Callable[[], Cache]
) -> list[CachedRows]:
    """Gather rows of several caches in new caches without holes; the old layers are freed one by one.

    Args:
        blocks: Caches with the same layers. They cannot be used afterwards.
        wanted: For each new cache, the numbers of its rows, which may repeat.
        new_cache: Makes an empty cache.
    """
    plans = [_Plan.of(blocks, rows, new_cache()) for rows in wanted]
    for index in range(len(blocks[0].cache.layers)):
        for plan in plans:
            plan.take(index)
        for block in blocks:
            block.cache.layers[index] = None
    return [CachedRows(plan.cache, plan.is_valid_BL, [*rows]) for plan, rows in zip(plans, wanted, strict=True)]


@dataclass(frozen=True)
class _Plan:
    """For each block that gives rows: the rows, their columns, and the rows that they become."""

    parts: list[tuple[CachedRows, Tensor, Tensor, Tensor]]
    is_valid_BL: Tensor
    cache: Cache

    @classmethod
    def of(cls, blocks: Sequence[CachedRows], rows: Sequence[int], cache: Cache) -> _Plan:
        """See `gathered`."""
        device = blocks[0].is_valid_BL.device
        pairs: list[list[tuple[int, int]]] = [[] for _ in blocks]
        where = {row: (number, place) for number, block in enumerate(blocks) for place, row in enumerate(block.rows)}
        for place, row in enumerate(rows):
            number, held = where[row]
            pairs[number].append((held, place))
        length_B = torch.empty(len(rows), dtype=torch.long, device=device)
        parts = []
        for block, of_block in zip(blocks, pairs, strict=True):
            if not of_block:
                continue
            rows_b, places_b = torch.tensor(of_block, device=device).T
            is_valid_bL = block.is_valid_BL[rows_b]
            length_B[places_b] = is_valid_bL.sum(1)
            columns_bL = (~is_valid_bL).to(torch.uint8).argsort(dim=1, stable=True)  # tokens first, in their order
            parts.append((block, rows_b, columns_bL, places_b))
        columns_L = torch.arange(int(length_B.max()), device=device)
        return cls(parts, columns_L < length_B[:, None], cache)

    def take(self, index: int) -> None:
        """Take the rows of a layer."""
        if index == len(self.cache.layers):
            self.cache.layers.append(GrowingLayer())
        taken = [Taken(block.cache.layers[index], *places) for block, *places in self.parts]
        self.cache.layers[index].take(taken, *self.is_valid_BL.shape)


def _with_room(held: Any, new: Tensor, length: int, capacity: int) -> Tensor:
    buffer = torch.empty(*new.shape[:-2], capacity, new.shape[-1], dtype=new.dtype, device=new.device)
    if length:
        buffer[..., :length, :] = held
    return buffer


def growing_cache(layer_types: Sequence[str] = ()) -> Cache:
    """An empty cache of growing layers.

    Args:
        layer_types: Hugging Face's name of each layer's type; "linear_attention" is recurrent. Empty if no layer is.
    """
    if "linear_attention" not in layer_types:
        return Cache(layer_class_to_replicate=GrowingLayer)
    return Cache(layers=[StateLayer() if kind == "linear_attention" else GrowingLayer() for kind in layer_types])
