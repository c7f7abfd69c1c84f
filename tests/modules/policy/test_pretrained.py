"""An export loads through transformers, peft and `Policy` with the same scores; a failed load gives the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModel, PeftModel
from transformers import AutoModelForImageTextToText, AutoTokenizer, BertConfig, LlamaConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from cv_lightning.errors import CheckpointError, ConfigError
from cv_lightning.tools.code import SYSTEM_PROMPT
from modules.optimizer import OptimizerConfig
from modules.policy.policy import Policy
from modules.policy.pretrained import how_to_talk, pixel_bounds
from modules.policy.tiny import TinyConfig
from modules.policy.token_batch import TokenBatch
from modules.sft import SFTModule
from tests.modules.helpers import FAMILIES, LORA, SIZE, episodes, sampled_conversations, small_policy, train


def moved(policy: Policy, seed: int = 7) -> Policy:
    """The policy after a random step away from its initial weights, so that loading any others shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return policy


def batch_of(policy: Policy) -> TokenBatch:
    return policy.collate(sampled_conversations(policy))


def scores(policy: Policy, batch: TokenBatch) -> torch.Tensor:
    with torch.no_grad():
        return policy.token_logprobs(batch)[0]


def raw_logits(model: Any, policy: Policy, batch: TokenBatch) -> torch.Tensor:
    pixels = policy.image_processor(images=batch.images.images_N, return_tensors="pt")
    rows = batch.input_ids_BT[:1, : int(batch.is_valid_BT[0].sum())]
    n_images = int((rows == policy.core.config.vision_start_token_id).sum())
    grid = pixels["image_grid_thw"][batch.images.occurrences[:n_images]]
    assert batch.images.occurrences[:n_images] == list(range(n_images))
    with torch.no_grad():
        output = model(
            input_ids=rows,
            mm_token_type_ids=(rows == policy.core.config.image_token_id).int(),
            pixel_values=pixels["pixel_values"][: int(grid.prod(-1).sum())],
            image_grid_thw=grid,
        )
    logits: torch.Tensor = output.logits
    return logits


