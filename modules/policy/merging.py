"""Merges the adapters of a source into a sharded model; each process computes its own rows of each product."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cv_lightning.errors import CheckpointError, ConfigError, first_line
from modules.policy.deferred import OF_SHAPES, copy_rows, own_rows, renamer, weights_by_name
from modules.policy.shards import local

#: Settings of adapters that do not affect their arithmetic.
_NOTES = {"base_model_name_or_path", "inference_mode", "peft_version", "auto_mapping", "revision"}


def is_adapter(source: str) -> bool:
    """Whether a folder holds adapters and no model."""
    return (Path(source) / "adapter_config.json").exists()


def base_of(source: str) -> str:
    """The folder or hub name of the model under the adapters of a folder; any other source is returned as it is.

    Raises:
        CheckpointError: The adapters do not name their base.
    """
    if not is_adapter(source):
        return source
    folder = Path(source)
    if (folder / "base").is_dir():
        return str(folder / "base")
    return str(_settings(source)["base_model_name_or_path"])


def check_mergeable(source: str) -> None:
    """Raise `ConfigError` for adapters that are more than a product of two matrices, or start from whole weights."""
    from peft import LoraConfig

    settings = _settings(source)
    usual = LoraConfig().to_dict()
    odd = {name for name, value in settings.items() if value != usual.get(name)} - OF_SHAPES - _NOTES
    odd |= {name for name in ("bias", "lora_bias") if settings.get(name, usual[name]) != usual[name]}
    if settings.get("init_lora_weights", True) not in (True, False, "gaussian"):
        odd.add("init_lora_weights")
    if odd:
        raise ConfigError(
            f"policy.source: the adapters in {source!r} cannot be merged into parts of their base because of "
            f"{', '.join(sorted(odd))}. Set policy.deferred: false, so that each process loads the whole model."
        )


@torch.no_grad()
def merge_shards(model: Any, source: str) -> None:
    """Add the adapters of a folder to the weights of their base; each process reads and computes its rows.

    Args:
        model: Hugging Face's model with the weights of `base_of(source)`, maybe with new adapters in it.
        source: A folder that `check_mergeable` accepts.

    Raises:
        CheckpointError: The adapters belong to another model, or their file is broken.
    """
    settings, targets = _settings(source), weights_by_name(model)
    rename = renamer(model, targets)
    try:
        with safe_open(Path(source) / "adapter_model.safetensors", framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  # not a dictionary
                if ".lora_B." in key:
                    continue
                name = rename(key.removeprefix("base_model.model.").replace(".lora_A.", "."))
                for target in targets[name]:
                    if ".lora_A." in key:
                        low, high = file.get_tensor(key), file.get_slice(key.replace(".lora_A.", ".lora_B."))
                        _add_product(target, high, low, _scale(settings, name, len(low)))
                    else:  # trained whole (modules_to_save)
                        copy_rows(target, file.get_slice(key), name)
    except (KeyError, RuntimeError, ValueError) as error:
        raise misfit(source, error) from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"policy.source: cannot load {source!r}: {first_line(error)}") from error


def misfit(source: str, error: Exception) -> CheckpointError:
    """The error for adapters that do not fit their base."""
    cause = f"their base {base_of(source)!r}: {first_line(error).removesuffix('.')}"
    return CheckpointError(f"policy.source: the adapters in {source!r} do not fit {cause}.")


def _settings(source: str) -> dict[str, Any]:
    path = Path(source) / "adapter_config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or "base_model_name_or_path" not in settings:
            raise ValueError("it does not name its base_model_name_or_path")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"policy.source: {path}: cannot be read ({first_line(error)}). Export the policy again."
        ) from error
    return settings


def _scale(settings: dict[str, Any], name: str, rank: int) -> float:
    """The factor by which PEFT scales a product."""
    from peft.utils.other import get_pattern_key

    alphas = settings.get("alpha_pattern") or {}
    module = name.removesuffix(".weight")
    alpha = float(alphas.get(get_pattern_key([*alphas], module), settings["lora_alpha"]))
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _add_product(target: Tensor, high: Any, low_RI: Tensor, scale: float) -> None:
    if (high.get_shape()[0], low_RI.shape[1]) != tuple(target.shape):
        raise ValueError("other shapes")
    rows = own_rows(target)
    if rows is not None:
        part = local(target)
        part.add_((high[rows].to(part.device).float() @ low_RI.to(part.device).float()) * scale)
