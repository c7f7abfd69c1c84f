"""Where a chat template hands over to the policy: some open its reasoning in the prompt."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import TemplateError

from cv_lightning.conversation import Template
from cv_lightning.errors import CheckpointError

OPEN_REASONING = "<think>\n"
_IS_OPEN = re.compile(r"<think>\s*$")


def reply_start(tokenizer: Any, template: Template) -> str:
    r"""What a tokenizer's chat template writes of the policy's turn, such as "<think>\n"; "" without a chat template.

    Raises:
        CheckpointError: The chat template cannot write a question.
    """
    if tokenizer.chat_template is None:
        return ""
    question = [{"role": "user", "content": "Read."}]
    try:
        text: str = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError, TypeError) as error:
        raise CheckpointError(f"policy.source: its chat template cannot write a question: {error}.") from error
    _, role, start = text.rpartition(f"{template.turn_start}{template.assistant}\n")
    return start if role else ""


def open_reasoning(tokenizer: Any, template: Template) -> None:
    """Let a tokenizer's chat template open the reasoning: by its own switch if it has one, else at its end.

    The template is exported with the policy, so that others ask it as it was trained.
    """
    given = tokenizer.chat_template or ""
    at_end = f"{{%- if add_generation_prompt %}}{{{{- {OPEN_REASONING!r} }}}}{{%- endif %}}"
    for changed in (given, f"{{%- set enable_thinking = true %}}{given}", f"{given}{at_end}"):
        tokenizer.chat_template = changed
        if _IS_OPEN.search(reply_start(tokenizer, template)):
            return
    tokenizer.chat_template = given
    raise CheckpointError("policy.open_reasoning: the tokenizer has no chat template that could open the reasoning.")
