"""States of recurrent layers (gated delta rule) that survive turns and never see a hole.

A layer with attention keeps a key for each token, and a mask hides the holes. A recurrent layer folds each token into
a state: it multiplies the state by exp(g), and it writes with the strength beta (Gated DeltaNet, arXiv 2412.06464).
Hugging Face zeroes the inputs of a layer at padding, but the state still decays there, and the convolution before it
still sees the tokens to the left. That is correct for padding on the left of everything, and for scoring with padding
on the right, because nothing follows it. It is wrong for a hole between two turns.

So g = 0 and beta = 0 in a hole, which leaves the state exactly as it was, and the convolution keeps the inputs of a
row's last tokens. Holes must be on the right of a block, where `GenerationSession` puts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import LinearAttentionLayer

#: For the computed block [B, K]: True at tokens, False in holes; None outside sampling.
_IS_TOKEN_BK: ContextVar[Tensor | None] = ContextVar("is_token_BK", default=None)


@contextmanager
def tokens_of_block(is_token_BK: Tensor) -> Iterator[None]:
    """Inside, recurrent layers compute a block in which `is_token_BK` [B, K] marks the tokens."""
    token = _IS_TOKEN_BK.set(is_token_BK)
    try:
        yield
    finally:
        _IS_TOKEN_BK.reset(token)


def keep_states_from_holes(language_model: nn.Module) -> None:
    """Let the recurrent layers of a language model skip holes; does nothing if it has no such layers."""
    for module in language_model.modules():
        for gate in (getattr(module, "in_proj_a", None), getattr(module, "in_proj_b", None)):
            if isinstance(gate, nn.Module):
                gate.register_forward_hook(_close_in_holes)


def _close_in_holes(module: nn.Module, args: Any, gates_BKH: Tensor) -> Tensor:
    """Set gates to -inf in holes: softplus then gives g = 0, and the sigmoid gives beta = 0."""
    is_token_BK = _IS_TOKEN_BK.get()
    return gates_BKH if is_token_BK is None else gates_BKH.masked_fill(~is_token_BK[..., None], float("-inf"))


class StateLayer(LinearAttentionLayer):  # type: ignore[misc]  # its types are not followed
    """The state of a recurrent layer for each row, and the last inputs of its convolution."""

    def __init__(self) -> None:
        super().__init__()
        # For a single token, Hugging Face bypasses this class and updates every row, unless the past is recorded.
        self.record_past = True

    def update_conv_state(
        self, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **kwargs: Any
    ) -> Tensor:
        """Keep the inputs [B, C, W] of each row's last W tokens.

        Args:
            conv_states: Inputs [B, C, K] of a block.
            state_idx: Which convolution of the layer.
            conv_kernel_size: Width W of the convolution.
            kwargs: Not used.

        Returns:
            The inputs kept before, then the block: [B, C, W + K].
        """
        is_token_BK = _IS_TOKEN_BK.get()
        if is_token_BK is None or conv_kernel_size is None:
            raise RuntimeError("update_conv_state: expected a call inside `tokens_of_block`, with conv_kernel_size")
        before_BCW = self.conv_states[state_idx]
        if before_BCW is None:
            before_BCW = conv_states.new_zeros(*conv_states.shape[:2], conv_kernel_size)
        inputs_BCL = torch.cat([before_BCW, conv_states], dim=-1)
        columns_BW = is_token_BK.sum(1, keepdim=True) + torch.arange(conv_kernel_size, device=conv_states.device)
        self.conv_states[state_idx] = inputs_BCL.gather(2, columns_BW[:, None].expand(-1, inputs_BCL.shape[1], -1))
        self.has_previous_state[state_idx] = True
        return inputs_BCL

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
        """Keep the states after a block; holes did not change them."""
        self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states

    def take(self, parts: Sequence[Any], n_rows: int, n_columns: int) -> None:
        """Take rows of other layers; see `modules.policy.kv_cache.GrowingLayer.take`. States have no columns."""
        first = parts[0].layer
        self.has_previous_state |= first.has_previous_state
        for name in ("conv_states", "recurrent_states"):
            for index, held in getattr(first, name).items():
                if held is None:
                    continue
                states = held.new_empty(n_rows, *held.shape[1:])
                for part in parts:
                    states[part.places_b] = getattr(part.layer, name)[index][part.rows_b]
                getattr(self, name)[index] = states
