"""Sampling with a key-value cache that survives the turns of a conversation.

The cache has L columns for each of B rows. All rows get the same new columns, and a mask marks the columns that hold a
token of the row. The other new columns are holes, to the right of the row's tokens. Holes do not change the result:
positions are passed explicitly, and `modules.policy.recurrence` keeps holes out of recurrent states. A later turn
computes only its new tokens, and rollouts of one prompt share the computation of the prompt. Rows whose turn has ended
wait in a separate cache until the next turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cv_lightning.rollout import Completion, OnTokens, Sampling
from cv_lightning.types import TokenSequence
from modules.policy.kv_cache import CachedRows, gathered
from modules.policy.network import Network
from modules.policy.temperatures import CallTokens

#: Closed rows leave the batch once at most this share of the batch is open.
_MAX_OPEN = 2 / 3


class GenerationSession:
    """Samples the turns of a batch of conversations, turn after turn.

    Args:
        network: Network that samples.
        sampling: Temperatures, limits and seed.
        on_tokens: Receives the tokens of each step, and may stop the turns.
    """

    def __init__(self, network: Network, sampling: Sampling, on_tokens: OnTokens | None = None) -> None:
        self.network = network
        self.sampling = sampling
        self._on_tokens = on_tokens
        self._calls = None if sampling.call_temperature is None else CallTokens.of(network.tokenizer)
        self._generator = torch.Generator(device=network.device).manual_seed(sampling.seed)
        self._cache = self._new_cache()
        self._is_started = False
        #: Numbers and columns of the rows that are computed, and the next position of every row.
        self._rows: list[int] = []
        self._is_valid_BL = torch.empty(0, 0, dtype=torch.bool)
        self._next_position_B1 = torch.empty(0, 1, dtype=torch.long)
        self._waiting: list[CachedRows] = []
        self._row_of: dict[int, int] = {}
        self._cached_length: list[int] = []
        self._cached_images: list[int] = []

    def _new_cache(self) -> Any:
        return self.network.family.cache(self.network.core.config)

    @torch.no_grad()
    def sample(self, contexts: Sequence[TokenSequence]) -> list[Completion]:
        """Sample one turn for each context.

        Args:
            contexts: Live sequences. The first call takes any sequences. A later call takes all or some of the previous
                call's sequences, extended by the sampled tokens and the observation.
        """
        if not contexts:
            return []
        with self.network.rounded():
            hidden_BD = self._extend(contexts) if self._is_started else self._start(contexts)
            return self._decode(contexts, hidden_BD)

    def _start(self, contexts: Sequence[TokenSequence]) -> Tensor:
        """Feed each distinct prompt once, then give every context a row; returns hidden states [B, D]."""
        keys = [(tuple(context.ids), *(viewed.key for viewed in context.images)) for context in contexts]
        prompt_of_key = dict(zip(reversed(keys), reversed(contexts), strict=True))
        index_of_key = {key: index for index, key in enumerate(dict.fromkeys(keys))}
        n_prompts = len(index_of_key)
        self._is_started = True
        self._rows = list(range(n_prompts))
        self._is_valid_BL = torch.empty(n_prompts, 0, dtype=torch.bool, device=self.network.device)
        self._next_position_B1 = torch.zeros(n_prompts, 1, dtype=torch.long, device=self.network.device)
        self._cached_length = self._cached_images = [0] * n_prompts
        hidden_PD = self._feed([prompt_of_key[key] for key in index_of_key])
        rows = [index_of_key[key] for key in keys]
        self._select(rows)
        self._row_of = {id(context): row for row, context in enumerate(contexts)}
        return hidden_PD[rows]

    def _extend(self, contexts: Sequence[TokenSequence]) -> Tensor:
        """Drop the rows of contexts that ended and feed the new tokens of the others; returns hidden states [B, D]."""
        rows = [self._row_of[id(context)] for context in contexts]
        self._select(rows)
        self._row_of = {id(context): row for row, context in enumerate(contexts)}
        return self._feed(contexts)

    def _select(self, rows: list[int]) -> None:
        """Continue with these rows, which may repeat and are renumbered; drops columns that no row needs."""
        is_same = rows == self._rows == list(range(len(self._cached_length)))
        if is_same and self._is_valid_BL.shape[1] == int(self._is_valid_BL.sum(1).max()):
            return
        blocks = [CachedRows(self._cache, self._is_valid_BL, self._rows), *self._waiting]
        (selected,) = gathered(blocks, [rows], self._new_cache)
        self._cache, self._is_valid_BL, self._waiting = selected.cache, selected.is_valid_BL, []
        self._rows = list(range(len(rows)))
        self._next_position_B1 = self._next_position_B1[rows]
        self._cached_length = [self._cached_length[row] for row in rows]
        self._cached_images = [self._cached_images[row] for row in rows]

    def _let_wait(self, is_open: list[bool]) -> None:
        """Remove the closed rows from the computation until the next turn."""
        rows = [[row for row, each in zip(self._rows, is_open, strict=True) if each is kept] for kept in (True, False)]
        kept, closed = gathered([CachedRows(self._cache, self._is_valid_BL, self._rows)], rows, self._new_cache)
        self._waiting.append(closed)
        self._cache, self._is_valid_BL, self._rows = kept.cache, kept.is_valid_BL, kept.rows

    def _feed(self, contexts: Sequence[TokenSequence]) -> Tensor:
        """Feed every row the tokens of its context, at most K, that the cache lacks.

        Their positions follow the row's last position. A row with fewer than K new tokens in the block [B, K] leaves
        holes in the cache, which the mask always hides.

        Returns:
            Hidden state [B, D] of each row's last token.
        """
        network = self.network
        grown = zip(contexts, self._cached_length, self._cached_images, strict=True)
        new = [
            TokenSequence(context.ids[n:], context.is_trained[n:], context.logprobs[n:], context.images[n_images:])
            for context, n, n_images in grown
        ]
        batch = network.collate(new)
        is_new_BK, images = batch.is_valid_BT, batch.images
        grids = [network.image_grid(viewed.image.size) for sequence in new for viewed in sequence.images]
        grid_O3 = torch.tensor(grids, device=network.device) if grids else None
        positions_3BK = network.positions(batch.input_ids_BT, is_new_BK, grid_O3) + self._next_position_B1
        encoded = network.encode_images(images.images_N, images.keys_N)[0] if images.images_N else None
        self._is_valid_BL = torch.cat([self._is_valid_BL, is_new_BK], dim=1)
        # Only the last token of a row is read.
        last_B = torch.arange(len(contexts), device=network.device) * is_new_BK.shape[1] + is_new_BK.sum(1) - 1
        inputs = batch.input_ids_BT, self._is_valid_BL.int(), positions_3BK, encoded, images.occurrences
        hidden_1BD = network.hidden_states(*inputs, self._cache, read_M=last_B)
        # An image's patches share a time and spread over rows and columns: text continues after the largest position.
        self._next_position_B1 = positions_3BK.amax(0).masked_fill(~is_new_BK, -1).amax(1, keepdim=True) + 1
        self._cached_length = [len(context) for context in contexts]
        self._cached_images = [len(context.images) for context in contexts]
        return hidden_1BD[0]

    def _decode(self, contexts: Sequence[TokenSequence], hidden_BD: Tensor) -> list[Completion]:
        end_id, pad_id = self.network.conversation.end_of_turn_id, self.network.pad_id
        is_open_B = torch.ones(len(contexts), dtype=torch.bool, device=hidden_BD.device)
        is_inside_B = torch.zeros_like(is_open_B)
        budget_B = torch.tensor(
            [self.network.conversation.max_context_tokens - len(context) for context in contexts],
            device=hidden_BD.device,
        ).clamp(max=self.sampling.max_new_tokens)
        ids_TB: list[Tensor] = []
        logprobs_TB: list[Tensor] = []
        is_open_TB: list[Tensor] = []
        for step in range(int(budget_B.max())):
            is_open_B = is_open_B & (budget_B > step)
            if not bool(is_open_B.any()):
                break
            rows = self._rows  # rows whose turn may be open; B counts all rows
            ids_B = torch.full_like(budget_B, pad_id)
            logprobs_B = torch.zeros(len(contexts), device=hidden_BD.device)
            ids_B[rows], logprobs_B[rows] = self._draw(hidden_BD, is_inside_B[rows])
            if self._calls is not None:
                is_inside_B = self._calls.after(is_inside_B, ids_B)
            ids_B = torch.where(is_open_B, ids_B, pad_id)
            ids_TB.append(ids_B)
            logprobs_TB.append(logprobs_B)
            is_open_TB.append(is_open_B)
            if self._on_tokens is not None and not self._on_tokens(_open_ids(ids_B, is_open_B)):
                break
            is_open_B = is_open_B & (ids_B != end_id)
            is_open = is_open_B[rows].tolist()
            if any(is_open):
                if sum(is_open) <= _MAX_OPEN * len(rows):
                    self._let_wait(is_open)
                hidden_BD = self._step(ids_B[self._rows], is_open_B[self._rows])
        return self._completions(ids_TB, logprobs_TB, is_open_TB, end_id)

    def _draw(self, hidden_BD: Tensor, is_inside_B: Tensor) -> tuple[Tensor, Tensor]:
        logits_BV = self.network.logits(hidden_BD)
        temperature: float | Tensor = self.sampling.temperature
        if self.sampling.call_temperature is not None:
            temperature = torch.where(is_inside_B, self.sampling.call_temperature, self.sampling.temperature)[:, None]
        if self.sampling.temperature == 0:
            log_distribution_BV = logits_BV.log_softmax(-1)
            ids_B = logits_BV.argmax(-1)
        else:
            log_distribution_BV = (logits_BV / temperature).log_softmax(-1)
            ids_B = draw(log_distribution_BV.exp(), self._generator)
        return ids_B, log_distribution_BV.gather(-1, ids_B[:, None]).squeeze(-1)

    def _step(self, ids_B: Tensor, is_open_B: Tensor) -> Tensor:
        """Feed one token to every open row; closed rows get a hole. Returns hidden states [B, D]."""
        self._is_valid_BL = torch.cat([self._is_valid_BL, is_open_B[:, None]], dim=1)
        positions_3B1 = self._next_position_B1[self._rows].expand(3, -1, -1)
        hidden_B1D = self.network.hidden_states(
            ids_B[:, None], self._is_valid_BL.int(), positions_3B1, None, (), self._cache
        )
        self._next_position_B1[self._rows] += is_open_B[:, None].long()
        for row, is_open in zip(self._rows, is_open_B.tolist(), strict=True):
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


def draw(probabilities_BV: Tensor, generator: torch.Generator) -> Tensor:
    """Draw an index [B] from each row, by the place of a uniform number among the cumulative sums."""
    sums_BV = probabilities_BV.cumsum(-1, dtype=torch.float64)
    uniform_B1 = torch.rand(len(sums_BV), 1, dtype=torch.float64, device=sums_BV.device, generator=generator)
    # Strictly below the total, so that rounding never selects an index of probability 0 at the end.
    below_B1 = torch.minimum(
        uniform_B1 * sums_BV[:, -1:], torch.nextafter(sums_BV[:, -1:], torch.zeros_like(uniform_B1))
    )
    return torch.searchsorted(sums_BV, below_B1, right=True).squeeze(-1)


def _open_ids(ids_B: Tensor, is_open_B: Tensor) -> list[int | None]:
    return [token if is_open else None for token, is_open in zip(ids_B.tolist(), is_open_B.tolist(), strict=True)]
