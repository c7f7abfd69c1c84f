"""Attention of the vision tower over packed images; images of one size are computed at once.

Without a flash kernel, Hugging Face computes packed images one by one: hundreds of small calls in a batch of small
images. It passes the packed tensors whole to any implementation whose name contains "flash"; this implementation is
plain scaled dot products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "packed_flash_sdpa"


def packed_attention(
    module: nn.Module,
    query_1HSD: Tensor,
    key_1HSD: Tensor,
    value_1HSD: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within each of N sequences that are packed along one axis of S tokens.

    Args:
        module: The attention layer.
        query_1HSD: Queries of all sequences, [1, heads, S, features].
        key_1HSD: Keys.
        value_1HSD: Values.
        attention_mask: None; the boundaries are the mask.
        scaling: Factor of the dot products.
        cu_seq_lens_q: Boundaries [N + 1] of the sequences.
        kwargs: Arguments that only flash kernels need.

    Returns:
        [1, S, heads, features], and no weights.
    """
    # Tokens of each sequence, N: windows in a windowed layer, images in a full layer.
    lengths = cu_seq_lens_q.diff().tolist()
    packed = (query_1HSD, key_1HSD, value_1HSD)
    if len(set(lengths)) == 1:  # one batch [N, heads, L, features], without copies
        shape = (len(lengths), lengths[0])
        query, key, value = (torch.unflatten(tensor[0], 1, shape).transpose(0, 1) for tensor in packed)
        attended_NHLD = functional.scaled_dot_product_attention(query, key, value, scale=scaling)
        return attended_NHLD.transpose(1, 2).flatten(0, 1).unsqueeze(0), None
    parts = [torch.split(tensor[0], lengths, dim=1) for tensor in packed]
    attended: dict[int, Tensor] = {}  # by place, so that the order of the sequences comes back
    for length in set(lengths):
        members = [index for index, other in enumerate(lengths) if other == length]
        query, key, value = (torch.stack([part[index] for index in members]) for part in parts)
        attended_MHLD = functional.scaled_dot_product_attention(query, key, value, scale=scaling)
        attended |= dict(zip(members, attended_MHLD.transpose(1, 2), strict=True))
    return torch.cat([attended[index] for index in range(len(lengths))]).unsqueeze(0), None


def use_packed_attention(visual: nn.Module) -> None:
    """Let a vision tower use `packed_attention`."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)
    config: Any = visual.config
    config._attn_implementation_internal = NAME
