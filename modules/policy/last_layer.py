"""Computes the last decoder layer, after its attention, only for tokens whose hidden state is read.

After the last attention, no layer mixes tokens any more. So output projection, feed-forward layer and norms can be
skipped for a token that nobody reads, such as a token of a prompt. Its keys and values are still computed, because
other tokens attend to them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def picked(hidden_BTD: Tensor, read_M: Tensor) -> Tensor:
    """Tokens [1, M, D] of a batch, by their indices in the flattened batch."""
    return hidden_BTD.flatten(0, 1).index_select(0, read_M).unsqueeze(0)


def use_reading_layer(core: Any) -> bool:
    """Let the last layer of a language model take `read_M`; False if it cannot.

    Args:
        core: The Hugging Face model without its language head. Qwen3-VL adds features of images to the outputs of its
            first layers, for all tokens.
    """
    layers = core.language_model.layers
    layer = layers[-1]
    n_deepstack = len(getattr(core.visual.config, "deepstack_visual_indexes", None) or ())
    if len(layers) <= n_deepstack or not hasattr(layer, "self_attn"):
        return False
    # A subclass, so that wrappers of layers (checkpointing, FSDP2) still recognize the layer.
    layer.__class__ = type(type(layer).__name__, (_Reading, type(layer)), {})
    return True


class _Reading(nn.Module):
    """Decoder layer that returns hidden states [1, M, D] of the tokens `read_M` if it is given."""

    def forward(self, hidden_states: Tensor, *args: Any, read_M: Tensor | None = None, **kwargs: Any) -> Tensor:
        layer: Any = super()
        if read_M is None:
            whole: Tensor = layer.forward(hidden_states, *args, **kwargs)
            return whole
        layer = self
        cut = layer.self_attn.o_proj.register_forward_pre_hook(lambda _module, inputs: (picked(inputs[0], read_M),))
        try:
            attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
        finally:
            cut.remove()
        read_1MD = picked(hidden_states, read_M) + attended
        result: Tensor = read_1MD + layer.mlp(layer.post_attention_layernorm(read_1MD))
        return result
