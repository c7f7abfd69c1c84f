"""Two temperatures in one turn: one for words, one inside tool calls (Thyme, arXiv 2508.11630)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cv_lightning.errors import ConfigError
from modules.policy.token_batch import TokenBatch


@dataclass(frozen=True)
class CallTokens:
    """The ids of the tags around a tool call.

    A token is inside a call if the last tag before it in its turn is an opening tag. So the closing tag is inside, and
    the opening tag is not. This depends only on sampled ids, so the sampler and the scorer agree.
    """

    opening: int
    closing: int

    @classmethod
    def of(cls, tokenizer: Any) -> CallTokens:
        """The tags of a tokenizer.

        Raises:
            ConfigError: The tokenizer writes a tag as several tokens.
        """
        vocabulary = tokenizer.get_vocab()
        if "<tool_call>" not in vocabulary or "</tool_call>" not in vocabulary:
            raise ConfigError(
                "rollout.call_temperature: expected a tokenizer that has <tool_call> and </tool_call> as one token "
                "each. Leave call_temperature out."
            )
        return cls(vocabulary["<tool_call>"], vocabulary["</tool_call>"])

    def after(self, is_inside_B: Tensor, ids_B: Tensor) -> Tensor:
        """Whether the tokens after `ids_B` are inside a call, [B]; `is_inside_B` is the same for `ids_B`."""
        return (is_inside_B | (ids_B == self.opening)) & (ids_B != self.closing)

    def inside(self, batch: TokenBatch) -> Tensor:
        """Whether each token of a batch is inside a call of the policy, [B, T]."""
        ids_BT, is_trained_BT = batch.input_ids_BT, batch.is_trained_BT
        places_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        opened_BT = torch.where(is_trained_BT & (ids_BT == self.opening), places_T, -1).cummax(1).values
        ended_BT = torch.where(~is_trained_BT | (ids_BT == self.closing), places_T, -1).cummax(1).values
        is_open_BT = opened_BT > ended_BT
        return torch.nn.functional.pad(is_open_BT[:, :-1], (1, 0)) & is_trained_BT


def token_temperatures(batch: TokenBatch, tokens: CallTokens, words: float, calls: float) -> Tensor:
    """The temperature at which each token of a batch was sampled, [B, T]."""
    return torch.where(tokens.inside(batch), calls, words)
