"""Reasoning checkpoints: the prompt opens the reasoning, and the policy's turn continues it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cv_lightning.conversation import QWEN_TEMPLATE, format_answer, parse_reply
from cv_lightning.errors import CheckpointError
from cv_lightning.rollout import Sampling
from cv_lightning.types import Observation, Sample, Trajectory, Turn
from modules.policy.chat_template import begin_reasoning, reply_start
from modules.policy.policy import Policy
from modules.policy.rows import reader_of
from modules.policy.tiny import CHAT_TEMPLATE, train_tokenizer
from tests.modules.helpers import SIZE, noise, small_policy

GENERATION = "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
THINKING = "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n' -}}{%- endif -%}"
#: As in hybrid checkpoints: reasoning is a switch, which is off by default.
HYBRID = (
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- if enable_thinking is defined and "
    "enable_thinking -%}{{- '<think>\\n' -}}{%- else -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}{%- endif -%}"
)
SAMPLE = Sample("a", "Read.", (noise(),), "K7P")


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Thinking checkpoint, which differs from others only in its chat template."""
    folder = tmp_path_factory.mktemp("thinking")
    assert GENERATION in CHAT_TEMPLATE
    policy = small_policy("qwen3_vl")
    policy.tokenizer.chat_template = CHAT_TEMPLATE.replace(GENERATION, THINKING)
    policy.export(folder)
    return folder


