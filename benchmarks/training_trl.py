"""Runs TRL's trainers on the steps of `training_cases.py`; see `training_step.py`."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, LogitsProcessor, LogitsProcessorList, TrainerCallback
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.processing_utils import ProcessorMixin

from benchmarks.training_cases import KL, LEARNING_RATE, Script, StepCase, StepWork
from modules.policy.tiny import CHAT_TEMPLATE

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
#: The template renders the markup of a call instead of the policy sampling it, because TRL requires that.
_RENDERED = CHAT_TEMPLATE.replace(
    "message.role + '\n' + render(message.content)",
    "message.role + '\n' + render(message.content) + (message.tool_calls | tojson if message.tool_calls else '')",
)


class _Processor(Qwen2_5_VLProcessor):
    """The processor without its part for videos, which needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=_RENDERED)
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = map(
            tokenizer.convert_tokens_to_ids, (self.image_token, self.video_token)
        )


class _Turns(TrainerCallback):
    def __init__(self, turns: Any, work: StepWork, metrics: Any) -> None:
        self._turns, self._work, self._metrics = turns, work, metrics

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._turns.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if mean := self._metrics.get("completions/mean_length"):
            self._work.check(round(mean[-1] * len(self._work.scripts[0])), state.global_step - 1)
        self._turns.end(is_last=state.global_step == len(self._work.batches))


def run_trl(case: StepCase, work: StepWork, turns: Any) -> None:
    """Run TRL's steps on the policy, which it reads from a folder."""
    with tempfile.TemporaryDirectory() as folder:
        work.policy.export(folder)
        trainer = (_sft if case.is_sft else _grpo)(case, work, Path(folder))
        trainer.add_callback(_Turns(turns, work, trainer._metrics["train"]))
        trainer.train()


def _arguments(case: StepCase, work: StepWork, folder: Path) -> dict[str, Any]:
    n_sequences = case.n_prompts * case.group_size
    batch = min(case.trl_batch, n_sequences)
    return {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": n_sequences // batch,
        "max_steps": len(work.batches),
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _sft(case: StepCase, work: StepWork, folder: Path) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    policy = work.policy

    def collate(rows: Sequence[Any]) -> dict[str, Tensor]:
        batch = policy.collate([row["tokens"] for row in rows])
        images = [viewed.image for row in rows for viewed in row["tokens"].images]
        return {
            "input_ids": batch.input_ids_BT,
            "attention_mask": batch.is_valid_BT.long(),
            "labels": batch.input_ids_BT.masked_fill(~batch.is_trained_BT, -100),
            "mm_token_type_ids": (batch.input_ids_BT == policy.core.config.image_token_id).long(),
            **policy.image_processor(images=images, return_tensors="pt"),
        }

    options = SFTConfig(
        **_arguments(case, work, folder), dataset_kwargs={"skip_prepare_dataset": True}, max_length=None
    )
    trainer = SFTTrainer(
        AutoModelForImageTextToText.from_pretrained(folder),
        options,
        data_collator=collate,
        train_dataset=Dataset.from_list([{"input_ids": [0], "labels": [0]}]),
        processing_class=_Processor(policy.image_processor, policy.tokenizer),
    )
    trainer.train_dataset = [{"tokens": episode.tokens} for batch in work.batches for episode in batch]
    trainer._get_train_sampler = lambda *_: None  # keep their order
    return trainer


def _grpo(case: StepCase, work: StepWork, folder: Path) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer import grpo_trainer

    policy = work.policy
    policy.tokenizer.response_template = "parsed by _parsed"
    grpo_trainer.parse_response = _parsed
    script = _Scripted(case, work)
    options = GRPOConfig(
        **_arguments(case, work, folder),
        num_generations=case.group_size,
        max_completion_length=400,
        beta=KL,
        temperature=1.0,
        top_k=0,
        shuffle_dataset=False,
    )
    trainer = GRPOTrainer(
        str(folder),
        reward_funcs=[lambda completions, **kwargs: [float(n % 3 == 0) for n, _ in enumerate(completions)]],
        args=options,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": ""}]}]),
        processing_class=_Processor(policy.image_processor, policy.tokenizer),
        tools=[] if case.is_long else [script.code_image_tool],
    )
    trainer.train_dataset = [{"prompt": _messages(sample)} for batch in work.batches for sample in batch]
    trainer.model.generate = partial(script.generate, trainer.model.generate)
    return trainer


def _messages(sample: Any) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": part} if isinstance(part, Image.Image) else {"type": "text", "text": part}
             for part in sample.parts]  # fmt: skip
    return [{"role": "system", "content": "Read."}, {"role": "user", "content": parts}]


def _parsed(tokenizer: Any, ids: Any, prefix: Any = None, tools: Any = None) -> dict[str, Any]:
    """Parse a reply to a message, including its call."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if call := _CALL.search(text):
        message["tool_calls"] = [{"type": "function", "function": json.loads(call[1])}]
    return message


class _Scripted(LogitsProcessor):
    """Lets `generate` write the scripts of all steps, and stores the results of calls."""

    def __init__(self, case: StepCase, work: StepWork) -> None:
        self._n_turns, self._work = case.n_turns, work
        self._n_calls = -1
        self._n_results = 0
        self._turns: list[list[int]] = []
        self._n_prompt = 0

    def generate(self, generate: Any, **arguments: Any) -> Tensor:
        """Generate one turn of all rollouts of a step."""
        self._n_calls += 1
        step, turn = divmod(self._n_calls, self._n_turns)
        scripts: list[Script] = self._work.scripts[step]
        self._turns = [script[turn] for script in scripts]
        self._n_prompt, self._n_results = arguments["input_ids"].shape[1], 0
        tokens: Tensor = generate(**arguments, logits_processor=LogitsProcessorList([self]))
        return tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Leave only the script's token for each row."""
        place = input_ids.shape[1] - self._n_prompt
        forced = torch.tensor([[turn[min(place, len(turn) - 1)]] for turn in self._turns])
        return torch.full_like(scores, float("-inf")).scatter_(1, forced, 0.0)

    def code_image_tool(self, code: str, description: str, image_index: int) -> list[Any]:
        """Run code on an image.

        Args:
            code: The code.
            description: What it is for.
            image_index: The image.

        Returns:
            The result.
        """
        image = self._work.results[self._n_calls // self._n_turns][self._n_results]
        self._n_results += 1
        return [{"type": "image", "image": image}]
