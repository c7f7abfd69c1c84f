"""Attention of a language model over a packed row, in which each segment sees its prefix and itself.

Nothing is computed between tokens that do not see each other. A GPU that computes in half precision takes PyTorch's
flash kernel for sequences of any lengths; everything else takes scaled dot products over segments of similar lengths.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "row_sdpa"

#: Segments are padded to one length if that adds at most this share of dot products plus this number of them.
_MAX_WASTE = 0.3
_FEW_PRODUCTS = 1 << 15


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of a row that see each other causally and see a whole prefix.

    Attributes:
        start: Index of its first token.
        length: Number of its tokens.
        prefix_start: Index of the prefix's first token.
        prefix_length: Number of the prefix's tokens; 0 if there is no prefix.
    """

    start: int
    length: int
    prefix_start: int = 0
    prefix_length: int = 0


class RowAttention(Protocol):
    """Attention over one row of S tokens."""

    def __call__(self, query_SHD: Tensor, key_SJD: Tensor, value_SJD: Tensor, scaling: float) -> Tensor:
        """Attended values [S, H, D] of H query heads and J key heads."""


class TiledAttention:
    """Scaled dot products over tiles: segments of similar lengths, padded to the longest.

    Args:
        segments: All tokens of the row, in its order.
        device: Where it is computed.
    """

    def __init__(self, segments: Sequence[Segment], device: torch.device) -> None:
        self._tiles = [_Tile.of(part, device) for part in _similar(segments)]
        queries = [tile.query_index_BQ.flatten() for tile in self._tiles]
        self._query_index = torch.cat(queries).to(device)
        self._key_index = torch.cat([tile.key_index_BK.flatten() for tile in self._tiles]).to(device)
        n_tokens = sum(segment.length for segment in segments)
        place_S = torch.empty(n_tokens, dtype=torch.long)
        is_token = torch.cat([tile.is_token_BQ.flatten() for tile in self._tiles])
        place_S[torch.cat(queries)[is_token]] = is_token.nonzero().flatten()
        self._place_S = place_S.to(device)

    def __call__(self, query_SHD: Tensor, key_SJD: Tensor, value_SJD: Tensor, scaling: float) -> Tensor:
        """See `RowAttention`."""
        queries = self._split(query_SHD, self._query_index, [tile.query_index_BQ for tile in self._tiles])
        indices = [tile.key_index_BK for tile in self._tiles]
        keys, values = (self._split(tensor, self._key_index, indices) for tensor in (key_SJD, value_SJD))
        has_groups = query_SHD.shape[1] != key_SJD.shape[1]
        attended = [
            functional.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=None if tile.mask_B1QK is None else tile.mask_B1QK.to(query.dtype),
                is_causal=tile.mask_B1QK is None,
                scale=scaling,
                enable_gqa=has_groups,
            ).transpose(1, 2)
            for tile, query, key, value in zip(self._tiles, queries, keys, values, strict=True)
        ]
        return torch.cat([each.flatten(0, 1) for each in attended]).index_select(0, self._place_S)

    def _split(self, tensor_SXD: Tensor, index: Tensor, shapes: Sequence[Tensor]) -> list[Tensor]:
        parts = torch.split(tensor_SXD.index_select(0, index), [shape.numel() for shape in shapes])
        return [
            part.view(*shape.shape, *part.shape[1:]).transpose(1, 2) for part, shape in zip(parts, shapes, strict=True)
        ]


@dataclass(frozen=True)
class _Tile:
    query_index_BQ: Tensor
    key_index_BK: Tensor
    is_token_BQ: Tensor
    mask_B1QK: Tensor | None

    @classmethod
    def of(cls, segments: Sequence[Segment], device: torch.device) -> _Tile:
        """Keys are the padded prefix, then the padded segment; padding repeats some token of the row."""
        start_B, length_B, prefix_start_B, prefix_B = torch.tensor(
            [(s.start, s.length, s.prefix_start, s.prefix_length) for s in segments]
        ).T.unsqueeze(-1)
        columns_Q, columns_P = torch.arange(int(length_B.max())), torch.arange(int(prefix_B.max()))
        own_BQ = start_B + columns_Q.minimum(length_B - 1)
        prefix_BP = prefix_start_B + columns_P.minimum((prefix_B - 1).clamp(min=0))
        mask_B1QK = None
        if len(columns_P):
            is_prefix_BQP = (columns_P < prefix_B)[:, None].expand(-1, len(columns_Q), -1)
            is_before_BQQ = (columns_Q <= columns_Q[:, None]).expand(len(segments), -1, -1)
            is_seen_BQK = torch.cat([is_prefix_BQP, is_before_BQQ], dim=-1)
            mask_B1QK = torch.zeros(is_seen_BQK.shape).masked_fill_(~is_seen_BQK, float("-inf"))[:, None].to(device)
        return cls(own_BQ, torch.cat([prefix_BP, own_BQ], dim=1), columns_Q < length_B, mask_B1QK)


