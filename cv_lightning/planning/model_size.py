"""A model in numbers: parameters by part, and the shapes that activations and caches are made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from cv_lightning.errors import CheckpointError

#: A parameter's name up to the number of its decoder layer or vision block: what FSDP2 gathers at once.
_LAYER = re.compile(r".*\.(layers|blocks)\.\d+\.")
#: Parts in the order in which data passes them.
PARTS = ("patches", "vision", "projector", "language", "head")


@dataclass
class PartSize:
    """Parameters of a part.

    Attributes:
        n: All of them.
        n_trained: Those that an optimizer steps.
        n_products: Those that are factors of matrix products: a row that passes costs 2 FLOPs for each.
        n_trained_products: Those of them that are trained.
    """

    n: int = 0
    n_trained: int = 0
    n_products: int = 0
    n_trained_products: int = 0


@dataclass(frozen=True)
class ModelSize:
    """A network in numbers.

    Attributes:
        parts: Parameters by `PARTS`; the input embeddings are in "language" and no factors of products.
        frozen_bytes: Bytes of the parameters that no optimizer steps, as they are held.
        master_bytes: Bytes of those that one steps, as it holds them.
        compute_bytes: Bytes of a number in the dtype that the network computes in.
        is_lora: Whether it is trained through adapters.
        trains_keys: Whether the products that make the language model's keys are trained.
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
        """Parameters that an optimizer steps."""
        return sum(part.n_trained for part in self.parts.values())

    @property
    def head_dim(self) -> int:
        """Features of an attention head of the language model."""
        given = getattr(self.text, "head_dim", None)
        return int(given or self.text.hidden_size // self.text.num_attention_heads)

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of keys and values of a token in all layers."""
        heads = self.text.num_key_value_heads
        return int(2 * self.text.num_hidden_layers * heads * self.head_dim * self.compute_bytes)

    def layer_bytes_per_token(self) -> int:
        """Bytes that a decoder layer keeps of a token for the backward pass.

        Norms compute in float32: they keep input (float32), normalised input and output. Attention keeps queries, keys,
        values, its output and one sum; the feed-forward part keeps gate, activated gate, up and product.
        """
        text, size = self.text, self.compute_bytes
        d_all = text.num_attention_heads * self.head_dim
        d_kv = text.num_key_value_heads * self.head_dim
        norm = 4 + 2 * size
        n_normed = 2 * text.hidden_size + (d_all + d_kv if text.model_type == "qwen3_vl_text" else 0)
        return int(
            norm * n_normed + size * (2 * d_all + 2 * d_kv + 4 * text.intermediate_size) + 4 * text.num_attention_heads
        )

    def block_bytes_per_patch(self) -> int:
        """Bytes that a block of the vision tower keeps of a patch; Qwen3-VL's has no gate and plain layer norms."""
        vision, size = self.vision, self.compute_bytes
        is_gated = vision.model_type.startswith("qwen2_5")
        norms = 2 * (4 + 2 * size if is_gated else 2 * size) * vision.hidden_size
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
        compute_bytes: Bytes of a number in the dtype that it computes in.
        is_lora: Whether it is trained through adapters.
        optimizer_bytes: Bytes of the optimizer's states.
        quantized_bytes: Bytes of a weight of the decoder's frozen matrices if they are quantised.

    Raises:
        CheckpointError: The model has recurrent layers, whose activations and FLOPs are not counted here.
    """
    if "linear_attention" in (getattr(config.text_config, "layer_types", None) or ()):
        raise CheckpointError(
            f"plan: {config.model_type!r} has recurrent layers, whose memory and time are not counted. "
            "Plan a model whose layers all have attention, or measure a short run of this one."
        )
    parts = {name: PartSize() for name in PARTS}
    in_products = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv3d)}
    frozen_bytes = master_bytes = 0
    trains_keys = False
    of_layers: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        is_product, n = id(parameter) in in_products, parameter.numel()
        is_tied = is_product and "embed_tokens" in name  # listed once, and multiplied with by the head only
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
    """The part that a parameter belongs to, by its name."""
    if "visual" in name:
        return "projector" if "merger" in name else "patches" if "patch_embed" in name else "vision"
    return "head" if "lm_head" in name else "language"
