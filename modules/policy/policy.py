"""The policy: a Hugging Face vision-language model (Qwen2.5-VL or Qwen3-VL), its tokenizer and its image processor.

Shared by SFT and RL. Token ids go in, log-probabilities and sampled token ids come out; text is not seen here. Each
distinct image of a batch is encoded once and its features are handed to every place where it stands (the gradient sums
through that: exact), and logits are computed only where they are needed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cv_lightning.conversation import Conversation
from cv_lightning.data.oracle import wordings
from cv_lightning.errors import ConfigError
from cv_lightning.rollout import OnTokens, Sampling
from cv_lightning.tools.toolbox import Toolbox, ToolboxName
from cv_lightning.types import TokenSequence
from modules.policy.attention import use_packed_attention
from modules.policy.generation import GenerationSession
from modules.policy.image_patches import Patcher
from modules.policy.pretrained import (
    LinearPatchEmbedding,
    add_lora,
    freeze,
    how_to_talk,
    image_processor,
    is_adapter,
    load_model,
    pad_id,
    quiet_progress,
    store_conversation,
)
from modules.policy.tiny import TinyConfig, build_tiny
from modules.policy.token_batch import TokenBatch, collate

Part = Literal["vision", "projector", "language"]

#: Rows of logits that are computed at a time.
_LOGIT_ROWS = 4096
#: Beyond this many tokens logits are recomputed in the backward pass.
_LARGE_VOCABULARY = 8192


class Policy(nn.Module):
    """A vision-language policy.

    Args:
        source: A local folder or a hub name of a Qwen2.5-VL or Qwen3-VL model, or of a PEFT adapter on one.
        build: Instead of `source`: the size of a new, small model (see `modules.policy.tiny.TinyConfig`).
        lora: Arguments of `peft.LoraConfig`; None trains the model itself. The reference policy is then "adapters off".
        frozen: Parts that are not trained: "vision" (the tower), "projector" (its merger), "language".
        dtype: "float32", "bfloat16" or "float16".
        gradient_checkpointing: Recompute activations in the backward pass.
        attention: Hugging Face's name of the attention implementation ("sdpa", "flash_attention_2", ...).
        min_pixels: Smaller images are enlarged to this many pixels.
        max_pixels: Larger images are reduced to this many pixels.
        max_context_tokens: Longest conversation, in tokens.
        system_prompt: Text of the system turn; None takes the one that `source` was trained with, if its folder says
            and the tools are the same, or else the one that describes the tools.
        toolbox: The tools that the policy may call: "code", "named", or a `cv_lightning.tools.Toolbox`; None takes
            those that `source` was trained with, if its folder says, or else "code".
    """

    def __init__(
        self,
        source: str | None = None,
        build: TinyConfig | None = None,
        lora: dict[str, Any] | None = None,
        frozen: Sequence[Part] = (),
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        gradient_checkpointing: bool = False,
        attention: str = "sdpa",
        min_pixels: int = 56 * 56,
        max_pixels: int = 28 * 28 * 1280,
        max_context_tokens: int = 32768,
        system_prompt: str | None = None,
        toolbox: Toolbox | ToolboxName | None = None,
    ) -> None:
        super().__init__()
        if (source is None) == (build is None):
            raise ConfigError(
                "Policy: give exactly one of `source` (a folder or hub name) and `build` (a new small model)."
            )
        torch_dtype = getattr(torch, dtype)
        system_prompt, tools = how_to_talk(source, system_prompt, toolbox)
        if build is not None:
            self.model, self.tokenizer = build_tiny(build, wordings(tools.kind), attention)
            self.model.to(torch_dtype)
        else:
            self.model, self.tokenizer = load_model(str(source), torch_dtype, attention)
        self.image_processor = image_processor(self.model.config, source, min_pixels, max_pixels)
        self.patcher = Patcher(self.image_processor)
        freeze(self.model, frozen)
        self.is_lora = lora is not None
        # Adapters name the base that they were trained on; where nobody else has it, it is exported with them.
        self.has_own_base = build is not None or is_adapter(str(source))
        if lora is not None:
            self.model = add_lora(self.model, lora)
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            # Hooks that only reentrant checkpointing needs, and that no copy of the model survives.
            self.model.disable_input_require_grads()
        if attention == "sdpa":
            use_packed_attention(self.core.visual)
        self.core.visual.patch_embed = LinearPatchEmbedding(self.core.visual.patch_embed.proj)
        self.conversation = Conversation(
            self.tokenizer, self.count_image_tokens, system_prompt, max_context_tokens, toolbox=tools
        )
        self.pad_id = pad_id(self.tokenizer)
        self.is_banned_V: Tensor
        self.register_buffer("is_banned_V", self._banned(), persistent=False)
        self._reference: _Hidden | None = None
        self.train()  # `from_pretrained` leaves a model in evaluation mode, and Lightning leaves modes as they are

    # ---- parts -------------------------------------------------------------------------------------------------------

    @property
    def causal(self) -> Any:
        """The Hugging Face model with its language head, without PEFT's wrapper."""
        return self.model.get_base_model() if self.is_lora else self.model

    @property
    def core(self) -> Any:
        """The Hugging Face model without its language head."""
        return self.causal.model

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return torch.device(next(self.model.parameters()).device)

    def _banned(self) -> Tensor:
        """Tokens that are the environment's to write: every special token but the end of the turn."""
        vocabulary = self.causal.lm_head.out_features
        is_banned_V = torch.zeros(vocabulary, dtype=torch.bool)
        names = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        names |= {"<tool_response>", "</tool_response>"} & set(self.tokenizer.get_vocab())
        ids = {self.tokenizer.convert_tokens_to_ids(name) for name in names} | {self.pad_id}
        for token_id in ids - {self.conversation.end_of_turn_id}:
            is_banned_V[token_id] = True
        is_banned_V[len(self.tokenizer) :] = True  # rows of the head that pad the vocabulary have no token
        return is_banned_V

    # ---- images ------------------------------------------------------------------------------------------------------

    def image_grid(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """The grid (time, height, width) in patches of an image of `size` (width, height).

        Raises:
            ConversationError: One side is more than 200 times the other.
        """
        return self.patcher.grid(size)

    def count_image_tokens(self, size: tuple[int, int]) -> int:
        """Number of placeholder tokens of an image of `size` (width, height)."""
        time, height, width = self.image_grid(size)
        return time * height * width // int(self.image_processor.merge_size) ** 2

    def encode_images(self, images_N: Sequence[Image.Image]) -> tuple[Any, Tensor]:
        """Encode images once each.

        Returns:
            Hugging Face's encoder output with one entry per image, and the grids [N, 3] in patches.
        """
        pixel_values, grid_N3 = self.patcher(images_N, self.device)
        return self.core.get_image_features(pixel_values, grid_N3, return_dict=True), grid_N3

    # ---- the model ---------------------------------------------------------------------------------------------------

    def hidden_states(
        self,
        input_ids_BT: Tensor,
        is_valid_BL: Tensor,
        position_ids_3BT: Tensor,
        encoded: Any | None,
        occurrences: Sequence[int],
        cache: Any | None = None,
    ) -> Tensor:
        """Last hidden states [B, T, D] of tokens, after the L - T tokens that `cache` holds."""
        features: dict[str, Any] = {}
        if occurrences:
            if encoded is None:
                raise ValueError("Expected encoded images for the placeholders but got encoded=None")
            features["image"] = _expanded(encoded, occurrences)
        output = self.core(
            input_ids=input_ids_BT,
            attention_mask=is_valid_BL,
            position_ids=position_ids_3BT,
            past_key_values=cache,
            use_cache=cache is not None,
            mm_encoder_outputs=features,
            return_dict=True,
        )
        hidden_BTD: Tensor = output.last_hidden_state
        return hidden_BTD

    def logits(self, hidden_MD: Tensor) -> Tensor:
        """Float32 logits [M, V]; banned tokens have -inf."""
        logits_MV: Tensor = self.causal.lm_head(hidden_MD)
        return logits_MV.float().masked_fill(self.is_banned_V, float("-inf"))

    def positions(self, input_ids_BT: Tensor, is_valid_BT: Tensor, grid_O3: Tensor | None) -> Tensor:
        """mRoPE positions [3, B, T]; `grid_O3` holds the grid of every placeholder run in reading order."""
        types_BT = (input_ids_BT == self.core.config.image_token_id).int()
        positions_3BT: Tensor = self.core.get_rope_index(
            input_ids_BT, mm_token_type_ids=types_BT, image_grid_thw=grid_O3, attention_mask=is_valid_BT.int()
        )[0]
        return positions_3BT

    def token_logprobs(self, batch: TokenBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Score the trained tokens of a batch.

        Args:
            batch: Sequences on this policy's device.
            temperature: The one at which the tokens were sampled.

        Returns:
            Log-probabilities [B, T] and entropies [B, T] in nats of the distributions they were drawn from; 0 where a
            token is not trained. Entropies carry no gradient.
        """
        hidden_BTD = self._scored_hidden_states(batch)
        # The token at t is drawn from the hidden state at t - 1.
        is_target_BT = batch.is_trained_BT[:, 1:]
        hidden_MD = hidden_BTD[:, :-1][is_target_BT]
        targets_M = batch.input_ids_BT[:, 1:][is_target_BT]
        scores = [
            self._score(hidden_MD[start : start + _LOGIT_ROWS], targets_M[start : start + _LOGIT_ROWS], temperature)
            for start in range(0, max(1, len(targets_M)), _LOGIT_ROWS)
        ]
        zeros_BT = torch.zeros_like(batch.logprobs_BT)
        index_BT = functional.pad(is_target_BT, (1, 0))
        logprobs_M, entropy_M = (torch.cat(parts) for parts in zip(*scores, strict=True))
        return zeros_BT.masked_scatter(index_BT, logprobs_M), zeros_BT.masked_scatter(index_BT, entropy_M)

    def _score(self, hidden_KD: Tensor, targets_K: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        if self.training and torch.is_grad_enabled() and self.causal.lm_head.out_features > _LARGE_VOCABULARY:
            # [K, V] float32 logits of a large vocabulary are recomputed in the backward pass, not kept.
            scores: tuple[Tensor, Tensor] = checkpoint(
                self._score_rows, hidden_KD, targets_K, temperature, use_reentrant=False
            )
            return scores
        return self._score_rows(hidden_KD, targets_K, temperature)

    def _score_rows(self, hidden_KD: Tensor, targets_K: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        log_distribution_KV = functional.log_softmax(self.logits(hidden_KD) / temperature, dim=-1)
        with torch.no_grad():
            entropy_K = -(log_distribution_KV.exp() * log_distribution_KV.masked_fill(self.is_banned_V, 0.0)).sum(-1)
        return log_distribution_KV.gather(-1, targets_K.unsqueeze(-1)).squeeze(-1), entropy_K

    def _scored_hidden_states(self, batch: TokenBatch) -> Tensor:
        encoded, grid_O3 = None, None
        if batch.images.images_N:
            encoded, grid_N3 = self.encode_images(batch.images.images_N)
            grid_O3 = grid_N3[batch.images.occurrences]
        positions_3BT = self.positions(batch.input_ids_BT, batch.is_valid_BT, grid_O3)
        return self.hidden_states(
            batch.input_ids_BT, batch.is_valid_BT.int(), positions_3BT, encoded, batch.images.occurrences
        )

    def forward(self, batch: TokenBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """`token_logprobs`: the entry that wrappers such as DDP hook."""
        return self.token_logprobs(batch, temperature)

    # ---- reference ---------------------------------------------------------------------------------------------------

    def freeze_reference(self) -> None:
        """Remember the policy as it is now as the reference; with LoRA the reference is the model without adapters."""
        if not self.is_lora:
            reference = copy.deepcopy(self.model)
            self._reference = _Hidden(reference.requires_grad_(False).eval())

    @torch.no_grad()
    def reference_logprobs(self, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
        """Log-probabilities [B, T] of the trained tokens under the reference policy."""
        if self.is_lora:
            with self.model.disable_adapter():
                return self.token_logprobs(batch, temperature)[0]
        if self._reference is None:
            raise ValueError("Call freeze_reference() before reference_logprobs()")
        trained, self.model = self.model, self._reference.module.to(self.device)
        try:
            return self.token_logprobs(batch, temperature)[0]
        finally:
            self.model = trained

    # ---- sampling and export -----------------------------------------------------------------------------------------

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> GenerationSession:
        """Start sampling: see `GenerationSession.sample`."""
        return GenerationSession(self, sampling, on_tokens)

    def collate(self, sequences: Sequence[TokenSequence]) -> TokenBatch:
        """Sequences as one batch on this policy's device."""
        return collate(sequences, self.pad_id).to(self.device)

    def export(self, folder: str | Path) -> None:
        """Write what `transformers` (and `peft`, for adapters) load: weights, config, tokenizer, image processor.

        The system prompt and the tools stand beside them: a policy is asked as it was trained.

        With LoRA the folder holds the adapters; a base that was made here, by `build` or by merging the adapters of
        `source`, is written to `folder/base`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with quiet_progress():
            if self.is_lora and self.has_own_base:
                self._export_base(folder / "base")
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        store_conversation(folder, self.conversation.system_prompt, self.conversation.toolbox)

    def _export_base(self, folder: Path) -> None:
        """Write the model under the adapters, which changes while they are off, and let the adapters name it."""
        base = copy.deepcopy(self.model).unload()
        base.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        for config in self.model.peft_config.values():
            config.base_model_name_or_path = str(folder)


class _Hidden:
    """Keeps a module out of its owner's parameters, checkpoints and optimizers."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module


def _expanded(encoded: Any, occurrences: Sequence[int]) -> Any:
    """Encoder output with one entry per placeholder from one with an entry per distinct image."""
    expanded = copy.copy(encoded)
    expanded.pooler_output = [encoded.pooler_output[index] for index in occurrences]
    if getattr(encoded, "deepstack_features", None) is not None:
        expanded.deepstack_features = [[layer[index] for index in occurrences] for layer in encoded.deepstack_features]
    return expanded