def rendered(policy: Policy, **options: Any) -> list[int]:
    """The prompt as rendered by the tokenizer's own template."""
    messages = [
        {"role": "system", "content": "Read."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Read."}]},
    ]
    text = policy.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    n_tokens = policy.count_image_tokens((84, 84))
    return policy.tokenizer.encode(  # type: ignore[no-any-return]
        text.replace("<|image_pad|>", "<|image_pad|>" * n_tokens), add_special_tokens=False
    )


def test_the_source_says_how_a_reply_begins(thinking: Path) -> None:
    policy = small_policy(source=str(thinking))
    assert policy.conversation.reply_start == "<think>\n"
    prompt = policy.conversation.start(SAMPLE)
    assert prompt.ids == rendered(policy)
    assert policy.tokenizer.decode(prompt.ids).endswith("<|im_start|>assistant\n<think>\n")
    assert small_policy("qwen3_vl").conversation.reply_start == ""


def test_an_option_opens_the_reasoning_and_is_exported(tmp_path: Path) -> None:
    policy = small_policy(open_reasoning=True)
    assert policy.conversation.start(SAMPLE).ids == rendered(policy)
    policy.export(tmp_path)
    again = small_policy(source=str(tmp_path))
    assert again.conversation.reply_start == "<think>\n"
    assert again.conversation.start(SAMPLE).ids == policy.conversation.start(SAMPLE).ids
    assert (
        small_policy(source=str(tmp_path), open_reasoning=True).tokenizer.chat_template == again.tokenizer.chat_template
    )


@pytest.mark.parametrize(
    ("template", "start"), [(GENERATION, ""), (THINKING, "<think>\n"), (HYBRID, "<think>\n\n</think>\n\n")]
)
def test_templates_of_three_kinds(template: str, start: str) -> None:
    tokenizer = train_tokenizer(["a"], 300, 4)
    tokenizer.chat_template = CHAT_TEMPLATE.replace(GENERATION, template)
    assert reply_start(tokenizer, QWEN_TEMPLATE) == start
    begin_reasoning(tokenizer, QWEN_TEMPLATE)
    assert reply_start(tokenizer, QWEN_TEMPLATE) == "<think>\n"


def test_templates_that_say_nothing_and_broken_ones() -> None:
    tokenizer = train_tokenizer(["a"], 300, 4)
    tokenizer.chat_template = None
    assert reply_start(tokenizer, QWEN_TEMPLATE) == ""
    with pytest.raises(CheckpointError, match="no chat template that can open the reasoning"):
        begin_reasoning(tokenizer, QWEN_TEMPLATE)
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(CheckpointError, match="fails on a question: no"):
        reply_start(tokenizer, QWEN_TEMPLATE)


@pytest.mark.parametrize(
    ("text", "continued"),
    [
        ("<think>It is upright.</think>\n<answer>K7P</answer>", "It is upright.</think>\n<answer>K7P</answer>"),
        ("<think>\nIt is.\n</think>\n\n<answer>K7P</answer>", "It is.\n</think>\n\n<answer>K7P</answer>"),
        ("It is.\n</think>\n\n<answer>K7P</answer>", "It is.\n</think>\n\n<answer>K7P</answer>"),
        ("<answer>K7P</answer>", "\n</think>\n\n<answer>K7P</answer>"),
    ],
    ids=["ours", "Qwen's", "without its opening", "no reasoning"],
)
def test_recorded_turns_continue_the_opened_reasoning(thinking: Path, text: str, continued: str) -> None:
    policy = small_policy(source=str(thinking))
    tokens = policy.conversation.encode(Trajectory(SAMPLE, [Turn(text, parse_reply(text))]))
    prompt = rendered(policy)
    assert tokens.ids[: len(prompt)] == prompt
    assert policy.tokenizer.decode(tokens.ids[len(prompt) :]) == f"{continued}<|im_end|>"
    assert tokens.is_trained == [False] * len(prompt) + [True] * (len(tokens) - len(prompt))
    again = policy.conversation.decode_reply(tokens.ids[len(prompt) :])
    assert parse_reply(again).answer == "K7P"
    assert policy.conversation.encode(Trajectory(SAMPLE, [Turn(again, parse_reply(again))])).ids == tokens.ids


def test_every_turn_begins_inside_the_reasoning(thinking: Path) -> None:
    """An unclosed turn is reasoning, whatever tags it contains, and the next turn opens the reasoning again."""
    policy = small_policy(source=str(thinking))
    conversation = policy.conversation
    ids = conversation.tokenizer.encode("It says <answer>K7P</answer>", add_special_tokens=False)
    reply = parse_reply(conversation.decode_reply(ids), conversation.toolbox)
    assert reply.answer is None
    assert reply.fault is not None
    assert "<think>" in reply.fault
    text = format_answer("Hm.", "K7P")
    turns = [Turn("<think>Hm.</think>\n<tool_call>\n{}\n</tool_call>", reply, Observation("error", text="no"))]
    tokens = conversation.encode(Trajectory(SAMPLE, [*turns, Turn(text, parse_reply(text))]))
    assert policy.tokenizer.decode(tokens.ids).count("<|im_start|>assistant\n<think>\nHm.</think>") == 2


@torch.no_grad()
def test_sampled_turns_score_as_they_were_sampled(thinking: Path) -> None:
    policy = small_policy(source=str(thinking))
    context = policy.conversation.start(SAMPLE)
    (completion,) = policy.open_session(Sampling(1.0, 6, seed=1)).sample([context])
    assert policy.conversation.decode_reply(completion.ids).startswith("<think>\n")
    context.append(completion.ids, is_trained=True, logprobs=completion.logprobs)
    batch = policy.collate([context])
    torch.testing.assert_close(policy.token_logprobs(batch)[0], batch.logprobs_BT, atol=1e-4, rtol=0)


def test_rows_are_checked_with_the_same_prompt(thinking: Path) -> None:
    arguments = {"source": str(thinking), "build": None, "system_prompt": "Read.", "toolbox": None}
    arguments |= {"min_pixels": 28 * 28, "max_pixels": 200 * 200, "max_context_tokens": 600, "open_reasoning": False}
    policy = small_policy(source=str(thinking))
    assert reader_of(arguments).conversation.start(SAMPLE).ids == policy.conversation.start(SAMPLE).ids
    built = {**arguments, "source": None, "build": {"family": "qwen3_5", **SIZE}, "open_reasoning": True}
    assert reader_of(built).conversation.reply_start == "<think>\n"
