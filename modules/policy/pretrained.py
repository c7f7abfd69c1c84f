"""Loads the parts of a policy and prepares them for training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import logging

from cv_lightning.errors import CheckpointError, ConfigError, first_line
from cv_lightning.tools.choose import make_toolbox, restore_toolbox
from cv_lightning.tools.code import CODE_TOOLS
from cv_lightning.tools.toolbox import Toolbox, ToolboxName
from modules.policy.deferred import build_without_weights, weightless_on_host
from modules.policy.families import FAMILIES
from modules.policy.hub import check_hub, remedy
from modules.policy.merging import base_of, check_mergeable, is_adapter, misfit

#: File in the folder of an exported policy that holds its system prompt and tools.
CONVERSATION_FILE = "conversation.json"
#: Bounds on the pixels of an image as a policy sees it, unless a config or an exported folder has its own.
MIN_PIXELS, MAX_PIXELS = 56 * 56, 28 * 28 * 1280


def looks_local(source: str) -> bool:
    """Whether a source is meant as a folder; a hub name is "owner/name"."""
    return (
        Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") != 1 or Path(source).is_dir()
    )


def load_model(source: str, dtype: torch.dtype, attention: str, deferred: bool = False) -> tuple[Any, Any]:
    """Load a model and its tokenizer from a local folder or the hub; if `deferred`, without its weights.

    A PEFT adapter is loaded with its base model and merged into it; if `deferred`, only the base is built.

    Raises:
        ConfigError: An adapter is deferred, but cannot be merged in parts.
        CheckpointError: The source cannot be loaded, or it is another kind of model.
    """
    if looks_local(source) and not is_adapter(source) and not (Path(source) / "config.json").exists():
        raise CheckpointError(
            f"policy.source: {source!r} has no config.json. Give a folder that a stage exported (run the stage before "
            "this one first), or a hub name."
        )
    if deferred and is_adapter(source):
        check_mergeable(source)
    base = base_of(source)
    if not looks_local(base):
        check_hub(base)
    try:
        with quiet_progress():
            if deferred:
                model = build_without_weights(base, dtype, attention)
            else:
                model = AutoModelForImageTextToText.from_pretrained(base, dtype=dtype, attn_implementation=attention)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, RuntimeError, SafetensorError, HTTPError) as error:
        # RuntimeError: the weights have other shapes than the config says. SafetensorError: a file that is cut short.
        raise CheckpointError(
            f"policy.source: cannot load {source!r}: {first_line(error)} {remedy(base, looks_local(base))}"
        ) from error
    if model.config.model_type not in FAMILIES:
        raise CheckpointError(
            f"policy.source: expected a model of type {' or '.join(FAMILIES)}, got {model.config.model_type!r} in "
            f"{source!r}."
        )
    if is_adapter(source) and not deferred:
        from peft import PeftModel

        try:
            model = PeftModel.from_pretrained(model, source).merge_and_unload().requires_grad_(True)  # PEFT freezes it
        except RuntimeError as error:
            raise misfit(source, error) from error
    return model, tokenizer


def add_lora(model: Any, arguments: dict[str, Any]) -> Any:
    """Wrap a model with LoRA adapters.

    Raises:
        ConfigError: `arguments` do not fit `peft.LoraConfig` or match no module.
    """
    from peft import LoraConfig, get_peft_model

    try:
        with weightless_on_host(model):
            return get_peft_model(model, LoraConfig(**arguments))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"policy.lora: {error}. See peft.LoraConfig for the arguments.") from error


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Compute without adapters; PEFT's own context changes `requires_grad`, which a sharded model does not support."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    were_off = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, was_off in zip(layers, were_off, strict=True):
            layer._disable_adapters = was_off


def freeze(model: Any, parts: Sequence[str]) -> None:
    """Stop training "vision" (the tower), "projector" (its mergers) or "language"."""
    for name, parameter in model.model.visual.named_parameters():
        part = "projector" if "merger" in name else "vision"
        if part in parts:
            parameter.requires_grad_(False)
    if "language" in parts:
        model.model.language_model.requires_grad_(False)
        model.lm_head.requires_grad_(False)


class LinearPatchEmbedding(nn.Module):
    """The patch embedding of still images as a matrix product.

    The stride of its convolution equals its kernel size, so both are the same sum; on two CPU cores the product is
    several times faster. A still image is T equal frames, so one product with the sum of their kernels replaces T
    products. The parameters keep their names, so checkpoints stay compatible.
    """

    def __init__(self, proj: nn.Conv3d) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, patches_ND: Tensor) -> Tensor:
        """Patches [N, C * T * P * P] of T equal frames to features [N, D]."""
        weight_DCTPP = self.proj.weight
        first_NCPP = torch.unflatten(patches_ND, 1, weight_DCTPP.shape[1:])[:, :, 0]
        return functional.linear(
            first_NCPP.flatten(1).to(weight_DCTPP.dtype), weight_DCTPP.sum(2).flatten(1), self.proj.bias
        )


@contextmanager
def quiet_progress() -> Iterator[None]:
    """Hide Hugging Face's progress bars, which break ours, while weights are read or written."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def pad_id(tokenizer: Any) -> int:
    """The id that fills padding: the tokenizer's own, else the end-of-text token."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    return int(tokenizer.convert_tokens_to_ids("<|endoftext|>"))


def store_conversation(folder: Path, prompt: str, toolbox: Toolbox) -> None:
    """Save system prompt and tools beside the weights; raises `OSError` if that fails."""
    content = json.dumps({"system_prompt": prompt, "toolbox": toolbox.describe()}, indent=1)
    (folder / CONVERSATION_FILE).write_text(f"{content}\n", encoding="utf-8")


def how_to_talk(
    source: str | None, system_prompt: str | None, toolbox: Toolbox | ToolboxName | None
) -> tuple[str, Toolbox]:
    """The system prompt and the tools of a policy.

    Args:
        source: Folder or hub name; a folder may hold the prompt and tools that the policy was trained with.
        system_prompt: None takes the folder's, if it has one and the tools are the same, or else that of the tools.
        toolbox: None takes the folder's, if it has one, or else "code".

    Raises:
        CheckpointError: The folder's file is broken, or names tools that this project does not have. A default prompt
            or default tools would give another policy.
        ConfigError: `toolbox` is not a toolbox.
    """
    given = None if toolbox is None else make_toolbox(toolbox)
    if source is None or (system_prompt is not None and given is not None):
        stored = None
    else:
        stored = _stored_conversation(Path(source) / CONVERSATION_FILE)
    if stored is None:
        tools = given or CODE_TOOLS
        return tools.system_prompt if system_prompt is None else system_prompt, tools
    prompt, before = stored
    tools = given or before
    if system_prompt is None:
        system_prompt = prompt if tools.describe() == before.describe() else tools.system_prompt
    return system_prompt, tools


def pixel_bounds(source: str | None, min_pixels: int | None, max_pixels: int | None) -> tuple[int, int]:
    """The smallest and the largest number of pixels at which a policy sees an image.

    None takes the bound of the folder, if `source` is a policy that this project exported, or else the default.

    Raises:
        CheckpointError: The folder's file is broken; other bounds would give another policy.
    """
    smallest, largest = MIN_PIXELS, MAX_PIXELS
    if source is not None and (Path(source) / CONVERSATION_FILE).is_file():
        try:
            size = json.loads((Path(source) / "preprocessor_config.json").read_text(encoding="utf-8"))["size"]
            smallest, largest = int(size["shortest_edge"]), int(size["longest_edge"])
        except FileNotFoundError:
            pass  # `Family.processor` warns of it
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(
                f"{source}/preprocessor_config.json: expected a size with shortest_edge and longest_edge ({error!r}). "
                "Export the policy again."
            ) from error
    return smallest if min_pixels is None else min_pixels, largest if max_pixels is None else max_pixels


def _stored_conversation(path: Path) -> tuple[str, Toolbox] | None:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}).") from error
    try:
        content = json.loads(text)
        prompt = content["system_prompt"]
    except (ValueError, LookupError, TypeError, RecursionError):
        prompt = None
    if not isinstance(prompt, str):
        raise CheckpointError(
            f'{path}: expected {{"system_prompt": "..."}}. Fix the file, or give system_prompt and toolbox.'
        )
    if "toolbox" not in content:
        return prompt, CODE_TOOLS
    try:
        return prompt, restore_toolbox(content["toolbox"])
    except ConfigError as error:
        raise CheckpointError(f"{path}: toolbox: {error}. Fix the file, or give system_prompt and toolbox.") from error
