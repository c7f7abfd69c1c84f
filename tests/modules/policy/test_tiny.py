"""A new model of any family."""

from __future__ import annotations

import pytest
import torch

from cv_lightning.errors import ConfigError
from modules.policy.tiny import MARKUP_TOKENS, SPECIAL_TOKENS, TinyConfig, train_tokenizer
from tests.modules.helpers import FAMILIES, SIZE, small_policy


def test_same_seed_builds_the_same_policy() -> None:
    policies = [small_policy(build=TinyConfig(seed=seed, **SIZE)) for seed in (3, 3, 4)]
    weights = [torch.cat([p.detach().flatten() for p in policy.parameters()]) for policy in policies]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert policies[0].tokenizer.get_vocab() == policies[1].tokenizer.get_vocab()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_has_the_sizes_that_it_was_given(family: str) -> None:
    config = TinyConfig(family=family, **SIZE)  # type: ignore[arg-type]
    core = small_policy(build=config).core
    text, vision = core.config.text_config, core.config.vision_config
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (32, 2, 2)
    assert (text.num_key_value_heads, text.intermediate_size) == (1, 48)
    assert (vision.hidden_size, vision.patch_size) == (32, config.patch_size)
    assert len(core.visual.blocks) == config.vision_layers
    assert config.head_dim == 16


def test_another_family_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"build\.family: expected one of .*qwen2_5_vl.*, got 'gpt'"):
        TinyConfig(family="gpt")  # type: ignore[arg-type]


TEXTS = ["read the text", "rotate it by 90 degrees", "crop (12, 34, 560, 789)"] * 20


def test_a_tokenizer_gives_every_text_back_and_markup_is_one_token() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=400, max_token_chars=16)
    for text in (*TEXTS[:3], "Größe 7 \u2603\n\ttab", "<|im_start|>user"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    for token in (*SPECIAL_TOKENS, *MARKUP_TOKENS):
        assert tokenizer.encode(token) == [tokenizer.convert_tokens_to_ids(token)], token
    assert len(tokenizer) <= 400


def test_digits_are_tokens_of_their_own_if_asked() -> None:
    split = train_tokenizer(TEXTS, vocab_size=400, max_token_chars=16, split_digits=True)
    assert [split.decode([one]) for one in split.encode("90")] == ["9", "0"]
    assert all(len(token.strip("\u0120")) == 1 for token in split.get_vocab() if any(map(str.isdigit, token)))


def test_no_token_is_longer_than_asked() -> None:
    short = train_tokenizer(TEXTS, vocab_size=600, max_token_chars=4)
    assert max(len(token) for token in short.get_vocab() if not token.startswith("<")) <= 4


def test_a_word_is_the_same_token_wherever_it_stands() -> None:
    texts = ["the red plate", "red, red", "a redder one"] * 20
    tokenizer = train_tokenizer(texts, vocab_size=600, max_token_chars=16, words=["red"])
    (red,) = tokenizer.encode("red")
    assert all(red in tokenizer.encode(text) for text in ("the red plate", "red, red", "see red."))
    assert red not in tokenizer.encode("a redder one")
