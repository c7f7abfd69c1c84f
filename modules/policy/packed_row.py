"""Packs sequences in one row without padding; a prompt that several of them share is computed once.

The row of a group is its prompt, then the rest of each member: [prompt, r1 .. rG]. A member sees the prompt and
itself, at the positions that it would have alone. Groups follow one another in the row and do not see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cv_lightning.types import TokenSequence
from modules.policy.row_attention import RowAttention, Segment, attention_of


@dataclass(frozen=True)
class PromptGroup:
    """Sequences with the same prompt.

    Attributes:
        members: Their indices.
        n_prompt: Tokens of the shared prompt; 0 for a single sequence.
        n_images: Images in the shared prompt.
        n_tokens: Tokens of all members, with the prompt counted once.
    """

    members: tuple[int, ...]
    n_prompt: int
    n_images: int
    n_tokens: int


def prompt_groups(sequences: Sequence[TokenSequence], image_token_id: int) -> list[PromptGroup]:
    """Find the sequences that share a prompt: equal tokens and images before the first trained token."""
    members: dict[object, list[int]] = {}
    prompts: dict[object, tuple[int, int]] = {}
    for index, sequence in enumerate(sequences):
        n_prompt = sequence.is_trained.index(True) if True in sequence.is_trained else 0
        ids = sequence.ids[:n_prompt]
        is_image = [token_id == image_token_id for token_id in ids]
        n_images = sum(one and not before for before, one in zip([False, *is_image], is_image, strict=False))
        images = tuple(viewed.key for viewed in sequence.images[:n_images])
        key: object = (tuple(ids), images) if n_prompt else index
        members.setdefault(key, []).append(index)
        prompts[key] = n_prompt, n_images
    return [group_of(sequences, found, *prompts[key]) for key, found in members.items()]


def group_of(sequences: Sequence[TokenSequence], members: Sequence[int], n_prompt: int, n_images: int) -> PromptGroup:
    """The group of sequences that share a prompt; a single sequence shares nothing."""
    if len(members) == 1:
        n_prompt = n_images = 0
    n_tokens = n_prompt + sum(len(sequences[index]) - n_prompt for index in members)
    return PromptGroup(tuple(members), n_prompt, n_images, n_tokens)


@dataclass(frozen=True)
class PackedRow:
    """One row of S tokens that holds the B sequences of a padded batch [B, T].

    Attributes:
        source_S: Index in the flattened batch of each token of the row; a shared token has that of the first member.
        place_BT: Index in the row of each token of the batch; 0 for padding.
        occurrences: For each image of the row, its index among the images of the batch, both in reading order.
        attention: Attention of the row.
        n_alone: Sequences that share no prompt.
    """

    source_S: Tensor
    place_BT: Tensor
    occurrences: list[int]
    attention: RowAttention
    n_alone: int


def pack_row(
    sequences: Sequence[TokenSequence], image_token_id: int, device: torch.device, dtype: torch.dtype
) -> PackedRow:
    """Pack sequences in a row that is computed on `device` in `dtype`."""
    width = max(map(len, sequences))
    first_image = [0]
    for sequence in sequences:
        first_image.append(first_image[-1] + len(sequence.images))
    place_BT = torch.zeros(len(sequences), width, dtype=torch.long)
    sources: list[Tensor] = []
    segments: list[Segment] = []
    occurrences: list[int] = []
    end = 0

    def add(index: int, start: int, stop: int, prefix: tuple[int, int] = (0, 0)) -> int:
        """Append tokens of a sequence; returns their place in the row."""
        nonlocal end
        sources.append(torch.arange(index * width + start, index * width + stop))
        segments.append(Segment(end, stop - start, *prefix))
        end += stop - start
        return end - (stop - start)

    groups = prompt_groups(sequences, image_token_id)
    for group in groups:
        prompt, first = (0, 0), group.members[0]
        if group.n_prompt:
            prompt = add(first, 0, group.n_prompt), group.n_prompt
            occurrences += range(first_image[first], first_image[first] + group.n_images)
        for index in group.members:
            length = len(sequences[index])
            place = add(index, group.n_prompt, length, prompt)
            place_BT[index, : group.n_prompt] = torch.arange(prompt[0], sum(prompt))
            place_BT[index, group.n_prompt : length] = torch.arange(place, place + length - group.n_prompt)
            occurrences += range(first_image[index] + group.n_images, first_image[index + 1])
    return PackedRow(
        torch.cat(sources).to(device),
        place_BT.to(device),
        occurrences,
        attention_of(segments, device, dtype),
        sum(len(group.members) == 1 for group in groups),
    )
