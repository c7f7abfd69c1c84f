"""A new, small policy of the same Hugging Face classes as the 7B model, with its own tokenizer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

from cv_lightning.data.oracle import wordings
from cv_lightning.data.strategy_oracle import strategy_wordings
from cv_lightning.data.worlds.boards import COLORS
from cv_lightning.errors import ConfigError
from cv_lightning.tools.toolbox import ToolboxName
from modules.policy.families import FAMILIES

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
#: Single tokens that the policy may write, as in Qwen's own vocabulary.
MARKUP_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")

#: Qwen's conversation markup, reduced to what this project uses.
CHAT_TEMPLATE = """\
{%- macro render(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for item in content -%}
{%- if item.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ item.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<|im_start|>user\n<tool_response>\n' + render(message.content) + '\n</tool_response><|im_end|>\n' -}}
{%- else -%}
{{- '<|im_start|>' + message.role + '\n' + render(message.content) + '<|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"""


@dataclass(frozen=True)
class TinyConfig:
    """The size of a new policy.

    Attributes:
        family: A name of `modules.policy.families.FAMILIES`.
        hidden_size: Width of the language model, in features.
        intermediate_size: Width of its feed-forward layers.
        layers: Number of its layers.
        heads: Number of its attention heads.
        kv_heads: Number of its key-value heads.
        vision_hidden_size: Width of the vision tower.
        vision_intermediate_size: Width of its feed-forward layers.
        vision_layers: Number of its layers.
        vision_heads: Number of its attention heads.
        patch_size: Side of a patch in pixels.
        vocab_size: Largest vocabulary of the tokenizer that is trained on the oracle's wordings.
        max_token_chars: Length of the longest token. Tokens may span words (as in SuperBPE, arXiv 2503.13423): a call
            then has about 17 tokens instead of 46, which shortens every stage.
        seed: Seed of the weights.
        wordings: Wordings that the tokenizer is trained on: "plates" (of `EpisodeBuilder`) or "strategy" (of
            `StrategyEpisodes`).
        split_digits: Make each digit a token of its own, as Qwen's tokenizers do, so that varying numbers are learned.
    """

    family: Literal["qwen2_5_vl", "qwen3_vl", "qwen3_5"] = "qwen2_5_vl"
    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    vision_hidden_size: int = 128
    vision_intermediate_size: int = 384
    vision_layers: int = 4
    vision_heads: int = 4
    patch_size: int = 14
    vocab_size: int = 640
    max_token_chars: int = 16
    seed: int = 0
    wordings: Literal["plates", "strategy"] = "plates"
    split_digits: bool = False

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ConfigError(f"build.family: expected one of {', '.join(FAMILIES)}, got {self.family!r}")

    @property
    def head_dim(self) -> int:
        """Features of a head of the language model."""
        return self.hidden_size // self.heads


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, max_token_chars: int, split_digits: bool = False, words: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, whose tokens may span words, with Qwen's special tokens and chat template.

    A word of `words` is never part of a longer token, so it is the same token in a question and in a thought.
    """
    tokenizer = Tokenizer(models.BPE())
    cuts: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    if split_digits:
        cuts.insert(0, pre_tokenizers.Digits(individual_digits=True))
    if whole := "|".join(map(re.escape, words)):
        cuts.insert(0, pre_tokenizers.Split(Regex(rf"\b({whole})\b"), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS) - len(MARKUP_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=max_token_chars,
        show_progress=False,
    )
    # Markup is cut out of a text before it is encoded, so no merge may be learned across it.
    markup = re.compile("|".join(map(re.escape, (*SPECIAL_TOKENS, *MARKUP_TOKENS))))
    tokenizer.train_from_iterator((piece for text in texts for piece in markup.split(text)), trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKUP_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        additional_special_tokens=list(SPECIAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_tiny(
    config: TinyConfig, toolbox: ToolboxName, attention: str = "sdpa"
) -> tuple[Any, PreTrainedTokenizerFast]:
    """Build a model with random weights and a tokenizer trained on the wordings of an oracle with these tools."""
    is_strategy = config.wordings == "strategy"
    tokenizer = train_tokenizer(
        strategy_wordings() if is_strategy else wordings(toolbox),
        config.vocab_size,
        config.max_token_chars,
        config.split_digits,
        COLORS if is_strategy else (),
    )
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    family = FAMILIES[config.family]
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        **family.text(config),
    }
    vision: dict[str, Any] = {
        "depth": config.vision_layers,
        "hidden_size": config.vision_hidden_size,
        "intermediate_size": config.vision_intermediate_size,
        "num_heads": config.vision_heads,
        "patch_size": config.patch_size,
        "out_hidden_size": config.hidden_size,
        **family.vision(config),
    }
    shared = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": False,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = family.model(
            family.config(text_config=text, vision_config=vision, attn_implementation=attention, **shared)
        )
        _initialize_by_fan_in(model)
    return model, tokenizer


def _initialize_by_fan_in(model: nn.Module) -> None:
    """Use standard deviation fan_in^-0.5: 0.02, which suits large models, makes activations too small here."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv3d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=1 / math.sqrt(fan_in))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0 / math.sqrt(module.embedding_dim))
