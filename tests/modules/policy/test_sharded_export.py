"""A model that is written part by part gives the same folder as transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from modules.policy import sharded_export
from modules.policy.deferred import INDEX, SINGLE
from modules.policy.sharded_export import adapter_tensors, export_model
from tests.modules.helpers import FAMILIES, LORA, small_policy


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_values_are_those_of_save_pretrained(family: str, tmp_path: Path) -> None:
    model = small_policy(family).causal
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    export_model(model, tmp_path / "ours", torch.float32, is_writer=True)
    ours, theirs = load_file(tmp_path / "ours" / SINGLE), load_file(tmp_path / "theirs" / SINGLE)
    assert theirs.keys() <= ours.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    for (name, expected), (_, parameter) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(parameter, expected), name


def test_large_models_are_several_files_with_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_policy().causal
    n_values = sum(parameter.numel() for parameter in model.parameters())
    monkeypatch.setattr(sharded_export, "_FILE_BYTES", 2 * n_values // 3)
    export_model(model, tmp_path, torch.bfloat16, is_writer=True)
    index = json.loads((tmp_path / INDEX).read_text(encoding="utf-8"))
    files = sorted({*index["weight_map"].values()})
    assert files == [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    assert len(files) > 1
    assert index["metadata"]["total_size"] == 2 * n_values
    for file in files:
        tensors = load_file(tmp_path / file)
        assert {name for name, home in index["weight_map"].items() if home == file} == tensors.keys()
        n_bytes = sum(2 * tensor.numel() for tensor in tensors.values())
        assert n_bytes <= 2 * n_values // 3 or len(tensors) == 1
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    for (name, expected), (_, parameter) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(parameter, expected.to(torch.bfloat16)), name


def test_adapters_are_left_out_of_the_model_and_kept_apart(tmp_path: Path) -> None:
    policy, base = small_policy(lora=LORA), small_policy()
    export_model(policy.causal, tmp_path, torch.float32, is_writer=True)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    for (name, expected), (_, parameter) in zip(base.causal.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(parameter, expected), name
    kept = adapter_tensors(policy.model, torch.float32)
    assert kept
    assert all(".lora_" in name for name in kept)


def test_a_process_that_does_not_write_leaves_nothing_and_a_fault_is_raised_at_the_end(tmp_path: Path) -> None:
    model = small_policy().causal
    export_model(model, tmp_path, torch.float32, is_writer=False)
    assert not [*tmp_path.iterdir()]
    (tmp_path / SINGLE).mkdir()
    with pytest.raises(OSError, match=r".+"):
        export_model(model, tmp_path, torch.float32, is_writer=True)
    assert not (tmp_path / "config.json").exists()
