"""Tokens that only the environment writes."""

from __future__ import annotations

import pytest

from modules.policy.vocabulary import environment_ids
from tests.modules.helpers import FAMILIES, small_policy


@pytest.mark.parametrize("family", FAMILIES)
def test_markup_is_the_environments_and_the_end_of_the_turn_is_the_policys(family: str) -> None:
    policy = small_policy(family)
    tokenizer, end = policy.tokenizer, policy.conversation.end_of_turn_id
    ids = environment_ids(tokenizer, end, policy.pad_id)
    names = {
        "<|im_start|>",
        "<|image_pad|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<tool_response>",
        "</tool_response>",
    }
    assert {tokenizer.convert_tokens_to_ids(name) for name in names} <= ids
    assert policy.pad_id in ids
    assert end not in ids
    own = {"<think>", "</think>", "<tool_call>", "</tool_call>"} & set(tokenizer.get_vocab())
    assert not {tokenizer.convert_tokens_to_ids(name) for name in own} & ids
    assert not set(tokenizer.encode("read 7", add_special_tokens=False)) & ids
