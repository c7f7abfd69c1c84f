"""Checks whether a policy can answer a row or learn from it; needs its tokenizer and image processor, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import AutoTokenizer

from cv_lightning.conversation import Conversation
from cv_lightning.errors import CheckpointError, ConfigError, DataError, first_line
from cv_lightning.types import Sample, Trajectory
from modules.policy.chat_template import make_conversation
from modules.policy.families import FAMILIES
from modules.policy.image_patches import Patcher
from modules.policy.outline import model_config
from modules.policy.pretrained import how_to_talk, pad_id, pixel_bounds
from modules.policy.tiny import TinyConfig, build_tiny
from modules.policy.vocabulary import environment_ids


@dataclass(frozen=True)
class RowReader:
    """Prepares rows for a policy.

    Attributes:
        conversation: The policy's conversation.
        environment_ids: Tokens that only the environment writes.
    """

    conversation: Conversation
    environment_ids: frozenset[int]

    def question(self, sample: Sample) -> Sample:
        """The sample; raises `ConversationError` if its prompt does not fit or an image is too long."""
        self.conversation.start(sample)
        return sample

    def episode(self, trajectory: Trajectory) -> Trajectory:
        """The recorded trajectory with its tokens.

        Raises:
            ConversationError: The conversation does not fit, or an image is too long.
            DataError: There is no turn to learn from, or a learned turn holds a token that only the environment writes.
            ConfigError: A turn calls a tool that the policy does not have.
        """
        tokens = self.conversation.encode(trajectory)
        if not any(tokens.is_trained):
            raise DataError(f"Sample {trajectory.sample.id!r}: the conversation has no assistant turn to learn from.")
        self._check_calls(trajectory)
        for token_id, is_trained in zip(tokens.ids, tokens.is_trained, strict=True):
            if is_trained and token_id in self.environment_ids:  # the policy cannot write it: infinite loss
                raise DataError(
                    f"Sample {trajectory.sample.id!r}: an assistant turn contains "
                    f"{self.conversation.tokenizer.decode([token_id])!r}, which only the environment writes. "
                    "Remove it from the text."
                )
        return replace(trajectory, tokens=tokens)

    def _check_calls(self, trajectory: Trajectory) -> None:
        """Refuse calls that the policy's own rollouts cannot read: they would teach only errors."""
        toolbox = self.conversation.toolbox
        for turn in trajectory.turns:
            call = turn.reply.call
            if call is None or call.fault is not None or not turn.is_trained:
                continue
            read = self.conversation.read_reply(turn.text, trajectory.images).call
            if read is None or read.fault is not None:
                raise ConfigError(
                    f"Sample {trajectory.sample.id!r}: a turn calls {call.name!r}, which is not a tool of the policy "
                    f"(toolbox: {toolbox.kind}). Give the policy and the data the same toolbox."
                )
            if read.code != call.code:
                raise ConfigError(
                    f"Sample {trajectory.sample.id!r}: a turn's box means {call.code!r} in the data and {read.code!r} "
                    f"to the policy (coordinates: {toolbox.coordinates}). Give both the same toolbox."
                )


def reader_of(policy: Mapping[str, Any]) -> RowReader:
    """The reader of the policy that a config describes.

    Args:
        policy: All arguments of `Policy`. No weights are read; a new model (`build`), which is small, is built.

    Raises:
        CheckpointError: The tokenizer or the shapes of `source` are unknown.
    """
    source, build = policy["source"], policy["build"]
    system_prompt, tools = how_to_talk(source, policy["system_prompt"], policy["toolbox"])
    if build is not None:
        model, tokenizer = build_tiny(TinyConfig(**build), tools.kind)
        config = model.config
    else:
        config, _ = model_config(source)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"policy.source: the tokenizer of {source!r} cannot be read: {first_line(error)} "
                "Give a local folder that holds one."
            ) from error
    family = FAMILIES[config.model_type]
    bounds = pixel_bounds(source, policy["min_pixels"], policy["max_pixels"])
    patcher = Patcher(family.processor(config, source, *bounds))
    conversation = make_conversation(
        config, tokenizer, patcher, system_prompt, policy["max_context_tokens"], tools, policy["open_reasoning"]
    )
    return RowReader(conversation, environment_ids(tokenizer, conversation.end_of_turn_id, pad_id(tokenizer)))
