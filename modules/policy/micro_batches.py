"""Splits sequences into micro-batches: as few as a budget of tokens allows, and as equal as possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cv_lightning.types import TokenSequence
from modules.policy.packed_row import PromptGroup, group_of, prompt_groups

#: Largest share of padding in a micro-batch of a model that cannot pack.
_MAX_PADDING = 0.05


def packed_micro_batches(
    sequences: Sequence[TokenSequence], budget: int, image_token_id: int, agree: Callable[[int], int] = lambda n: n
) -> list[list[int]]:
    """Split sequences into packed rows.

    Sequences that share a prompt stay together unless they exceed the budget. Then they are split, and each part
    computes the prompt.

    Args:
        sequences: Sequences with their prompts.
        budget: Tokens of a row; a longer sequence has a row of its own. 0 for one row of everything.
        image_token_id: The placeholder of images.
        agree: Maps the number of rows needed here to the number of rows to make, such as the maximum over all ranks.

    Returns:
        Indices into `sequences` for each row; a row is empty if `agree` gives more rows than are needed.
    """
    groups = prompt_groups(sequences, image_token_id)
    if budget:
        groups = [part for group in groups for part in _divided(group, sequences, budget)]
    sizes = [group.n_tokens for group in groups]
    bins = filled(sizes, budget or sum(sizes))
    n_rows = agree(len(bins))
    even = evened(sizes, n_rows)
    if not budget or all(len(each) == 1 or sum(sizes[i] for i in each) <= budget for each in even):
        bins = even
    rows = [sorted(member for place in each for member in groups[place].members) for each in bins]
    return rows + [[] for _ in range(n_rows - len(rows))]


def _divided(group: PromptGroup, sequences: Sequence[TokenSequence], budget: int) -> list[PromptGroup]:
    """The fewest parts of at most `budget` tokens, each with the prompt; a longer sequence is a part of its own."""
    if group.n_tokens <= budget:
        return [group]
    sizes = [len(sequences[index]) - group.n_prompt for index in group.members]
    return [
        group_of(sequences, [group.members[place] for place in part], group.n_prompt, group.n_images)
        for part in filled(sizes, budget - group.n_prompt)
    ]


def padded_micro_batches(
    sequences: Sequence[TokenSequence], budget: int, agree: Callable[[int], int] = lambda n: n
) -> list[list[int]]:
    """Split sequences into padded batches of similar lengths; see `packed_micro_batches`.

    At most 5 % of a batch is padding, unless everything is one batch.
    """
    parts: list[list[int]] = []
    n_tokens = area = 0
    for index in sorted(range(len(sequences)), key=lambda index: -len(sequences[index])):
        length = len(sequences[index])
        grown = area + len(sequences[parts[-1][0]]) if parts else 0
        if parts and (not budget or (grown <= budget and n_tokens + length >= (1 - _MAX_PADDING) * grown)):
            parts[-1].append(index)
            n_tokens, area = n_tokens + length, grown
        else:
            parts.append([index])
            n_tokens = area = length
    return [sorted(part) for part in parts] + [[] for _ in range(agree(len(parts)) - len(parts))]


def filled(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """First fit, largest first: bins of at most `budget`; a larger size has a bin of its own.

    Returns:
        Indices into `sizes`, ascending in each bin.
    """
    bins: list[list[int]] = []
    loads: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        place = next((i for i, load in enumerate(loads) if load + sizes[index] <= budget), len(bins))
        if place == len(bins):
            bins.append([])
            loads.append(0)
        bins[place].append(index)
        loads[place] += sizes[index]
    return [sorted(each) for each in bins]


def evened(sizes: Sequence[int], n_bins: int) -> list[list[int]]:
    """Bins of similar load: each size, largest first, goes into the least loaded bin; no bin is empty.

    Returns:
        Indices into `sizes`, ascending in each bin; fewer than `n_bins` bins if there are fewer sizes.
    """
    bins: list[list[int]] = [[] for _ in range(min(n_bins, len(sizes)))]
    loads = [0] * len(bins)
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        place = loads.index(min(loads))
        bins[place].append(index)
        loads[place] += sizes[index]
    return [sorted(each) for each in bins]