def _similar(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Group segments that are worth padding together; those with a prefix, which need a mask, form their own groups."""
    parts: list[list[Segment]] = []
    n_products, has_prefix = 0, False
    for segment in sorted(segments, key=lambda s: (s.prefix_length > 0, s.prefix_length + s.length, s.length)):
        own = segment.length * (segment.prefix_length + segment.length)
        if parts and has_prefix == (segment.prefix_length > 0):
            part = [*parts[-1], segment]
            padded = (
                len(part)
                * max(s.length for s in part)
                * (max(s.prefix_length for s in part) + max(s.length for s in part))
            )
            if padded <= (n_products + own) * (1 + _MAX_WASTE) + _FEW_PRODUCTS:
                parts[-1], n_products = part, n_products + own
                continue
        parts.append([segment])
        n_products, has_prefix = own, segment.prefix_length > 0
    return parts


class VarlenAttention:
    """The flash kernel for sequences of any lengths; its causal mask aligns the last query with the last key.

    Args:
        segments: All tokens of the row, in its order.
        device: Where it is computed.
        kernel: `torch.nn.attention.varlen.varlen_attn`.
    """

    def __init__(self, segments: Sequence[Segment], device: torch.device, kernel: Callable[..., Tensor]) -> None:
        self._kernel = kernel
        n_queries = [segment.length for segment in segments]
        n_keys = [segment.prefix_length + segment.length for segment in segments]
        self._bounds_q, self._bounds_k = (
            torch.tensor([0, *accumulate(sizes)], dtype=torch.int32, device=device) for sizes in (n_queries, n_keys)
        )
        self._max_q, self._max_k = max(n_queries), max(n_keys)
        ranges = [
            torch.arange(start, start + length)
            for s in segments
            for start, length in ((s.prefix_start, s.prefix_length), (s.start, s.length))
        ]
        self._key_index = torch.cat(ranges).to(device)

    def __call__(self, query_SHD: Tensor, key_SJD: Tensor, value_SJD: Tensor, scaling: float) -> Tensor:
        """See `RowAttention`."""
        return self._kernel(
            query_SHD,
            key_SJD.index_select(0, self._key_index),
            value_SJD.index_select(0, self._key_index),
            self._bounds_q,
            self._bounds_k,
            self._max_q,
            self._max_k,
            scale=scaling,
            window_size=(-1, 0),  # causal
            enable_gqa=query_SHD.shape[1] != key_SJD.shape[1],
        )


def attention_of(segments: Sequence[Segment], device: torch.device, dtype: torch.dtype) -> RowAttention:
    """The fastest attention that a device has for a dtype."""
    if takes_flash(device, dtype):
        return VarlenAttention(segments, device, flash_kernel())
    return TiledAttention(segments, device)


def takes_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the flash kernel runs: in half precision, on an A100 or newer, if this build of PyTorch holds it."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def flash_kernel() -> Callable[..., Tensor]:
    """PyTorch's flash attention for sequences of any lengths."""
    kernel: Callable[..., Tensor] = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    return kernel


def row_attention(
    module: nn.Module,
    query_BHSD: Tensor,
    key_BJSD: Tensor,
    value_BJSD: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    row: RowAttention | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a layer: over a packed row if there is one, else Hugging Face's "sdpa".

    Args:
        module: The attention layer.
        query_BHSD: Queries; B is 1 for a row.
        key_BJSD: Keys.
        value_BJSD: Values.
        attention_mask: Mask of "sdpa"; not used for a row.
        scaling: Factor of the dot products.
        row: Attention of a packed row; None: no row.
        kwargs: Further arguments of "sdpa".

    Returns:
        [B, S, heads, features], and no weights.
    """
    if row is None and query_BHSD.shape[2] == 1:
        # Heads that share keys become several queries of one head. Hugging Face copies the whole cache for them at
        # every token.
        query_BJGD = query_BHSD.reshape(*key_BJSD.shape[:2], -1, query_BHSD.shape[-1])
        attended = functional.scaled_dot_product_attention(
            query_BJGD, key_BJSD, value_BJSD, attn_mask=attention_mask, scale=scaling
        )
        return attended.flatten(1, 2).unsqueeze(1), None
    if row is None and attention_mask is not None and query_BHSD.device.type == "cpu":
        # No copies for several queries either; with a mask, the kernels of other devices need repeated keys.
        attended = functional.scaled_dot_product_attention(
            query_BHSD, key_BJSD, value_BJSD, attn_mask=attention_mask, scale=scaling, enable_gqa=True
        )
        return attended.transpose(1, 2), None
    if row is None:
        attended, _ = sdpa_attention_forward(
            module, query_BHSD, key_BJSD, value_BJSD, attention_mask, scaling=scaling, **kwargs
        )
        return attended, None
    query_SHD, key_SJD, value_SJD = (each.squeeze(0).transpose(0, 1) for each in (query_BHSD, key_BJSD, value_BJSD))
    return row(query_SHD, key_SJD, value_SJD, scaling).unsqueeze(0), None


def use_row_attention(language_model: nn.Module) -> bool:
    """Let a language model compute packed rows; False if it cannot, because not all its layers have full attention."""
    config: Any = language_model.config
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        return False
    ALL_ATTENTION_FUNCTIONS.register(NAME, row_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    config._attn_implementation_internal = NAME
    return True
