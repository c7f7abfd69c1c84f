"""The tokens of a tokenizer that only the environment writes."""

from __future__ import annotations

from typing import Any


def environment_ids(tokenizer: Any, end_of_turn_id: int, pad_id: int) -> frozenset[int]:
    """Ids that a policy neither samples nor learns: every special token but the end of the turn."""
    names = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    names |= {"<tool_response>", "</tool_response>"} & set(tokenizer.get_vocab())
    ids = {int(tokenizer.convert_tokens_to_ids(name)) for name in names} | {pad_id}
    return frozenset(ids - {end_of_turn_id})
