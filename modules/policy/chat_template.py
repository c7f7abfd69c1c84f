"""The conversation of a model: its family's markup, and the start of a reply that its chat template writes."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from cv_lightning.conversation import OPENS_REASONING, Conversation, Template
from cv_lightning.errors import CheckpointError
from cv_lightning.tools.toolbox import Toolbox
from modules.policy.families import FAMILIES
from modules.policy.image_patches import Patcher

OPEN_REASONING = "<think>\n"


def reply_start(tokenizer: Any, template: Template) -> str:
    r"""The start of a reply that a tokenizer's chat template writes, such as "<think>\n"; "" without a chat template.

    Raises:
        CheckpointError: The chat template cannot write a question.
    """
    if tokenizer.chat_template is None:
        return ""
    question = [{"role": "user", "content": "Read."}]
    try:
        text: str = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError, TypeError) as error:
        raise CheckpointError(f"policy.source: the chat template fails on a question: {error}.") from error
    _, role, start = text.rpartition(f"{template.turn_start}{template.assistant}\n")
    return start if role else ""


def begin_reasoning(tokenizer: Any, template: Template) -> None:
    """Let a tokenizer's chat template open the reasoning: by its own switch if it has one, else at its end.

    The template is exported with the policy, so that others prompt the policy as it was trained.
    """
    given = tokenizer.chat_template or ""
    at_end = f"{{%- if add_generation_prompt %}}{{{{- {OPEN_REASONING!r} }}}}{{%- endif %}}"
    for changed in (given, f"{{%- set enable_thinking = true %}}{given}", f"{given}{at_end}"):
        tokenizer.chat_template = changed
        if OPENS_REASONING.search(reply_start(tokenizer, template)):
            return
    tokenizer.chat_template = given
    raise CheckpointError("policy.open_reasoning: the tokenizer has no chat template that can open the reasoning.")


def make_conversation(
    config: Any,
    tokenizer: Any,
    patcher: Patcher,
    system_prompt: str,
    max_context_tokens: int,
    toolbox: Toolbox,
    open_reasoning: bool = False,
) -> Conversation:
    """The conversation of a model.

    Args:
        config: Hugging Face's configuration of the model.
        tokenizer: Its tokenizer, whose chat template changes with `open_reasoning`.
        patcher: Cuts its images into patches.
        system_prompt: See `Policy`.
        max_context_tokens: See `Policy`.
        toolbox: See `Policy`.
        open_reasoning: See `Policy`.

    Raises:
        CheckpointError: The chat template cannot write a question, or is missing and so cannot open the reasoning.
    """
    family = FAMILIES[config.model_type]
    if open_reasoning:
        begin_reasoning(tokenizer, family.template)
    return Conversation(
        tokenizer,
        lambda size: family.count_image_tokens(config, patcher.grid(size)),
        system_prompt,
        max_context_tokens,
        toolbox,
        family.template,
        reply_start(tokenizer, family.template),
        seen_size=patcher.target,
    )
