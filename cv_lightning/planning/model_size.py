"""A model in numbers: parameters by part, and the shapes that determine activations and caches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from cv_lightning.errors import CheckpointError

#: A parameter's name up to the number of its decoder layer or vision block, which FSDP2 gathers as a unit.
_LAYER = re.compile(r".*\.(layers|blocks)\.\d+\.")
#: Parts in the order of the data flow.
PARTS = ("patches", "vision", "projector", "language", "head")


@dataclass
class PartSize:
    """Parameters of a part.

    Attributes:
        n: All parameters.
        n_trained: Parameters that an optimizer updates.
        n_products: Parameters that are factors of matrix products: each costs 2 FLOPs per row.
        n_trained_products: Trained parameters among `n_products`.
    """

    n: int = 0
    n_trained: int = 0
    n_products: int = 0
    n_trained_products: int = 0


@dataclass(frozen=True)
class ModelSize:
    """A network in numbers.

    Attributes:
        parts: Parameters by `PARTS`; the input embeddings are in "language" and are not factors of products.
        frozen_bytes: Bytes of the parameters that no optimizer updates, as they are stored.
        master_bytes: Bytes of the parameters that an optimizer updates, as it stores them.
        compute_bytes: Bytes per number in the dtype of the network's computation.
        is_lora: Whether it is trained through adapters.
        trains_keys: Whether the projections that compute the language model's keys are trained.
        optimizer_bytes: Bytes of the optimizer's states.
        largest_layer: Parameters of the largest decoder layer or vision block.
        root: Parameters outside of all layers and blocks.
        text: Hugging Face's configuration of the language model.
        vision: Hugging Face's configuration of the vision tower.
    """

    parts: dict[str, PartSize]
    frozen_bytes: int
    master_bytes: int
    compute_bytes: int
    is_lora: bool
    trains_keys: bool
    optimizer_bytes: int
    largest_layer: int
    root: int
    text: Any
    vision: Any

    @property
    def n(self) -> int:
        """All parameters."""
        return sum(part.n for part in self.parts.values())

    @property
    def n_trained(self) -> int:
        """Parameters that an optimizer updates."""
        return sum(part.n_trained for part in self.parts.values())

    @property
    def head_dim(self) -> int:
        """Features of an attention head of the language model."""
        given = getattr(self.text, "head_dim", None)
        return int(given or self.text.hidden_size // self.text.num_attention_heads)

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of keys and values per token in all layers."""
        heads = self.text.num_key_value_heads
        return int(2 * self.text.num_hidden_layers * heads * self.head_dim * self.compute_bytes)

    @property
    def norm_bytes(self) -> int:
        """Bytes per feature that a norm keeps for the backward pass.

        Its input and output, and in half precision the input in float32 and the normalized input instead of the input
        (`modules.policy.norms`).
        """
        return 8 if self.compute_bytes == 4 else 4 + 2 * self.compute_bytes

    def layer_bytes_per_token(self) -> int:
        """Bytes per token that a decoder layer keeps for the backward pass.

        Attention keeps queries, keys, values, its output and one sum; the feed-forward part keeps gate, activated gate,
        up and product.
        """
        text, size = self.text, self.compute_bytes
        d_all = text.num_attention_heads * self.head_dim
        d_kv = text.num_key_value_heads * self.head_dim
        n_normed = 2 * text.hidden_size + (d_all + d_kv if text.model_type == "qwen3_vl_text" else 0)
        return int(
            self.norm_bytes * n_normed
            + size * (2 * d_all + 2 * d_kv + 4 * text.intermediate_size)
            + 4 * text.num_attention_heads
        )

    def block_bytes_per_patch(self) -> int:
        """Bytes per patch that a vision block keeps; Qwen3-VL's blocks have no gate and plain layer norms."""
        vision, size = self.vision, self.compute_bytes
        is_gated = vision.model_type.startswith("qwen2_5")
        norms = 2 * (self.norm_bytes if is_gated else 2 * size) * vision.hidden_size
        return int(norms + size * (4 * vision.hidden_size + (4 if is_gated else 2) * vision.intermediate_size))


def measure(
    model: nn.Module,
    config: Any,
    compute_bytes: int,
    is_lora: bool,
    optimizer_bytes: int,
    quantized_bytes: float | None = None,
) -> ModelSize:
    """Count a network's parameters; it may be on the meta device.

    Args:
        model: A Hugging Face vision-language model, perhaps with adapters.
        config: Its configuration.
        compute_bytes: Bytes per number in the dtype of its computation.
        is_lora: Whether it is trained through adapters.
        optimizer_bytes: Bytes of the optimizer's states.
        quantized_bytes: Bytes per weight of the decoder's frozen matrices if they are quantized.

    Raises:
        CheckpointError: The model has recurrent layers, whose activations and FLOPs are not counted here.
    """
    if "linear_attention" in (getattr(config.text_config, "layer_types", None) or ()):
        raise CheckpointError(
            f"plan: {config.model_type!r} has recurrent layers, and their memory and time are not counted. "
            "Plan a model in which all layers have attention, or measure a short run of this one."
        )
    parts = {name: PartSize() for name in PARTS}
    in_products = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv3d)}
    frozen_bytes = master_bytes = 0
    trains_keys = False
    of_layers: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        is_product, n = id(parameter) in in_products, parameter.numel()
        is_tied = is_product and "embed_tokens" in name  # listed once, but only the head multiplies with it
        part = parts["head" if is_tied else part_of(name)]
        part.n += n
        layer = _LAYER.match(name)
        of_layers[layer[0] if layer else ""] = of_layers.get(layer[0] if layer else "", 0) + n
        part.n_products += n * is_product
        if parameter.requires_grad:
            part.n_trained += n
            part.n_trained_products += n * is_product
            master_bytes += n * parameter.element_size()
            trains_keys |= ".k_proj." in name
        elif quantized_bytes is not None and is_product and layer and layer[1] == "layers":
            frozen_bytes += round(n * quantized_bytes)
        else:
            frozen_bytes += n * parameter.element_size()
    shapes = (config.text_config, config.vision_config)
    root = of_layers.pop("", 0)
    largest = max(of_layers.values(), default=0)
    held = (frozen_bytes, master_bytes, compute_bytes)
    return ModelSize(parts, *held, is_lora, trains_keys, optimizer_bytes, largest, root, *shapes)


def part_of(name: str) -> str:
    """The part to which a parameter belongs, by its name."""
    if "visual" in name:
        return "projector" if "merger" in name else "patches" if "patch_embed" in name else "vision"
    return "head" if "lm_head" in name else "language"
