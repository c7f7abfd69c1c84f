"""Sampling with a key-value cache that survives the turns of a conversation.

The cache is a matrix of columns with holes: every row of the batch adds the same columns, and a mask says which of them
hold a token of the row. Positions are passed explicitly, so holes do not matter, and a later turn only pays for its new
tokens. Rollouts of one prompt share the computation of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cv_lightning.rollout import Completion, OnTokens, Sampling
from cv_lightning.types import TokenSequence
from modules.policy.kv_cache import growing_cache
from modules.policy.token_batch import DistinctImages, distinct_images

if TYPE_CHECKING:
    from modules.policy.policy import Policy


class GenerationSession:
    """Samples the turns of a batch of conversations, turn after turn.

    Args:
        policy: Whose tokens are sampled.
        sampling: How.
        on_tokens: Reads along, and may stop a turn.
    """

    def __init__(self, policy: Policy, sampling: Sampling, on_tokens: OnTokens | None = None) -> None:
        self.policy = policy
        self.sampling = sampling
        self._on_tokens = on_tokens
        self._generator = torch.Generator(device=policy.device).manual_seed(sampling.seed)
        self._cache = growing_cache()
        self._is_started = False
        self._is_valid_BL = torch.empty(0, 0, dtype=torch.bool)
        self._next_position_B1 = torch.empty(0, 1, dtype=torch.long)
        self._row_of: dict[int, int] = {}
        self._cached_length: list[int] = []
        self._cached_images: list[int] = []

    @torch.no_grad()
    def sample(self, contexts: Sequence[TokenSequence]) -> list[Completion]:
        """Sample one turn for each context.

        Args:
            contexts: Live sequences. The first call takes any; a later one takes those of the call before it, or some
                of them, grown by what was sampled and by the observation.
        """
        if not contexts:
            return []
        hidden_BD = self._start(contexts) if not self._is_started else self._extend(contexts)
        return self._decode(contexts, hidden_BD)

    def _start(self, contexts: Sequence[TokenSequence]) -> Tensor:
        keys: dict[tuple[object, ...], int] = {}
        prompts: list[TokenSequence] = []
        prompt_of_row: list[int] = []
        for context in contexts:
            key = (tuple(context.ids), *(viewed.key for viewed in context.images))
            index = keys.setdefault(key, len(prompts))
            if index == len(prompts):
                prompts.append(context)
            prompt_of_row.append(index)
        self._is_started = True
        self._is_valid_BL = torch.empty(len(prompts), 0, dtype=torch.bool, device=self.policy.device)
        self._cached_length = [0] * len(prompts)
        self._cached_images = [0] * len(prompts)
        hidden_PD = self._feed(prompts)
        rows = torch.tensor(prompt_of_row, device=self.policy.device)
        self._select(rows)
        self._row_of = {id(context): row for row, context in enumerate(contexts)}
        return hidden_PD[rows]

    def _extend(self, contexts: Sequence[TokenSequence]) -> Tensor:
        rows = [self._row_of[id(context)] for context in contexts]
        self._select(torch.tensor(rows, device=self.policy.device))
        self._row_of = {id(context): row for row, context in enumerate(contexts)}
        return self._feed(contexts)

    def _select(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._is_valid_BL = self._is_valid_BL[rows]
        self._next_position_B1 = self._next_position_B1[rows]
        self._cached_length = [self._cached_length[row] for row in rows.tolist()]
        self._cached_images = [self._cached_images[row] for row in rows.tolist()]

    def _feed(self, contexts: Sequence[TokenSequence]) -> Tensor:
        """Feed every row what its context has beyond the cache; returns the last hidden state [B, D] of each row."""
        policy = self.policy
        full = policy.collate(contexts)
        encoded, grid_O3, images = None, None, DistinctImages([], [])
        grids = [policy.image_grid(viewed.image.size) for context in contexts for viewed in context.images]
        if grids:
            grid_O3 = torch.tensor(grids, device=policy.device)
        positions_3BT = policy.positions(full.input_ids_BT, full.is_valid_BT, grid_O3)
        new_images = [
            viewed
            for context, n_seen in zip(contexts, self._cached_images, strict=True)
            for viewed in context.images[n_seen:]
        ]
        if new_images:
            images = distinct_images(new_images)
            encoded, _ = policy.encode_images(images.images_N)
        starts_B = torch.tensor(self._cached_length, device=policy.device)
        lengths_B = full.is_valid_BT.sum(1) - starts_B
        # Gather each row's new tokens to the left of a block of the longest row's width.
        offsets_K = torch.arange(int(lengths_B.max()), device=policy.device)
        is_new_BK = offsets_K < lengths_B[:, None]
        columns_BK = (starts_B[:, None] + offsets_K).clamp(max=full.input_ids_BT.shape[1] - 1)
        ids_BK = full.input_ids_BT.gather(1, columns_BK).masked_fill(~is_new_BK, policy.pad_id)
        positions_3BK = positions_3BT.gather(2, columns_BK.expand(3, -1, -1))
        self._is_valid_BL = torch.cat([self._is_valid_BL, is_new_BK], dim=1)
        hidden_BKD = policy.hidden_states(
            ids_BK, self._is_valid_BL.int(), positions_3BK, encoded, images.occurrences, self._cache
        )
        self._next_position_B1 = positions_3BK.amax(0).masked_fill(~is_new_BK, -1).amax(1, keepdim=True) + 1
        self._cached_length = [len(context) for context in contexts]
        self._cached_images = [len(context.images) for context in contexts]
        return hidden_BKD[torch.arange(len(contexts), device=policy.device), lengths_B - 1]

    def _decode(self, contexts: Sequence[TokenSequence], hidden_BD: Tensor) -> list[Completion]:
        end_id, pad_id = self.policy.conversation.end_of_turn_id, self.policy.pad_id
        is_open_B = torch.ones(len(contexts), dtype=torch.bool, device=hidden_BD.device)
        budget_B = torch.tensor(
            [self.policy.conversation.max_context_tokens - len(context) for context in contexts],
            device=hidden_BD.device,
        ).clamp(max=self.sampling.max_new_tokens)
        ids_TB: list[Tensor] = []
        logprobs_TB: list[Tensor] = []
        is_open_TB: list[Tensor] = []
        for step in range(int(budget_B.max())):
            is_open_B = is_open_B & (budget_B > step)
            if not bool(is_open_B.any()):
                break
            ids_B, logprobs_B = self._draw(hidden_BD)
            ids_B = torch.where(is_open_B, ids_B, pad_id)
            ids_TB.append(ids_B)
            logprobs_TB.append(logprobs_B)
            is_open_TB.append(is_open_B)
            if self._on_tokens is not None and not self._on_tokens(_open_ids(ids_B, is_open_B)):
                break
            is_open_B = is_open_B & (ids_B != end_id)
            if bool(is_open_B.any()):
                hidden_BD = self._step(ids_B, is_open_B)
        return self._completions(ids_TB, logprobs_TB, is_open_TB, end_id)

    def _draw(self, hidden_BD: Tensor) -> tuple[Tensor, Tensor]:
        logits_BV = self.policy.logits(hidden_BD)
        if self.sampling.temperature == 0:
            log_distribution_BV = logits_BV.log_softmax(-1)
            ids_B = logits_BV.argmax(-1)
        else:
            log_distribution_BV = (logits_BV / self.sampling.temperature).log_softmax(-1)
            ids_B = torch.multinomial(log_distribution_BV.exp(), 1, generator=self._generator).squeeze(-1)
        return ids_B, log_distribution_BV.gather(-1, ids_B[:, None]).squeeze(-1)

    def _step(self, ids_B: Tensor, is_open_B: Tensor) -> Tensor:
        """Feed one token to every open row; closed rows get a hole. Returns hidden states [B, D]."""
        self._is_valid_BL = torch.cat([self._is_valid_BL, is_open_B[:, None]], dim=1)
        positions_3B1 = self._next_position_B1.expand(3, -1, -1)
        hidden_B1D = self.policy.hidden_states(
            ids_B[:, None], self._is_valid_BL.int(), positions_3B1, None, (), self._cache
        )
        self._next_position_B1 = self._next_position_B1 + is_open_B[:, None].long()
        for row, is_open in enumerate(is_open_B.tolist()):
            self._cached_length[row] += is_open
        return hidden_B1D[:, 0]

    def _completions(
        self, ids_TB: list[Tensor], logprobs_TB: list[Tensor], is_open_TB: list[Tensor], end_id: int
    ) -> list[Completion]:
        if not ids_TB:
            return [Completion([], [], False) for _ in self._row_of]
        ids = torch.stack(ids_TB, 1).tolist()
        logprobs = torch.stack(logprobs_TB, 1).tolist()
        lengths = torch.stack(is_open_TB, 1).sum(1).tolist()
        return [
            Completion(row_ids[:length], row_logprobs[:length], length > 0 and row_ids[length - 1] == end_id)
            for row_ids, row_logprobs, length in zip(ids, logprobs, lengths, strict=True)
        ]


def _open_ids(ids_B: Tensor, is_open_B: Tensor) -> list[int | None]:
    return [token if is_open else None for token, is_open in zip(ids_B.tolist(), is_open_B.tolist(), strict=True)]
