"""Weights that are loaded late, row by row, equal the weights in the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText

from cv_lightning.errors import CheckpointError, ConfigError
from modules.policy.deferred import (
    INDEX,
    SINGLE,
    build_without_weights,
    check_deferrable,
    copy_rows,
    load_shards,
    own_rows,
    weightless_on_host,
    weights_by_name,
)
from modules.policy.shards import give_memory
from tests.modules.helpers import FAMILIES, small_policy


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for family in FAMILIES:
        made[family] = tmp_path_factory.mktemp(family)
        small_policy(family).export(made[family])
    return made


def loaded_late(folder: Path) -> Any:
    model = build_without_weights(str(folder), torch.float32, "sdpa")
    give_memory(model, torch.device("cpu"))
    model.tie_weights()
    load_shards(model, str(folder))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_weights_becomes_the_one_that_transformers_loads(folders: dict[str, Path], family: str) -> None:
    hollow = build_without_weights(str(folders[family]), torch.float32, "sdpa")
    assert all(parameter.is_meta for parameter in hollow.parameters())
    expected = AutoModelForImageTextToText.from_pretrained(folders[family])
    assert not hollow.training
    buffers = dict(expected.named_buffers())
    assert buffers
    for name, buffer in hollow.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    filled = dict(loaded_late(folders[family]).named_parameters())
    for name, parameter in expected.named_parameters():
        assert torch.equal(filled[name], parameter), name


def stored(folder: Path, to: Path, **changes: torch.Tensor | None) -> Path:
    """A copy of a folder with some tensors replaced or removed."""
    for path in folder.iterdir():
        if path.is_file() and path.name != SINGLE:
            (to / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / SINGLE)
    for name, value in changes.items():
        key = name.replace("__", ".")
        assert key in tensors
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value
    save_file(tensors, to / SINGLE, metadata={"format": "pt"})
    return to


def test_files_that_lack_a_tensor_or_have_another_shape_are_refused_by_name(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders["qwen2_5_vl"]
    key = next(name for name in load_file(folder / SINGLE) if name.endswith("layers.0.mlp.up_proj.weight"))
    lacks, other, cut = (tmp_path / name for name in ("lacks", "other", "cut"))
    for each in (lacks, other, cut):
        each.mkdir()
    with pytest.raises(CheckpointError, match=r"lacks .*layers\.0\.mlp\.up_proj\.weight \(and 0 others\)"):
        loaded_late(stored(folder, lacks, **{key.replace(".", "__"): None}))
    with pytest.raises(CheckpointError, match=r"up_proj\.weight: expected shape .*, got \(3, 2\)"):
        loaded_late(stored(folder, other, **{key.replace(".", "__"): torch.zeros(3, 2)}))
    whole = (stored(folder, cut) / SINGLE).read_bytes()
    (cut / SINGLE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot load"):
        loaded_late(cut)


def test_several_files_are_found_by_their_index(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = stored(folders["qwen2_5_vl"], tmp_path)
    tensors = load_file(folder / SINGLE)
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, of_file in parts.items():
        save_file({name: tensors[name] for name in of_file}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, of_file in parts.items() for name in of_file}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    (folder / SINGLE).unlink()
    one, several = loaded_late(folders["qwen2_5_vl"]), loaded_late(folder)
    for (name, expected), (_, parameter) in zip(one.named_parameters(), several.named_parameters(), strict=True):
        assert torch.equal(parameter, expected), name


class Slice:
    """A stored tensor with the interface of safetensors."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return [*self._tensor.shape]

    def __getitem__(self, rows: slice) -> torch.Tensor:
        return self._tensor if not self._tensor.ndim else self._tensor[rows]


def test_a_whole_tensor_is_all_rows_and_a_number_has_none() -> None:
    assert own_rows(torch.zeros(5, 2)) == slice(0, 5)
    target, number = torch.zeros(3, 2), torch.zeros(())
    copy_rows(target, Slice(torch.arange(6.0).reshape(3, 2)), "a")
    copy_rows(number, Slice(torch.tensor(7.0)), "b")
    assert target.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    assert number == 7
    with pytest.raises(ValueError, match=r"c: expected shape \(3, 2\), got \(2, 3\)"):
        copy_rows(target, Slice(torch.zeros(2, 3)), "c")


def test_parameters_without_weights_are_shown_as_zeros_and_come_back() -> None:
    with torch.device("meta"):
        first = nn.Linear(3, 2)
    second = nn.Linear(2, 2)
    model = nn.Sequential(first, second)
    meta, kept = first.weight, second.weight
    with weightless_on_host(model):
        assert (first.weight.device.type, first.weight.shape, first.weight.count_nonzero()) == ("cpu", (2, 3), 0)
        assert first.weight.untyped_storage().nbytes() == 4, "one number for all of it"
        assert second.weight is kept
        first.weight.requires_grad_(False)
    assert first.weight is meta
    assert not meta.requires_grad, "what was frozen stays frozen"
    assert second.weight is kept


def test_parameters_have_the_names_that_they_have_without_adapters() -> None:
    policy = small_policy(lora={"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]})
    names = weights_by_name(policy.model.base_model.model)
    assert not [name for name in names if "lora" in name or "base_layer" in name or "modules_to_save" in name]
    assert len(names["lm_head.weight"]) == 2, "the original and the one that is trained"


def refusal(lora: dict[str, Any], quantization: str | None) -> str:
    """The error for adapters that cannot be deferred; "" if they can be."""
    try:
        check_deferrable(lora, quantization)
    except ConfigError as error:
        return str(error)
    return ""


def test_adapters_that_need_shapes_alone_may_wait_and_others_may_not() -> None:
    may_wait = [{}, {"r": 4, "init_lora_weights": "gaussian"}, {"init_lora_weights": False}]
    may_not = [{"use_dora": True}, {"init_lora_weights": "pissa"}, {"loftq_config": {}}]
    assert [lora for lora in (*may_wait, *may_not) if refusal(lora, None)] == may_not
    assert all("policy.lora: " in refusal(lora, None) for lora in may_not)
    assert "four-bit codes" in refusal({}, "nf4")
