"""The policy: a network that samples and scores tokens, holds its reference, and exports itself.

Shared by SFT and RL. Token ids go in, log-probabilities and sampled token ids come out; there is no text here.
Logits are computed only for tokens that need them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cv_lightning.endpoint.messages import default_prompt
from cv_lightning.rollout import OnTokens, Sampling
from modules.policy.generation import GenerationSession
from modules.policy.network import Network
from modules.policy.pretrained import adapters_off, quiet_progress, store_conversation
from modules.policy.quantized import dequantized
from modules.policy.sharded_export import adapter_tensors, export_model
from modules.policy.shards import any_process, is_first_process, is_one_of_several, reshard
from modules.policy.token_batch import TokenBatch

#: Rows of logits that are computed at a time, and the same for a large vocabulary: 1,024 x 152k float32 take 0.6 GB,
#: and four copies of them exist at once.
_LOGIT_ROWS = 4096
_LARGE_VOCABULARY_ROWS = 1024
#: Logits of a vocabulary with more tokens than this are recomputed in the backward pass.
_LARGE_VOCABULARY = 8192

#: In nats; `exp` of it is 0.
_LEAST_LOGPROB = -1e4

#: Whether entropies are computed and carry a gradient: see `Policy.token_logprobs`.
Entropy = Literal["none", "measured", "learned"]


class Policy(Network):
    """A vision-language policy; see `Network` for its arguments."""

    _reference: _Hidden | None = None

    # ---- scores ------------------------------------------------------------------------------------------------------

    def token_logprobs(
        self, batch: TokenBatch, temperature: float | Tensor = 1.0, entropy: Entropy = "measured"
    ) -> tuple[Tensor, Tensor]:
        """Score the trained tokens of a batch.

        Args:
            batch: Sequences on this policy's device.
            temperature: Temperature at which the tokens were sampled: one for all, or one per token [B, T].
            entropy: Whether entropies are left out (they are 0), only measured, or carry a gradient.

        Returns:
            Log-probabilities [B, T] of the tokens, and entropies [B, T] of the distributions from which they were
            sampled, in nats; 0 if a token is not trained.
        """
        with self.rounded():
            return self._token_logprobs(batch, temperature, entropy)

    def _token_logprobs(
        self, batch: TokenBatch, temperature: float | Tensor, entropy: Entropy
    ) -> tuple[Tensor, Tensor]:
        # The token at t is sampled from the hidden state at t - 1.
        is_target_BT = batch.is_trained_BT[:, 1:]
        place_BT = torch.arange(batch.input_ids_BT.numel(), device=self.device).view_as(batch.input_ids_BT)
        if batch.row is not None:
            place_BT = batch.row.place_BT
        hidden_MD = self._scored_hidden_states(batch, place_BT[:, :-1][is_target_BT])[0]
        targets_M = batch.input_ids_BT[:, 1:][is_target_BT]
        n_rows = _LARGE_VOCABULARY_ROWS if self._has_large_vocabulary else _LOGIT_ROWS
        if isinstance(temperature, Tensor):
            temperature = temperature[:, 1:][is_target_BT][:, None]
        scores = []
        for start in range(0, max(1, len(targets_M)), n_rows):
            rows = slice(start, start + n_rows)
            of_rows = temperature[rows] if isinstance(temperature, Tensor) else temperature
            scores.append(self._score(hidden_MD[rows], targets_M[rows], of_rows, entropy))
        zeros_BT = torch.zeros_like(batch.logprobs_BT)
        index_BT = functional.pad(is_target_BT, (1, 0))
        logprobs_M, entropy_M = (torch.cat(parts) for parts in zip(*scores, strict=True))
        return zeros_BT.masked_scatter(index_BT, logprobs_M), zeros_BT.masked_scatter(index_BT, entropy_M)

    @property
    def _has_large_vocabulary(self) -> bool:
        return bool(self.causal.lm_head.out_features > _LARGE_VOCABULARY)

    def _score(
        self, hidden_KD: Tensor, targets_K: Tensor, temperature: float | Tensor, entropy: Entropy
    ) -> tuple[Tensor, Tensor]:
        if self.training and torch.is_grad_enabled() and self._has_large_vocabulary:
            # [K, V] float32 logits of a large vocabulary are recomputed in the backward pass, not kept.
            scores: tuple[Tensor, Tensor] = checkpoint(
                self._score_rows, hidden_KD, targets_K, temperature, entropy, use_reentrant=False
            )
            return scores
        return self._score_rows(hidden_KD, targets_K, temperature, entropy)

    def _score_rows(
        self, hidden_KD: Tensor, targets_K: Tensor, temperature: float | Tensor, entropy: Entropy
    ) -> tuple[Tensor, Tensor]:
        logits_KV = self.logits(hidden_KD)
        if isinstance(temperature, Tensor) or temperature != 1:
            logits_KV = logits_KV / temperature
        log_distribution_KV = functional.log_softmax(logits_KV, dim=-1)
        logprobs_K = log_distribution_KV.gather(-1, targets_K.unsqueeze(-1)).squeeze(-1)
        if entropy == "none":
            return logprobs_K, torch.zeros_like(logprobs_K)
        with torch.set_grad_enabled(torch.is_grad_enabled() and entropy == "learned"):
            # A banned token has -inf, and 0 * -inf is NaN. The clamp makes it finite, so the product is 0.
            entropy_K = -(log_distribution_KV.exp() * log_distribution_KV.clamp(min=_LEAST_LOGPROB)).sum(-1)
        return logprobs_K, entropy_K

    def _scored_hidden_states(self, batch: TokenBatch, read_M: Tensor | None = None) -> Tensor:
        encoded, grid_O3, occurrences = None, None, batch.images.occurrences
        idle = self._idle_images(bool(batch.images.images_N))
        if batch.images.images_N:
            encoded, grid_N3 = self.encode_images(batch.images.images_N, batch.images.keys_N)
            grid_O3 = grid_N3[occurrences]
        positions_3BT = self.positions(batch.input_ids_BT, batch.is_valid_BT, grid_O3)
        with nullcontext() if idle is None else added(idle, self.core.get_input_embeddings()):
            if batch.row is None:
                return self.hidden_states(
                    batch.input_ids_BT, batch.is_valid_BT.int(), positions_3BT, encoded, occurrences, read_M=read_M
                )
            row = batch.row
            return self.hidden_states(
                batch.input_ids_BT.flatten()[None, row.source_S],
                torch.ones_like(row.source_S)[None],
                positions_3BT.flatten(1)[:, None, row.source_S],
                encoded,
                [occurrences[place] for place in row.occurrences],
                row=row.attention,
                read_M=read_M,
            )

    def _idle_images(self, has_images: bool) -> Tensor | None:
        """A zero computed by the vision tower, if this process has no images but the tower is needed; else None.

        All processes together gather each block of a sharded tower and its gradients. DDP waits for the gradient of
        every parameter. If only the tower is trained, nothing else has a gradient, and the backward pass must still go
        through the layers that all processes gather. So the zero is added to the embeddings.
        """
        is_needed = any_process(has_images, self.device) if self.is_sharded else is_one_of_several()
        if torch.is_grad_enabled():
            language = (*self.core.language_model.parameters(), *self.causal.lm_head.parameters())
            is_needed |= not any(parameter.requires_grad for parameter in language)
        if has_images or not is_needed:
            return None
        side = int(self.image_processor.patch_size) * int(self.image_processor.merge_size)
        encoded, _ = self.encode_images([Image.new("RGB", (side, side))])
        parts = [*encoded.pooler_output]
        for layer in getattr(encoded, "deepstack_features", None) or ():
            parts += layer
        return 0 * torch.stack([part.sum() for part in parts]).sum()

    def forward(
        self, batch: TokenBatch, temperature: float | Tensor = 1.0, entropy: Entropy = "measured"
    ) -> tuple[Tensor, Tensor]:
        """Call `token_logprobs`; wrappers such as DDP hook this entry point."""
        return self.token_logprobs(batch, temperature, entropy)

    # ---- reference ---------------------------------------------------------------------------------------------------

    def freeze_reference(self) -> None:
        """Keep the current policy as the reference; with LoRA, the reference is the model without adapters."""
        if not self.is_lora:
            reference = copy.deepcopy(self.model).requires_grad_(False)
            self._reference = _Hidden(self.companion(reference, self.dtype))

    def load_deferred(self, device: torch.device) -> None:
        """Load deferred weights, also into the reference; `shard` fills the reference of a sharded policy."""
        is_awaited = self._awaited is not None
        super().load_deferred(device)
        if is_awaited and self.has_reference and not self.is_sharded:
            self.freeze_reference()

    @property
    def has_reference(self) -> bool:
        """Whether a reference is held beside the policy."""
        return self._reference is not None

    def replace_reference(self, reference: Policy) -> None:
        """Replace the reference by another policy with the same weights, such as a sharded copy."""
        self._reference = _Hidden(reference)

    @torch.no_grad()
    def reference_logprobs(self, batch: TokenBatch, temperature: float | Tensor = 1.0) -> Tensor:
        """Log-probabilities [B, T] of the trained tokens under the reference policy."""
        if self.is_lora:
            with adapters_off(self.model):
                logprobs_BT: Tensor = self(batch, temperature, "none")[0]
            reshard(self)
            return logprobs_BT
        if self._reference is None:
            raise ValueError("Call freeze_reference() before reference_logprobs()")
        reference = self._reference.module
        if not self.is_sharded and reference.device != self.device:
            reference.model.to(self.device)
        logprobs_BT = reference(batch, temperature, "none")[0]
        reshard(reference)
        return logprobs_BT

    def companion(self, model: nn.Module, dtype: torch.dtype) -> Policy:
        """A policy in evaluation mode with another network of the same structure; everything else is shared."""
        other = copy.copy(self)
        own = nn.Module().__dict__  # it has no hooks of this policy, such as those that gather shards
        kept = {"_modules": {"model": model}, "_buffers": self._buffers, "dtype": dtype, "is_sharded": False}
        other.__dict__ = {**self.__dict__, **own, **kept}
        return other.eval()

    # ---- sampling and export -----------------------------------------------------------------------------------------

    def open_session(self, sampling: Sampling, on_tokens: OnTokens | None = None) -> GenerationSession:
        """Start sampling: see `GenerationSession.sample`."""
        return GenerationSession(self, sampling, on_tokens)

    @contextmanager
    def without_tools(self) -> Iterator[None]:
        """Inside, the policy cannot begin a tool call: the token is banned, and the default prompt offers no tool."""
        kept = self.conversation
        if kept.system_prompt == kept.toolbox.system_prompt:
            self.conversation = replace(kept, system_prompt=default_prompt("none", kept.toolbox))
        was_banned_V = self.is_banned_V
        self.is_banned_V = was_banned_V.clone()
        if (call_id := self.tokenizer.get_vocab().get("<tool_call>")) is not None:
            self.is_banned_V[call_id] = True
        try:
            yield
        finally:
            self.conversation, self.is_banned_V = kept, was_banned_V

    def export(self, folder: str | Path) -> None:
        """Write a folder for `transformers` (and `peft`): weights in `dtype`, config, tokenizer, image processor.

        The system prompt and tools are saved beside them, so that the policy is prompted as it was trained.

        With LoRA the folder holds the adapters; a base that was made here, by `build` or by merging the adapters of
        `source`, is written to `folder/base`. If the policy is sharded, all processes call this together.

        Raises:
            OSError: A file cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with quiet_progress(), torch.no_grad(), self.rounded():
            if self.is_sharded:
                self._export_shards(folder)
            else:
                if self.is_lora and self.has_own_base:
                    self._export_base(folder / "base")
                self.model.save_pretrained(folder)
        if not is_first_process():
            return
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        store_conversation(folder, self.conversation.system_prompt, self.conversation.toolbox)

    def _export_base(self, folder: Path) -> None:
        """Write the model without its adapters, from a copy, and make the adapters name it as their base."""
        base = dequantized(copy.deepcopy(self.model).unload(), self.dtype)
        base.save_pretrained(folder)
        self._let_adapters_name(folder)

    def _export_shards(self, folder: Path) -> None:
        """Write the weights of a sharded policy, tensor by tensor; the first process writes."""
        reshard(self)
        is_writer = is_first_process()
        if not self.is_lora:
            export_model(self.model, folder, self.dtype, is_writer)
            return
        if self.has_own_base:
            (folder / "base").mkdir(exist_ok=True)
            export_model(self.causal, folder / "base", self.dtype, is_writer)
            if is_writer:
                self._let_adapters_name(folder / "base")
        adapters = adapter_tensors(self.model, self.dtype)
        if is_writer:
            self.model.save_pretrained(folder, state_dict=adapters)

    def _let_adapters_name(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        for config in self.model.peft_config.values():
            config.base_model_name_or_path = str(folder)


@contextmanager
def added(value: Tensor, module: nn.Module) -> Iterator[None]:
    """Inside, a value is added to the output of a module."""
    hook = module.register_forward_hook(lambda _module, _inputs, output: output + value)
    try:
        yield
    finally:
        hook.remove()


class _Hidden:
    """Keeps a module out of its owner's parameters, checkpoints and optimizers."""

    def __init__(self, module: Policy) -> None:
        self.module = module
