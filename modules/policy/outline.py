"""A policy without weights: the network of a config on the meta device, with the parts that `fit` would train.

It has every parameter with its shape, type and `requires_grad`, so that counts are exact, and takes no memory.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from cv_lightning.errors import CheckpointError, first_line
from modules.policy.families import FAMILIES
from modules.policy.merging import base_of, is_adapter
from modules.policy.precision import hold_masters
from modules.policy.pretrained import add_lora, freeze, how_to_talk, looks_local
from modules.policy.tiny import TinyConfig, build_tiny

#: Shapes of the models that `experiments/` names: the values of https://huggingface.co/<name>/raw/main/config.json, as
#: they are quoted publicly. The totals are those that the hub shows (see the tests). Omitted values are defaults of the
#: family's configuration.
PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Qwen/Qwen2.5-VL-7B-Instruct": (
        "qwen2_5_vl",
        {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
        {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584},
    ),
    "Qwen/Qwen3-VL-8B-Instruct": (
        "qwen3_vl",
        {
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
        {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096},
    ),
}
PUBLISHED["Qwen/Qwen3-VL-8B-Thinking"] = PUBLISHED["Qwen/Qwen3-VL-8B-Instruct"]


@dataclass(frozen=True)
class Outline:
    """A network on the meta device.

    Attributes:
        model: The Hugging Face model, with adapters if the config has them; trained parameters are float32 masters.
        config: Its Hugging Face configuration.
        dtype: Dtype of the computation.
        is_lora: Whether the network is trained through adapters.
        origin: Source of the shapes, as text.
    """

    model: nn.Module
    config: Any
    dtype: torch.dtype
    is_lora: bool
    origin: str


def outline(
    source: str | None = None,
    build: TinyConfig | None = None,
    lora: Mapping[str, Any] | None = None,
    frozen: Sequence[str] = (),
    dtype: str = "float32",
    **others: Any,
) -> Outline:
    """The network that a `Policy` with the same arguments would train.

    Args:
        source: See `Policy`; no weights are read. A model of `PUBLISHED` needs no hub.
        build: See `Policy`.
        lora: See `Policy`.
        frozen: See `Policy`.
        dtype: See `Policy`.
        others: Other arguments of `Policy`; "system_prompt" and "toolbox" decide the vocabulary of a new model.

    Raises:
        CheckpointError: The shapes of `source` are unknown.
        ConfigError: `Policy` would refuse the arguments.
    """
    torch_dtype: torch.dtype = getattr(torch, dtype)
    with torch.device("meta"):
        if build is not None:
            tools = how_to_talk(source, others.get("system_prompt"), others.get("toolbox"))[1]
            model, origin = build_tiny(build, tools.kind)[0], f"policy.build, a new {build.family}"
        else:
            config, origin = model_config(str(source))
            model = FAMILIES[config.model_type].model(config)
        config = model.config
        model.to(torch_dtype)
        freeze(model, frozen)
        if lora is not None:
            model = add_lora(model, dict(lora))
    hold_masters(model, torch_dtype)
    return Outline(model, config, torch_dtype, lora is not None, origin)


def model_config(source: str) -> tuple[Any, str]:
    """The Hugging Face configuration of a folder or hub name, and its origin as text.

    Raises:
        CheckpointError: There is no configuration, or it belongs to another kind of model.
    """
    if is_adapter(source):
        return model_config(base_of(source))
    if looks_local(source) and not (Path(source) / "config.json").exists():
        raise CheckpointError(
            f"policy.source: {source!r} has no config.json, and no config next to this one exports a policy there. "
            "Run the previous stage first, or give the model that it starts from: "
            "--model.policy.source Qwen/Qwen3-VL-8B-Instruct"
        )
    try:
        # A published shape never changes, and a request to an unreachable hub takes half a minute to fail.
        config = AutoConfig.from_pretrained(source, local_files_only=source in PUBLISHED)
    except (OSError, ValueError) as error:
        if source not in PUBLISHED:
            raise CheckpointError(
                f"policy.source: the config.json of {source!r} cannot be read: {first_line(error)} "
                f"Give a local folder. Without the hub, only the shapes of {', '.join(PUBLISHED)} are known."
            ) from error
        kind, text, vision = copy.deepcopy(PUBLISHED[source])
        config = FAMILIES[kind].config(text_config=text, vision_config=vision)
        return config, f"{source}, known without a download"
    if config.model_type not in FAMILIES:
        raise CheckpointError(
            f"policy.source: expected a model of type {' or '.join(FAMILIES)}, got {config.model_type!r} in {source!r}."
        )
    return config, f"config.json of {source}"