def within(family: str) -> float:
    """Tolerance: recurrent layers normalize keys, which magnifies rounding of the vision tower's other attention."""
    return 1e-4 if family == "qwen3_5" else 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_export_loads_through_transformers_and_policy(family: str, tmp_path: Path) -> None:
    policy = moved(small_policy(family))
    batch = batch_of(policy)
    policy.export(tmp_path / "deep" / "policy")
    folder = str(tmp_path / "deep" / "policy")
    again = small_policy(source=folder)
    torch.testing.assert_close(scores(again, batch), scores(policy, batch))
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    expected = raw_logits(policy.model, policy, batch)
    torch.testing.assert_close(raw_logits(model, policy, batch), expected, atol=within(family), rtol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    assert tokenizer.chat_template == policy.tokenizer.chat_template
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    assert processor.to_dict() == policy.image_processor.to_dict()
    assert not torch.equal(scores(small_policy(family), batch), scores(policy, batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_load_through_peft_and_policy(family: str, tmp_path: Path) -> None:
    policy = moved(small_policy(family, lora=LORA))
    batch = batch_of(policy)
    policy.export(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 1_000_000
    torch.testing.assert_close(scores(small_policy(source=str(tmp_path)), batch), scores(policy, batch))
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    expected = raw_logits(policy.model, policy, batch)
    torch.testing.assert_close(raw_logits(loaded, policy, batch), expected, atol=within(family), rtol=1e-5)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    assert AutoPeftModel.from_pretrained(tmp_path) is not None


def test_adapters_on_a_folder_name_it(tmp_path: Path) -> None:
    moved(small_policy()).export(tmp_path / "base_model")
    policy = moved(small_policy(source=str(tmp_path / "base_model"), lora=LORA))
    batch = batch_of(policy)
    policy.export(tmp_path / "adapters")
    assert not (tmp_path / "adapters" / "base").exists(), "whoever has the base need not have it twice"
    torch.testing.assert_close(scores(small_policy(source=str(tmp_path / "adapters")), batch), scores(policy, batch))


def test_adapters_on_adapters_keep_the_first(tmp_path: Path) -> None:
    """SFT with adapters, then RL with adapters from its export: the second export must hold both."""
    moved(small_policy(lora=LORA)).export(tmp_path / "sft")
    policy = moved(small_policy(source=str(tmp_path / "sft"), lora=LORA), seed=8)
    batch = batch_of(policy)
    policy.export(tmp_path / "rl")
    torch.testing.assert_close(scores(small_policy(source=str(tmp_path / "rl")), batch), scores(policy, batch))


def test_exported_folder_may_be_moved(tmp_path: Path) -> None:
    policy = moved(small_policy(lora=LORA))
    batch = batch_of(policy)
    policy.export(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    torch.testing.assert_close(scores(small_policy(source=str(tmp_path / "there")), batch), scores(policy, batch))


def test_an_exported_policy_says_how_it_was_talked_to(tmp_path: Path) -> None:
    small_policy(system_prompt="Read, please \u00fc.").export(tmp_path)
    given: dict[str, Any] = {"source": str(tmp_path)}
    assert Policy(**given).conversation.system_prompt == "Read, please \u00fc."
    assert Policy(**given, system_prompt="Look.").conversation.system_prompt == "Look."
    (tmp_path / "conversation.json").unlink()  # as in exports from before the file existed
    assert Policy(**given).conversation.system_prompt == SYSTEM_PROMPT


def test_an_exported_policy_says_at_which_size_it_sees_images(tmp_path: Path) -> None:
    Policy(build=TinyConfig(), min_pixels=784, max_pixels=7056).export(tmp_path)
    size = {"shortest_edge": 784, "longest_edge": 7056}
    assert dict(Policy(source=str(tmp_path)).image_processor.size) == size
    assert dict(Policy(source=str(tmp_path), max_pixels=50176).image_processor.size) == size | {"longest_edge": 50176}
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json.*Export the policy again"):
        pixel_bounds(str(tmp_path), None, None)
    (tmp_path / "conversation.json").unlink()  # nobody says that this project exported it
    assert pixel_bounds(str(tmp_path), None, None) == pixel_bounds(None, None, None) == (3136, 1003520)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"system_prompt": 3}', "[" * 100000])
def test_a_broken_conversation_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "conversation.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"conversation\.json: expected .*system_prompt"):
        how_to_talk(str(tmp_path), None, None)


def test_export_leaves_the_policy_as_it_is(tmp_path: Path) -> None:
    policy = moved(small_policy(lora=LORA))
    batch = batch_of(policy)
    before = scores(policy, batch)
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    policy.export(tmp_path)
    assert torch.equal(scores(policy, batch), before)
    assert [name for name, parameter in policy.named_parameters() if parameter.requires_grad] == trained
    policy.export(tmp_path)


def test_dtype_is_that_of_the_argument(tmp_path: Path) -> None:
    small_policy().export(tmp_path)
    for dtype in ("bfloat16", "float32"):
        policy = small_policy(source=str(tmp_path), dtype=dtype)
        assert {parameter.dtype for parameter in policy.parameters()} == {getattr(torch, dtype)}


def test_loaded_policy_is_in_training_mode(tmp_path: Path) -> None:
    """Gradient checkpointing and adapter dropout have no effect in evaluation mode."""
    small_policy().export(tmp_path)
    assert all(module.training for module in Policy(source=str(tmp_path)).modules())


def test_folder_without_image_processor_takes_the_familys(tmp_path: Path) -> None:
    policy = small_policy("qwen3_vl")
    policy.export(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match=r"no preprocessor_config\.json"):
        again = small_policy(source=str(tmp_path))
    assert list(again.image_processor.image_mean) == [0.5] * 3


# ---- what cannot load ------------------------------------------------------------------------------------------------


def test_folder_without_a_policy(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"has no config\.json"):
            small_policy(source=str(folder))


def test_model_of_another_family(tmp_path: Path) -> None:
    for config in (LlamaConfig(), BertConfig()):
        config.save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"policy\.source"):
            small_policy(source=str(tmp_path))


def test_config_without_weights(tmp_path: Path) -> None:
    small_policy().export(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot load"):
        small_policy(source=str(tmp_path))


def test_truncated_weights(tmp_path: Path) -> None:
    small_policy().export(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot load"):
        small_policy(source=str(tmp_path))


def test_weights_of_another_size(tmp_path: Path) -> None:
    small_policy().export(tmp_path / "a")
    small_policy(build=TinyConfig(**{**SIZE, "hidden_size": 64})).export(tmp_path / "b")
    shutil.copy(tmp_path / "b" / "config.json", tmp_path / "a" / "config.json")
    with pytest.raises(CheckpointError, match="cannot load"):
        small_policy(source=str(tmp_path / "a"))


def test_adapters_of_another_base(tmp_path: Path) -> None:
    small_policy(lora=LORA).export(tmp_path / "a")
    small_policy(build=TinyConfig(**{**SIZE, "hidden_size": 64}), lora=LORA).export(tmp_path / "b")
    shutil.rmtree(tmp_path / "a" / "base")
    shutil.copytree(tmp_path / "b" / "base", tmp_path / "a" / "base")
    with pytest.raises(CheckpointError, match="do not fit their base"):
        small_policy(source=str(tmp_path / "a"))


@pytest.mark.parametrize("content", ["{", "[]", '{"r": 4}'])
def test_a_broken_config_of_adapters(content: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: cannot be read.*Export the policy again"):
        small_policy(source=str(tmp_path))


def test_unknown_family_of_a_new_policy() -> None:
    with pytest.raises(ConfigError, match="family"):
        small_policy(build=TinyConfig(family="qwen9_vl", **SIZE))  # type: ignore[arg-type]


# ---- checkpoints of training -----------------------------------------------------------------------------------------


def test_checkpoint_of_another_size_is_named(tmp_path: Path) -> None:
    other = SFTModule(small_policy(build=TinyConfig(**{**SIZE, "hidden_size": 64})))
    train(other, [episodes(2)]).save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"another model: policy\.model.*64.* in the checkpoint"):
        resume(SFTModule(small_policy()), tmp_path / "last.ckpt")


def test_checkpoint_of_another_family_is_named(tmp_path: Path) -> None:
    train(SFTModule(small_policy("qwen3_vl")), [episodes(2)]).save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="belongs to another model"):
        resume(SFTModule(small_policy()), tmp_path / "last.ckpt")


def resume(module: SFTModule, path: Path, steps: int = 2) -> None:
    from lightning import Trainer
    from torch.utils.data import DataLoader

    loader: Any = DataLoader([episodes(2)] * steps, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]
    Trainer(
        max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", num_sanity_val_steps=0,
    ).fit(module, loader, ckpt_path=str(path), weights_only=False)  # fmt: skip


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_resumed_training_continues_exactly(name: Any, tmp_path: Path) -> None:
    config = OptimizerConfig(name=name, lr=3e-3, schedule="cosine")

    def module() -> SFTModule:
        return SFTModule(small_policy(), optimizer=config)

    straight = module()
    train(straight, [episodes(2)] * 4, max_steps=4, max_epochs=-1)
    half = module()
    stopped = train(half, [episodes(2)] * 4, max_steps=4, max_epochs=1, limit_train_batches=2)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    resumed = module()
    resume(resumed, tmp_path / "half.ckpt", 4)
    for (key, expected), actual in zip(
        straight.policy.state_dict().items(), resumed.policy.state_dict().values(), strict=True
    ):
        assert torch.equal(actual, expected), key
