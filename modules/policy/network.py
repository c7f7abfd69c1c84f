"""The network of a policy: a Hugging Face vision-language model with its tokenizer and its image processor.

Token ids and images go in; hidden states, logits and positions come out. Each distinct image of a batch is encoded
once, and all its placeholders share the features. Their gradients add up, which is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from cv_lightning.errors import ConfigError
from cv_lightning.tools.toolbox import Toolbox, ToolboxName
from cv_lightning.types import TokenSequence
from modules.policy.attention import use_packed_attention
from modules.policy.chat_template import make_conversation
from modules.policy.deferred import check_deferrable, load_shards
from modules.policy.families import FAMILIES
from modules.policy.features import Features
from modules.policy.image_patches import Patcher
from modules.policy.image_places import image_places
from modules.policy.last_layer import picked, use_reading_layer
from modules.policy.merging import base_of, is_adapter, merge_shards
from modules.policy.norms import use_own_norms
from modules.policy.packed_row import pack_row
from modules.policy.precision import hold_masters, rounded_masters
from modules.policy.pretrained import (
    LinearPatchEmbedding,
    add_lora,
    freeze,
    how_to_talk,
    load_model,
    pad_id,
    pixel_bounds,
)
from modules.policy.quantized import quantize
from modules.policy.recurrence import tokens_of_block
from modules.policy.rotation import use_own_rotation
from modules.policy.row_attention import RowAttention, use_row_attention
from modules.policy.shards import give_memory
from modules.policy.tiny import TinyConfig, build_tiny
from modules.policy.token_batch import TokenBatch, collate
from modules.policy.vocabulary import environment_ids

Part = Literal["vision", "projector", "language"]


class Network(nn.Module):
    """A vision-language model that reads and writes conversations.

    Args:
        source: A local folder or a hub name of a model of `FAMILIES`, or of a PEFT adapter for one.
        build: Instead of `source`: the size of a new, small model (see `modules.policy.tiny.TinyConfig`).
        lora: Arguments of `peft.LoraConfig`; None trains the model itself. The reference policy is then "adapters off".
        quantization: "nf4" holds the decoder's matrices in four bits under `lora` (QLoRA; the extra `qlora`).
        frozen: Parts that are not trained: "vision" (the tower), "projector" (its merger), "language".
        dtype: Dtype of the computation: "float32", "bfloat16", or "float16" if nothing is trained. Weights are held
            in it too, except those that `fit` trains, which have float32 masters (see `modules.policy.precision`).
        gradient_checkpointing: Recompute activations in the backward pass.
        attention: Hugging Face's name of the attention implementation ("sdpa", "flash_attention_2", ...).
        min_pixels: Smaller images are enlarged to this many pixels; None takes the bound that `source` was exported
            with, or else 3,136.
        max_pixels: Larger images are reduced to this many pixels; None takes the bound that `source` was exported
            with, or else 1,003,520.
        max_context_tokens: Longest conversation, in tokens.
        system_prompt: Text of the system turn; None takes the prompt that `source` was trained with, if its folder has
            one and the tools are the same, or else the prompt that describes the tools.
        toolbox: The tools that the policy may call: "code", "named", or a `cv_lightning.tools.Toolbox`; None takes
            those that `source` was trained with, if its folder names them, or else "code".
        open_reasoning: Begin each reply with `<think>` in the prompt. The chat templates of a Thinking checkpoint and
            of a policy exported with this option do so by themselves.
        deferred: Leave the weights of `source` in their files until the strategy has sharded the model, so that no
            process ever holds the whole model. Only `fit`, `validate`, `test` and `predict` load them. Adapters of
            `source` are merged in parts too; adapters that are computed from whole weights (DoRA, PiSSA, ...) are
            refused.
    """

    #: Whether each process holds a part of every parameter.
    is_sharded = False

    def __init__(
        self,
        source: str | None = None,
        build: TinyConfig | None = None,
        lora: dict[str, Any] | None = None,
        quantization: Literal["nf4"] | None = None,
        frozen: Sequence[Part] = (),
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        gradient_checkpointing: bool = False,
        attention: str = "sdpa",
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        max_context_tokens: int = 32768,
        system_prompt: str | None = None,
        toolbox: Toolbox | ToolboxName | None = None,
        open_reasoning: bool = False,
        deferred: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(source, build, lora, quantization, deferred)
        self.dtype: torch.dtype = getattr(torch, dtype)
        #: Source of the weights that are not loaded yet.
        self._awaited = source if deferred and build is None else None
        system_prompt, tools = how_to_talk(source, system_prompt, toolbox)
        if build is not None:
            self.model, self.tokenizer = build_tiny(build, tools.kind, attention)
            for parameter in self.model.parameters():  # not the buffers: rotary frequencies stay exact, as when loaded
                parameter.data = parameter.data.to(self.dtype)
        else:
            self.model, self.tokenizer = load_model(str(source), self.dtype, attention, deferred)
        self.family = FAMILIES[self.model.config.model_type]
        self.image_processor = self.family.processor(
            self.model.config, source, *pixel_bounds(source, min_pixels, max_pixels)
        )
        self.patcher = Patcher(self.image_processor)
        # Adapters name the base that they were trained on; if it exists only here, it is exported with them.
        self.has_own_base = build is not None or is_adapter(str(source))
        self.is_lora = lora is not None
        self._prepare_weights(frozen, lora, quantization, gradient_checkpointing)
        self._use_own_layers(attention)
        self.conversation = make_conversation(
            self.model.config, self.tokenizer, self.patcher, system_prompt, max_context_tokens, tools, open_reasoning
        )
        self.pad_id = pad_id(self.tokenizer)
        self._features = Features()
        self.is_banned_V: Tensor
        self.register_buffer("is_banned_V", self._banned(), persistent=False)
        self.train()  # `from_pretrained` leaves a model in evaluation mode, and Lightning leaves modes as they are

    def _prepare_weights(
        self, frozen: Sequence[Part], lora: dict[str, Any] | None, quantization: str | None, checkpointing: bool
    ) -> None:
        """Freeze, quantize, add adapters and switch gradient checkpointing on: in this order."""
        freeze(self.model, frozen)
        if quantization is not None:
            quantize(self.model, self.dtype)
        if lora is not None:
            self.model = add_lora(self.model, lora)
        if checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            # Hooks that only reentrant checkpointing needs, and that no copy of the model survives.
            self.model.disable_input_require_grads()

    def _use_own_layers(self, attention: str) -> None:
        """Replace Hugging Face's layers by layers that compute the same in less time, or that skip holes."""
        if attention == "sdpa":
            use_packed_attention(self.core.visual)
        #: Whether sequences can be computed in one row; if not, they are padded.
        self.can_pack = attention == "sdpa" and use_row_attention(self.core.language_model)
        self._has_reading_layer = use_reading_layer(self.core)
        self.family.prepare(self.core)
        use_own_norms(self.core)
        use_own_rotation(self.core)
        self.core.visual.patch_embed = LinearPatchEmbedding(self.core.visual.patch_embed.proj)

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

    def prepare_training(self) -> None:
        """Give every trained parameter a float32 master; raises `ConfigError` if the policy cannot be trained."""
        hold_masters(self.model, self.dtype)

    def rounded(self) -> AbstractContextManager[None]:
        """Compute in `dtype`; open it around forward and backward pass, see `modules.policy.precision`.

        A sharded model does so by itself: its gathered parameters are in `dtype`.
        """
        return nullcontext() if self.is_sharded else rounded_masters(self.model, self.dtype)

    def load_deferred(self, device: torch.device) -> None:
        """Load the weights that `deferred` left out, each process its part; does nothing if there are none."""
        if self._awaited is None:
            return
        give_memory(self.model, device)
        self.causal.tie_weights()
        load_shards(self.causal, base_of(self._awaited))
        if is_adapter(self._awaited):
            merge_shards(self.causal, self._awaited)
        self._awaited = None

    def _banned(self) -> Tensor:
        """Tokens that only the environment writes: every special token but the end of the turn."""
        vocabulary = self.causal.lm_head.out_features
        is_banned_V = torch.zeros(vocabulary, dtype=torch.bool)
        for token_id in environment_ids(self.tokenizer, self.conversation.end_of_turn_id, self.pad_id):
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
        return self.conversation.count_image_tokens(size)

    @contextmanager
    def kept_features(self) -> Iterator[None]:
        """Inside, image features of a frozen vision tower are cached, for the companions of this network too."""
        is_frozen = not any(parameter.requires_grad for parameter in self.core.visual.parameters())
        self._features.is_open = is_frozen and not self.is_sharded  # processes gather a sharded tower together
        try:
            yield
        finally:
            self._features.clear()

    def encode_images(self, images_N: Sequence[Image.Image], keys_N: Sequence[bytes] = ()) -> tuple[Any, Tensor]:
        """Encode images once each.

        Args:
            images_N: The images.
            keys_N: A key of each image's pixels, by which `kept_features` finds its features.

        Returns:
            Hugging Face's encoder output with one entry per image, and the grids [N, 3] in patches.
        """
        if self._features.is_open and keys_N:
            missing = [place for place, key in enumerate(keys_N) if key not in self._features]
            new = self._encoded([images_N[place] for place in missing])[0] if missing else None
            grids = [self.image_grid(image.size) for image in images_N]
            return self._features.joined(keys_N, missing, new), torch.tensor(grids, device=self.device)
        return self._encoded(images_N)

    def _encoded(self, images_N: Sequence[Image.Image]) -> tuple[Any, Tensor]:
        pixel_values, grid_N3 = self.patcher(images_N, self.device)
        places = image_places(self.core.visual, [self.image_grid(image.size) for image in images_N], self.device)
        return self.core.get_image_features(pixel_values, grid_N3, return_dict=True, **places), grid_N3

    # ---- the model ---------------------------------------------------------------------------------------------------

    def hidden_states(
        self,
        input_ids_BT: Tensor,
        is_valid_BL: Tensor,
        position_ids_3BT: Tensor,
        encoded: Any | None,
        occurrences: Sequence[int],
        cache: Any | None = None,
        row: RowAttention | None = None,
        read_M: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states [B, T, D] of tokens, after the L - T tokens that `cache` holds.

        With `row`, the tokens are those of a packed row [1, S], and `row` is its attention. `read_M` holds indices into
        the flattened batch; with it, only the hidden states [1, M, D] of these tokens are computed to the end.
        """
        features: dict[str, Any] = {}
        if occurrences:
            if encoded is None:
                raise ValueError("encoded: expected the encoded images of the placeholders, got None")
            features["image"] = self.family.repeated(encoded, occurrences)
        is_new_BT = is_valid_BL[:, -input_ids_BT.shape[1] :].bool()
        # Hugging Face passes on a mask of four axes unchanged, and the attention of a row does not use it.
        of_row = {} if row is None else {"row": row, "attention_mask": is_valid_BL[None, None]}
        of_last = {"read_M": read_M} if self._has_reading_layer and read_M is not None else {}
        with nullcontext() if cache is None else tokens_of_block(is_new_BT):
            output = self.core(
                input_ids=input_ids_BT,
                position_ids=position_ids_3BT,
                cache=cache,
                use_cache=cache is not None,
                mm_encoder_outputs=features,
                return_dict=True,
                **({"attention_mask": is_valid_BL} | of_row | of_last),
            )
        hidden_BTD: Tensor = output.last_hidden_state
        return hidden_BTD if read_M is None or of_last else picked(hidden_BTD, read_M)

    def logits(self, hidden_MD: Tensor) -> Tensor:
        """Float32 logits [M, V]; banned tokens have -inf."""
        logits_MV: Tensor = self.causal.lm_head(hidden_MD)
        # Added, because a masked fill takes several times as long: it rereads the mask for every row.
        ban_V = torch.zeros_like(self.is_banned_V, dtype=torch.float).masked_fill_(self.is_banned_V, float("-inf"))
        return logits_MV.float() + ban_V

    def positions(self, input_ids_BT: Tensor, is_valid_BT: Tensor, grid_O3: Tensor | None) -> Tensor:
        """mRoPE positions [3, B, T]; `grid_O3` holds the grid of every placeholder run in reading order."""
        return self.family.positions(self.core, input_ids_BT, is_valid_BT, grid_O3)

    def collate(self, sequences: Sequence[TokenSequence]) -> TokenBatch:
        """Sequences as one batch on this policy's device."""
        return collate(sequences, self.pad_id).to(self.device)

    def pack(self, sequences: Sequence[TokenSequence]) -> TokenBatch:
        """As `collate`, but computed in one row if the model can: without padding, and shared prompts once."""
        if not self.can_pack:
            return self.collate(sequences)
        row = pack_row(sequences, self.core.config.image_token_id, self.device, self.dtype)
        return replace(self.collate(sequences), row=row)


def _check_arguments(
    source: str | None, build: TinyConfig | None, lora: dict[str, Any] | None, quantization: str | None, deferred: bool
) -> None:
    """Raise `ConfigError` for arguments of a network that cannot be combined."""
    if (source is None) == (build is None):
        raise ConfigError(
            "policy: expected exactly one of source (a folder or hub name) and build (a new small model)."
        )
    if quantization is not None and lora is None:
        raise ConfigError("policy.quantization: expected policy.lora too, because four-bit codes cannot be trained.")
    if deferred:
        check_deferrable(lora or {}, quantization)
